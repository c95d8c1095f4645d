"""History processors change what the model is sent, never what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, ModelResponse, RunContext, UsageLimits, UserError
from agentkit.events import AgentEvent, ModelRequestEvent
from agentkit.history.compaction import SlidingWindow, Summary
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    text_of,
)
from agentkit.persistence import InMemorySession
from agentkit.planning import ModelPlanner
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tracing.jsonl import trace_path
from agentkit.tracing.reading import read_events
from agentkit.tracing.replay import replay
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, World, by_turns

pytestmark = pytest.mark.anyio
Messages = Sequence[ModelMessage]


def texts(messages: Messages) -> list[str]:
    return [text_of(part.content) for m in messages for part in m.parts if not isinstance(part, ToolCallPart)]


def last(n: int) -> Any:
    def keep(messages: Messages, context: RunContext[Any]) -> Messages:
        return messages[-n:]

    return keep


def redact(messages: Messages, context: RunContext[Any]) -> Messages:
    def clean(message: ModelMessage) -> ModelMessage:
        if isinstance(message, ModelRequest):
            return replace(
                message,
                parts=tuple(replace(p, content=text_of(p.content).replace("1234", "****")) for p in message.parts),
            )
        return message

    return [clean(message) for message in messages]


async def look(place: str) -> str:
    """Look."""
    return f"1234 in {place}"


async def test_the_model_is_sent_the_processed_conversation_and_the_whole_one_is_stored() -> None:
    model = ScriptedModel([call("look", place="here"), "done"])
    result = await Agent(model, tools=[look], history_processors=[redact]).run("my code is 1234")
    assert texts(model.calls[1].messages) == ["my code is ****", "**** in here"]
    assert texts(result.messages) == ["my code is 1234", "1234 in here", "done"]


async def test_processors_are_applied_in_order_and_may_be_coroutine_functions() -> None:
    async def thanks(messages: Messages, context: RunContext[Any]) -> Messages:
        return [*messages, ModelRequest((UserPromptPart(f"thanks, {context.deps}"),))]

    model = ScriptedModel(["done"])
    agent = Agent(model, history_processors=[thanks, last(1)], deps_type=str)
    await agent.run("hi", deps="Ann")
    assert texts(model.calls[0].messages) == ["thanks, Ann"]


async def test_instructions_come_after_the_processors() -> None:
    model = ScriptedModel([call("look", place="here"), "done"])
    await Agent(model, tools=[look], instructions="Be kind.", history_processors=[last(2)]).run("hi")
    assert "Be kind." in texts(model.calls[1].messages)


@pytest.mark.parametrize("n", [2, 3])
async def test_a_cut_conversation_keeps_each_call_with_its_result(n: int) -> None:
    model = ScriptedModel([call("look", place="a"), call("look", place="b"), "done"])
    await Agent(model, tools=[look], history_processors=[last(n)]).run("hi")
    for asked in model.calls:
        calls = [c.tool_call_id for m in asked.messages if isinstance(m, ModelResponse) for c in m.tool_calls]
        parts = [p for m in asked.messages if isinstance(m, ModelRequest) for p in m.parts]
        assert calls == [part.tool_call_id for part in parts if isinstance(part, ToolReturnPart)]


async def test_a_processor_that_returns_nothing_is_a_mistake_that_names_it() -> None:
    def drop_all(messages: Messages, context: RunContext[Any]) -> Messages:
        return []

    with pytest.raises(UserError, match="'drop_all' left no message"):
        await Agent(ScriptedModel(["x"]), history_processors=[drop_all]).run("hi")
    model = ScriptedModel([call("look", place="a"), "x"])
    with pytest.raises(UserError, match="Results without their call are removed"):
        await Agent(model, tools=[look], history_processors=[last(1)]).run("hi")


async def test_messages_that_stay_are_the_same_objects() -> None:
    model = ScriptedModel([call("look", place="a"), "done"])
    result = await Agent(model, tools=[look], history_processors=[lambda messages, _: list(messages)]).run("hi")
    assert [id(m) for m in model.calls[1].messages] == [id(m) for m in result.messages[:3]]


async def test_processors_see_the_view_after_compaction() -> None:
    seen: list[list[str]] = []

    def note(messages: Messages, context: RunContext[Any]) -> Messages:
        seen.append(texts(messages))
        return messages

    calls = [call("look", place="word " * 100 + str(n)) for n in range(6)]
    agent = Agent(
        by_turns(*calls, "done"),
        tools=[look],
        history_processors=[note],
        compaction=SlidingWindow(max_tokens=150, keep_tokens=50),
    )
    result = await agent.run("hi")
    assert result.state.compacted is not None
    assert any("are left out" in text for text in seen[-1])


async def test_the_request_for_a_summary_is_processed_too() -> None:
    sent: list[str] = []

    def answer(messages: Any, parameters: Any) -> ModelResponse:
        sent.extend(texts(messages))
        n_said = sum(isinstance(message, ModelResponse) for message in messages)
        made = call("look", place="word " * 100 + str(n_said)) if parameters.tools and n_said < 6 else "done"
        return ScriptedModel([])._as_response(made, messages)  # pyright: ignore[reportPrivateUsage]

    agent = Agent(
        FunctionModel(answer),
        tools=[look],
        history_processors=[redact],
        compaction=Summary(max_tokens=150, keep_tokens=50),
        limits=UsageLimits(request_limit=12),
    )
    result = await agent.run("my code is 1234")
    assert result.state.compacted is not None
    assert any("Summarise" in text for text in sent)
    assert not [text for text in sent if "1234" in text]


async def test_the_request_for_a_plan_is_processed_too() -> None:
    sent: list[str] = []

    def answer(messages: Any, parameters: Any) -> ModelResponse:
        sent.extend(texts(messages))
        plan = '{"steps": []}'
        return ModelResponse((TextPart(plan if parameters.output is not None else "done"),))

    agent = Agent(FunctionModel(answer), tools=[look], history_processors=[redact], planner=ModelPlanner())
    assert (await agent.run("my code is 1234")).output == "done"
    assert len(sent) >= 2 and not [text for text in sent if "1234" in text]


async def test_after_a_hand_off_the_processors_of_the_other_agent_apply() -> None:
    own, other = list[str](), list[str]()

    def noting(into: list[str]) -> Any:
        def note(messages: Messages, context: RunContext[Any]) -> Messages:
            into.extend(texts(messages))
            return messages

        return note

    worker = Agent(by_turns("x", "done"), name="worker", history_processors=[noting(other)])
    front = Agent(
        by_turns(call("transfer_to_worker", task="Do it.")), handoffs=[worker], history_processors=[noting(own)]
    )
    await front.run("hi")
    assert own == ["hi"] and other[-1] == "Do it."


async def test_a_session_stores_the_whole_conversation() -> None:
    session = InMemorySession()
    agent = Agent(ScriptedModel(["one", "two"]), history_processors=[last(1)])
    await agent.run("first", session=session)
    await agent.run("second", session=session)
    assert texts((await session.load()).messages) == ["first", "one", "second", "two"]


async def test_the_request_event_reports_what_is_really_sent() -> None:
    events: list[AgentEvent] = []
    model = ScriptedModel([call("look", place="a"), "done"])
    agent = Agent(
        model, tools=[look], instructions="Be kind.", history_processors=[last(2)], on_event=events.append
    )
    await agent.run("hi")
    first, second = (event for event in events if isinstance(event, ModelRequestEvent))
    assert first.sent is None  # nothing was changed: the event's messages say all
    assert second.sent == model.calls[1].messages


async def test_a_trace_is_replayed_with_the_processed_conversation(tmp_path: Path) -> None:
    def answer(messages: Any, parameters: Any) -> ModelResponse:
        assert len(messages) <= 2 + (messages[0].parts[0].part_kind == "system-prompt")
        said = [m for m in messages if isinstance(m, ModelResponse)]
        return ModelResponse((TextPart("done"),) if said else (call("look", place="a"),))

    agent = Agent(
        FunctionModel(answer), tools=[look], instructions="Be kind.", history_processors=[last(2)], trace=tmp_path
    )
    result = await agent.run("hi")
    events = [event for _, event in read_events(trace_path(tmp_path, result.run_id))]
    assert await replay(events, FunctionModel(answer)) == (2, None)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda each: each.name)
async def test_the_stored_conversation_is_the_same_with_a_processor(
    arrangement: Arrangement, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arrangement.needs_code:
        pytest.importorskip("pydantic_monty")

    def run_with(**more: Any) -> Agent[None, str]:
        plain = Agent.__init__

        def init(self: Any, *args: Any, **options: Any) -> None:
            plain(self, *args, **{**more, **options})

        with monkeypatch.context() as patched:
            patched.setattr(Agent, "__init__", init)
            return arrangement.build([World().pay()], [call("pay", amount=5)], None)

    def shouted(messages: Messages, context: RunContext[Any]) -> Messages:
        return [*messages, ModelRequest((UserPromptPart("LOUD"),))]

    plain = await run_with().run("pay 5")
    processed = await run_with(history_processors=[shouted]).run("pay 5")
    assert texts(plain.messages) == texts(processed.messages)
