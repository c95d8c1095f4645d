"""The monitor of a local model in runs: filtered requests and replies, streamed or not, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkit import Agent, LocalModel, ModelSettings, UserError
from agentkit.events import AgentEvent, GuardrailEvent, TextDeltaEvent
from agentkit.messages import ToolReturnPart
from agentkit.models.local.monitor import Monitor
from agentkit.models.resolve import resolve_model
from agentkit.results import RunResult
from agentkit.testing import call
from modelstack.align.monitor.probe import REPLY, REQUEST, Direction, Probe
from modelstack.inference.llama.engine import LlamaCppEngine
from tests.agentkit.arrangements import by_turns

pytestmark = pytest.mark.anyio
NEVER, ALWAYS = 1e9, -1e9
Made = Callable[..., LocalModel]


@pytest.fixture
def fingerprint(tiny_gguf: Path) -> str:
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        return engine.fingerprint


@pytest.fixture
def made(tiny_gguf: Path, tmp_path: Path, fingerprint: str) -> Iterator[Made]:
    """Return a function that makes a model with a monitor of certain thresholds."""
    models: list[LocalModel] = []

    def make(request: float = NEVER, reply: float = NEVER, **changes: Any) -> LocalModel:
        nothing = Direction(np.zeros((1, 64), np.float32), 0.0)
        points = {REQUEST: {"fpr_0.5": request}, REPLY: {"fpr_0.1": reply}}
        probe = Probe((0,), nothing, nothing, 16, points, (fingerprint,))
        probe.save(tmp_path / "monitor.safetensors")
        monitor = Monitor(tmp_path / "monitor.safetensors")
        options: dict[str, Any] = {"n_threads": 1, "n_threads_prefill": 1} | changes
        models.append(LocalModel(tiny_gguf, monitor=monitor, **options))
        return models[-1]

    yield make
    for model in models:
        model.close()


def agent_of(model: LocalModel) -> Agent[None, str]:
    return Agent(model, settings=ModelSettings(max_tokens=24, temperature=1.0, seed=1))


async def events_of(agent: Agent[None, str]) -> tuple[list[AgentEvent], RunResult[str]]:
    async with agent.run_stream("The quick brown fox") as stream:
        events = [event async for event in stream]
        return events, await stream.finish()


async def test_a_monitor_that_finds_nothing_changes_nothing(made: Made, tiny_gguf: Path) -> None:
    plain = LocalModel(tiny_gguf, n_threads=1, n_threads_prefill=1)
    expected = await agent_of(plain).run("The quick brown fox")
    plain.close()
    watched = await agent_of(made()).run("The quick brown fox")
    assert watched.output == expected.output and watched.status == expected.status


@pytest.mark.parametrize("what", ["request", "reply"])
async def test_a_stop_filters_the_run_with_an_event_and_without_text(made: Made, what: str) -> None:
    model = made(request=ALWAYS) if what == "request" else made(reply=ALWAYS)
    events, result = await events_of(agent_of(model))
    assert result.status == "filtered" and result.output_or_none is None
    told = [event for event in events if isinstance(event, GuardrailEvent)]
    assert [(each.stage, each.name, each.verdict) for each in told] == [
        ("input" if what == "request" else "output", "Monitor", "block")
    ]
    assert f"unsafe {what}" in told[0].reason and "probability 0.50" in told[0].reason
    text = "".join(event.text for event in events if isinstance(event, TextDeltaEvent))
    assert (text == "") == (what == "request")
    last = result.messages[-1]
    assert all(not getattr(part, "content", "") for part in last.parts)


async def test_a_conversation_continues_after_a_stop_without_the_stopped_text(made: Made) -> None:
    model = made(reply=ALWAYS)
    agent = agent_of(model)
    first = await agent.run("The lazy dog")
    again = await agent.run("The lazy dog", message_history=first.messages)
    assert first.status == again.status == "filtered"


async def test_checks_are_disabled_one_by_one(made: Made, tmp_path: Path) -> None:
    model = made(request=ALWAYS, reply=ALWAYS)
    model._monitor = Monitor(tmp_path / "monitor.safetensors", requests=None, replies=None)
    assert (await agent_of(model).run("The quick brown fox")).status != "filtered"


async def test_a_monitor_of_another_model_is_refused(made: Made, tmp_path: Path, tiny_lora_gguf: Path) -> None:
    with pytest.raises(UserError, match="another model or adapter"):
        await agent_of(made(lora=tiny_lora_gguf)).run("Hello")
    with pytest.raises(UserError, match="no monitor for 'giant'"):
        await agent_of(LocalModel(tmp_path / "x.gguf", monitor=Monitor("giant"))).run("Hello")


def test_a_monitor_loads_its_model_with_the_layers_that_it_reads(
    made: Made, tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made()
    file = tmp_path / "monitor.safetensors"
    with pytest.raises(UserError, match="does not name its model"):
        Monitor(file).engine()
    monkeypatch.setattr("modelstack.align.monitor.shipped.named_probe", lambda name: Probe.load(file))
    monkeypatch.setattr("agentkit.models.catalog.entries.local_path", lambda model_id: tiny_gguf)
    monitor = Monitor("toy")  # a model without a shipped adapter
    with monitor.engine(threads=1) as engine:
        assert engine.state_layers == monitor.read().layers


def test_a_monitor_is_an_option_of_a_models_name(tiny_gguf: Path) -> None:
    model = resolve_model(f"local:{tiny_gguf}?monitor=tiny-monitor.safetensors")
    assert isinstance(model, LocalModel) and model._monitor == Monitor("tiny-monitor.safetensors")


async def test_a_monitored_model_filters_after_a_hand_off(made: Made) -> None:
    worker = Agent(made(reply=ALWAYS), name="worker", settings=ModelSettings(max_tokens=24))
    front = Agent(by_turns(call("transfer_to_worker", task="Do it.")), handoffs=[worker], name="front")
    assert (await front.run("Hello")).status == "filtered"


async def test_a_monitored_model_behind_a_tool_gives_its_caller_an_error_without_the_text(
    made: Made,
) -> None:
    inner = agent_of(made(reply=ALWAYS)).as_tool("Works.", name="inner")
    outer = Agent(by_turns(call("inner", task="Do it."), "done"), tools=[inner])
    result = await outer.run("Hello")
    (returned,) = [
        part for message in result.messages for part in message.parts if part.part_kind == "tool-return"
    ]
    assert result.output == "done"
    assert isinstance(returned, ToolReturnPart) and returned.is_error
    assert returned.content == "A filter of the agent's model withheld the answer."
