"""Conversations made shorter for the model: what stays, what is kept together, and how a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import Agent, UserError
from agentkit.compaction import SlidingWindow, Summary, choose_cut, is_safe_cut, size, view
from agentkit.events import AgentEvent, CompactionEvent
from agentkit.limits import RequestUsage
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.persistence import InMemoryCheckpointer
from agentkit.repair import repaired
from agentkit.state import Compacted
from agentkit.testing import FunctionModel, ScriptedModel, call

START = ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("the task")))


def turn(n_calls: int, text: str, n: int) -> list[ModelMessage]:
    """A response with calls and their answers, or a text and the next prompt."""
    if not n_calls:
        return [ModelResponse((TextPart(text),)), ModelRequest((UserPromptPart(text),))]
    ids = [f"c{n}.{index}" for index in range(n_calls)]
    calls = tuple(ToolCallPart("look", text, call_id) for call_id in ids)
    return [
        ModelResponse(calls),
        ModelRequest(tuple(ToolReturnPart("look", call_id, text) for call_id in ids)),
    ]


TURNS = st.lists(st.tuples(st.integers(0, 3), st.text(max_size=30)), min_size=1, max_size=12)
CONVERSATIONS = TURNS.map(
    lambda turns: [START, *(message for n, (calls, text) in enumerate(turns) for message in turn(calls, text, n))]
)


@given(CONVERSATIONS, st.integers(0, 400))
def test_no_call_is_parted_from_its_result_and_the_beginning_stays(
    messages: list[ModelMessage], max_chars: int
) -> None:
    cut = choose_cut(messages, 1, max_chars)
    if cut is None:
        assert not any(is_safe_cut(messages, index) for index in range(2, len(messages)))
        return
    shown = view(messages, Compacted(1, cut, "note"))
    assert shown[0] is messages[0]
    assert all(one is other for one, other in zip(shown[2:], messages[cut:], strict=True))
    assert repaired(shown) == tuple(shown)
    tail = sum(size(message) for message in messages[cut:])
    later = [index for index in range(cut + 1, len(messages)) if is_safe_cut(messages, index)]
    assert tail <= max_chars or not later
    earlier = [index for index in range(2, cut) if is_safe_cut(messages, index)]
    assert not earlier or sum(size(message) for message in messages[earlier[-1] :]) > max_chars


@given(CONVERSATIONS, TURNS)
def test_what_is_shown_first_is_shown_again_later(
    messages: list[ModelMessage], more: list[tuple[int, str]]
) -> None:
    """However the conversation grows, two views begin with the same objects: their tokens stay evaluated."""
    grown = [*messages, *(m for n, (calls, text) in enumerate(more) for m in turn(calls, text, 100 + n))]
    for cut in (choose_cut(messages, 1, 50), choose_cut(grown, 1, 50)):
        if cut is not None:
            assert view(grown, Compacted(1, cut, "note"))[0] is messages[0]


def long_talk(n: int) -> FunctionModel:
    """A model that calls a tool n times; it reports as tokens what it was sent in characters."""
    seen: list[Sequence[ModelMessage]] = []

    def reply(messages: Any, parameters: Any) -> ModelResponse:
        seen.append(tuple(messages))
        usage = RequestUsage(input_tokens=sum(map(size, messages)), output_tokens=2)
        part = call("look") if len(seen) <= n else TextPart("done")
        return ModelResponse((part,), usage)

    model = FunctionModel(reply)
    model.seen = seen  # pyright: ignore[reportAttributeAccessIssue]
    return model


async def look() -> str:
    """Look at something long."""
    return "x" * 100


pytestmark = pytest.mark.anyio


async def test_a_long_run_is_shown_shorter_and_kept_whole() -> None:
    events: list[AgentEvent] = []
    model = long_talk(20)
    window = SlidingWindow(max_tokens=600, keep_tokens=300)
    keeper = InMemoryCheckpointer()
    agent = Agent(model, tools=[look], compaction=window, on_event=events.append, checkpointer=keeper)
    result = await agent.run("the task")
    assert len(result.messages) == 42
    seen: list[Sequence[ModelMessage]] = model.seen  # pyright: ignore[reportAttributeAccessIssue]
    assert max(sum(map(size, shown)) for shown in seen) <= 600 + 200
    assert all(shown[0] is seen[0][0] for shown in seen)
    assert all(repaired(shown) == shown for shown in seen)
    notes = [event for event in events if isinstance(event, CompactionEvent)]
    assert 3 <= len(notes) <= 8  # seldom, and much at once
    last = notes[-1].compacted
    assert last.note == f"{last.cut - last.n_first} earlier messages of this conversation are left out."
    assert result.state.compacted is not None
    assert (await keeper.load(result.run_id)).state.compacted == result.state.compacted


async def test_each_summary_takes_up_the_one_before() -> None:
    writer = ScriptedModel(["first summary", "second summary"])
    model = long_talk(12)
    compaction = Summary(max_tokens=600, keep_tokens=200, model=writer)
    result = await Agent(model, tools=[look], compaction=compaction).run("the task")
    assert result.state.compacted is not None
    assert result.state.compacted.note == "Summary of the earlier conversation: second summary"
    asked = [recorded.messages[0].parts[1].content for recorded in writer.calls]  # pyright: ignore[reportAttributeAccessIssue]
    assert "assistant calls look {}" in asked[0] and "look gives: xxx" in asked[0]
    assert asked[1].startswith("Summary of the earlier conversation: first summary\n")
    writer.assert_complete()


async def test_a_short_conversation_is_left_alone() -> None:
    writer = ScriptedModel([])
    compaction = Summary(max_tokens=10_000, keep_tokens=100, model=writer)
    result = await Agent(long_talk(5), tools=[look], compaction=compaction).run("the task")
    assert result.state.compacted is None


@pytest.mark.parametrize("bounds", [{"keep_tokens": 10}, {"keep_tokens": 0}, {"n_first": 0}])
def test_bounds_between_which_nothing_fits_are_refused(bounds: dict[str, int]) -> None:
    window = SlidingWindow(max_tokens=10, keep_tokens=5)
    with pytest.raises(UserError):
        replace(window, **bounds)
