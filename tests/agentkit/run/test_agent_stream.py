"""Streams of events: errors come as they are, a run waits for a reader that is behind."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from agentkit import Agent, AgentRunError, ModelError, RunContext, UsageLimits, UserError
from agentkit.events import (
    AgentEvent,
    ModelResponseEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
    ToolCallEvent,
    ToolProgressEvent,
)
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters, OnDelta, TextDelta
from agentkit.persistence import InMemorySession
from agentkit.run.event_buffer import EventBuffer
from agentkit.testing import FunctionModel, ScriptedModel, call

pytestmark = pytest.mark.anyio


async def test_what_the_run_raises_leaves_the_context_as_it_is() -> None:
    agent = Agent(ScriptedModel([ModelError("the server is gone")]))
    with pytest.raises(AgentRunError, match="gone") as caught:
        async with agent.run_stream("x") as stream:
            async for _ in stream:
                pass
    assert type(caught.value) is ModelError
    assert caught.value.messages == (ModelRequest((UserPromptPart("x"),)),)


async def test_the_readers_own_error_leaves_the_context_as_it_is_and_cancels_the_run() -> None:
    cancelled = anyio.Event()

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    agent = Agent(ScriptedModel([call("wait")]), tools=[wait])
    mine = KeyError("mine")
    with anyio.fail_after(5), pytest.raises(KeyError) as caught:
        async with agent.run_stream("x") as stream:
            async for event in stream:
                if isinstance(event, ToolCallEvent):
                    raise mine
    assert caught.value is mine and cancelled.is_set()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
async def test_an_exit_of_the_program_is_not_wrapped_either(raised: type[BaseException]) -> None:
    caught: BaseException | None = None
    try:
        async with Agent(ScriptedModel(["hello"])).run_stream("x"):
            raise raised
    except BaseException as error:
        caught = error
    assert type(caught) is raised


async def test_a_cancelled_reader_cancels_the_run() -> None:
    async def wait() -> None:
        await anyio.sleep_forever()

    agent = Agent(ScriptedModel([call("wait")]), tools=[wait])
    with anyio.move_on_after(0.05) as scope:
        async with agent.run_stream("x") as stream:
            await stream.finish()
    assert scope.cancelled_caught


async def test_the_result_of_a_failed_run_is_its_error() -> None:
    with pytest.raises(ModelError, match="gone"):
        async with Agent(ScriptedModel([ModelError("gone")])).run_stream("x") as stream:
            with pytest.raises(ModelError):
                await stream.finish()
            _ = stream.result


async def test_a_stream_that_cannot_begin_says_so_and_a_read_one_has_no_more_events() -> None:
    history = [ModelRequest((UserPromptPart("hello"),))]
    with pytest.raises(UserError, match="message_history and session"):
        async with Agent(ScriptedModel([])).run_stream("x", message_history=history, session=InMemorySession()):
            pass
    async with Agent(ScriptedModel(["hello"])).run_stream("x") as stream:
        assert (await stream.finish()).output == "hello"
        assert [event async for event in stream] == []
    assert [event async for event in stream] == []


async def test_a_run_waits_for_a_reader_that_is_behind() -> None:
    n_calls = 0

    def forever(_messages: Sequence[ModelMessage], _parameters: ModelRequestParameters) -> ModelResponse:
        nonlocal n_calls
        n_calls += 1
        return ModelResponse((call("look", n=n_calls) if n_calls < 5_000 else TextPart("done"),))

    async def look(n: int) -> str:
        return "nothing"

    agent = Agent(FunctionModel(forever), tools=[look])
    async with agent.run_stream("x", limits=UsageLimits(request_limit=None)) as stream:
        await anyio.wait_all_tasks_blocked()
        n_before = n_calls
        assert n_before < 1_000
        events = [event async for event in stream]
    assert n_calls == 5_000
    assert sum(isinstance(event, ModelResponseEvent) for event in events) == 5_000


async def test_deltas_are_joined_for_a_reader_that_is_behind_and_only_then() -> None:
    class Talkative(ScriptedModel):
        async def request(
            self,
            messages: Sequence[ModelMessage],
            parameters: ModelRequestParameters,
            *,
            on_delta: OnDelta | None = None,
        ) -> ModelResponse:
            assert on_delta is not None
            for number in range(100_000):
                on_delta(TextDelta(f"{number} "))
            return ModelResponse((TextPart("done"),))

    async with Agent(Talkative([])).run_stream("x") as stream:
        await anyio.wait_all_tasks_blocked()
        events = [event async for event in stream]
    texts = [event.text for event in events if isinstance(event, TextDeltaEvent)]
    assert len(texts) < 2_000
    assert texts[:3] == ["0 ", "1 ", "2 "]
    assert "".join(texts) == "".join(f"{number} " for number in range(100_000))


async def test_what_may_be_joined_is_joined_in_order() -> None:
    buffer = EventBuffer(1)
    pushed: list[AgentEvent] = [
        TextDeltaEvent("a"),
        TextDeltaEvent("b"),
        ThinkingDeltaEvent("c"),
        ThinkingDeltaEvent("d"),
        ToolCallDeltaEvent(0, "look", "{"),
        ToolCallDeltaEvent(0, None, "}"),
        ToolCallDeltaEvent(1, None, "{"),
        ToolCallDeltaEvent(1, "find", "}"),
        ToolProgressEvent("look", "1", 0.1),
        ToolProgressEvent("look", "1", 0.2),
        ToolProgressEvent("look", "2", 0.1),
        TextDeltaEvent("e"),
    ]
    for event in pushed:
        buffer.push(event)
    buffer.end()
    read: list[AgentEvent] = []
    while (event := await buffer.next()) is not None:
        read.append(event)
    assert read == [
        TextDeltaEvent("ab"),
        ThinkingDeltaEvent("cd"),
        ToolCallDeltaEvent(0, "look", "{}"),
        ToolCallDeltaEvent(1, "find", "{}"),
        ToolProgressEvent("look", "1", 0.2),
        ToolProgressEvent("look", "2", 0.1),
        TextDeltaEvent("e"),
    ]


async def test_an_event_of_a_worker_thread_reaches_a_reader_that_waits() -> None:
    def report(context: RunContext[None]) -> str:
        context.report_progress(1, 2, "half")
        return "done"

    agent = Agent(ScriptedModel([call("report"), "done"]), tools=[report])
    with anyio.fail_after(5):
        async with agent.run_stream("x") as stream:
            said: list[Any] = [e.message async for e in stream if isinstance(e, ToolProgressEvent)]
    assert said == ["half"]


async def test_a_stream_that_is_left_early_leaves_nothing_behind() -> None:
    async with Agent(ScriptedModel(["hello"])).run_stream("x"):
        pass
    gc.collect()  # warnings of what was not closed are errors
