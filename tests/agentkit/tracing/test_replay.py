"""Runs asked again: the same model says the same, and what differs is found at its first token."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, LocalModel, ModelSettings, UsageLimits, UserError, tool
from agentkit.errors import UnexpectedModelBehavior
from agentkit.events import AgentEvent, ModelResponseEvent
from agentkit.history.compaction import SlidingWindow
from agentkit.messages import ModelRequest, UserPromptPart
from agentkit.planning import PlanTemplate, TemplateStep
from agentkit.testing import ReplayModel, ScriptedModel, call
from agentkit.tracing.jsonl import trace_path
from agentkit.tracing.reading import read_events
from agentkit.tracing.replay import replay

pytestmark = pytest.mark.anyio
N_RUNS = 100


async def look(place: str, deep: bool = False) -> str:
    """Look somewhere."""
    return f"nothing in {place}"


async def count(n: int) -> list[int]:
    """Count."""
    return list(range(n % 5))


@pytest.fixture
def tiny(tiny_gguf: Path) -> Iterator[LocalModel]:
    """A model of each test's own: conversations of other tests in its cache would move the last bits of sums."""
    model = LocalModel(tiny_gguf, context_window=1024)
    yield model
    model.close()


def traced(folder: Path, run_id: str) -> list[AgentEvent]:
    return [event for _, event in read_events(trace_path(folder, run_id))]


async def test_a_hundred_runs_replay_without_a_difference(
    tiny: LocalModel, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Greedy and sampled, with tools and without, by a model that has none of the first one's cache."""
    chance = random.Random(0)
    again = LocalModel(tiny_gguf, context_window=1024)
    n_replies = 0
    for number in range(N_RUNS):
        settings = ModelSettings(
            temperature=chance.choice([0.0, 0.0, 0.7, 1.5]),
            top_p=chance.choice([None, 0.9]),
            seed=number,
            max_tokens=chance.choice([12, 24, 48]),
            tool_choice=chance.choice([None, "required"]),
        )
        agent = Agent(
            tiny,
            tools=chance.choice([[look, count], [look], []]),
            settings=settings,
            limits=UsageLimits(request_limit=3),
            trace=tmp_path,
        )
        prompt = " ".join(chance.choices(["red", "2", "blue", "look", "count", "to"], k=6))
        result = await agent.run(prompt)
        events = traced(tmp_path, result.run_id)
        n_same, found = await replay(events, again)
        assert found is None
        assert n_same == sum(isinstance(event, ModelResponseEvent) for event in events) == result.usage.requests
        n_replies += n_same
    assert n_replies > N_RUNS
    again.close()


async def test_a_trace_holds_all_tokens_of_a_conversation(tiny: LocalModel, tmp_path: Path) -> None:
    """Prompt and reply tokens in order are the conversation as the model evaluated it, nothing twice."""
    settings = ModelSettings(max_tokens=24, tool_choice="required")
    agent = Agent(tiny, tools=[look], settings=settings, trace=tmp_path, limits=UsageLimits(request_limit=3))
    result = await agent.run("look around")
    responses = [event for event in traced(tmp_path, result.run_id) if isinstance(event, ModelResponseEvent)]
    assert len(responses) > 1
    n_ids = 0
    for event in responses:
        tokens = event.tokens
        assert tokens is not None
        n_ids += len(tokens.new_prompt_ids)
        assert n_ids == tokens.n_prompt == event.response.usage.input_tokens
        n_ids += len(tokens.reply_ids)
        assert len(tokens.reply_ids) == len(tokens.logprobs) == len(tokens.legal_counts)
        assert all(n == 1 for p, n in zip(tokens.logprobs, tokens.legal_counts, strict=True) if p is None)


async def changed(
    tiny: LocalModel, folder: Path, change: Callable[[list[dict[str, Any]]], None]
) -> tuple[int, Any]:
    """Trace a run of two replies, change its lines, and replay it."""
    settings = ModelSettings(max_tokens=24, tool_choice="required")
    agent = Agent(tiny, tools=[look], settings=settings, trace=folder, limits=UsageLimits(request_limit=2))
    path = trace_path(folder, (await agent.run("look around")).run_id)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return await replay([event for _, event in read_events(path)], tiny)


async def test_the_first_token_that_differs_is_named(tiny: LocalModel, tmp_path: Path) -> None:
    def change(lines: list[dict[str, Any]]) -> None:
        last = [line for line in lines if line["event_kind"] == "model_response"][-1]
        last["tokens"]["reply_ids"][3] += 1

    n_same, found = await changed(tiny, tmp_path, change)
    assert (n_same, found.step, found.what, found.token) == (1, 2, "reply", 3)


async def test_another_prompt_other_weights_and_other_tools_are_told_apart(
    tiny: LocalModel, tmp_path: Path
) -> None:
    def prompt(lines: list[dict[str, Any]]) -> None:
        lines[1]["messages"][0]["parts"][0]["content"] = "look away"

    def weights(lines: list[dict[str, Any]]) -> None:
        lines[2]["tokens"]["engine"] = "0" * 64

    def tools(lines: list[dict[str, Any]]) -> None:
        lines[1]["tools"][0]["parameters_json_schema"]["properties"].pop("deep")

    for change, what in ((prompt, "prompt"), (weights, "weights"), (tools, "grammar")):
        n_same, found = await changed(tiny, tmp_path / what, change)
        assert (n_same, found.step, found.what) == (0, 1, what)


async def test_a_run_that_was_compacted_replays(tiny_gguf: Path, tmp_path: Path) -> None:
    first, again = (LocalModel(tiny_gguf, context_window=1024) for _ in range(2))
    agent = Agent(
        first,
        tools=[look],
        settings=ModelSettings(max_tokens=24),
        planner=PlanTemplate([TemplateStep(f"Look {n}.", "look") for n in range(4)]),
        compaction=SlidingWindow(max_tokens=150, keep_tokens=40),
        trace=tmp_path,
    )
    result = await agent.run("look around " * 10)
    assert result.state.compacted is not None
    n_same, found = await replay(traced(tmp_path, result.run_id), again)
    assert (n_same, found) == (result.usage.requests, None)


async def test_what_a_trace_does_not_hold_cannot_be_replayed(tmp_path: Path) -> None:
    history = (ModelRequest((UserPromptPart("before"),)),)
    result = await Agent(ScriptedModel(["x"]), trace=tmp_path).run("now", message_history=history)
    with pytest.raises(UserError, match="earlier runs"):
        await replay(traced(tmp_path, result.run_id), ScriptedModel(["x"]))


# --- without the model ------------------------------------------------------------------------------------


async def test_a_trace_takes_a_models_place(tmp_path: Path) -> None:
    ran: list[int] = []

    @tool
    async def add(a: int, b: int) -> int:
        """Add."""
        ran.append(a + b)
        return a + b

    first = await Agent(ScriptedModel([call("add", a=1, b=2), "3"]), tools=[add], trace=tmp_path).run("1 + 2?")
    path = trace_path(tmp_path, first.run_id)
    again = await Agent(ReplayModel(path), tools=[add]).run("1 + 2?")
    assert (again.output, ran) == ("3", [3, 3])
    with pytest.raises(UnexpectedModelBehavior, match=r"then it asked .*1 \+ 2"):
        await Agent(ReplayModel(path), tools=[add]).run("2 + 2?")
    with pytest.raises(UnexpectedModelBehavior, match="has 2 responses"):
        model = ReplayModel(path)
        await Agent(model, tools=[add]).run("1 + 2?")
        await Agent(model, tools=[add]).run("1 + 2?")
