"""Instructions: resolved for each request, sent in front of the history, never stored in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agentkit import Agent, Handoff, RunContext
from agentkit.events import AgentEvent, ModelRequestEvent
from agentkit.history.compaction import SlidingWindow
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    UserPromptPart,
)
from agentkit.persistence import InMemoryCheckpointer, InMemorySession, SQLiteSession
from agentkit.testing import ReplayModel, ScriptedModel, call
from agentkit.tracing.reading import read_events
from agentkit.tracing.replay import replay

pytestmark = pytest.mark.anyio


async def look() -> str:
    """Look."""
    return "seen"


def system(messages: Sequence[ModelMessage]) -> list[str]:
    """Every system text of a conversation."""
    return [part.content for m in messages for part in m.parts if isinstance(part, SystemPromptPart)]


def sent(model: ScriptedModel) -> list[list[str]]:
    """The system texts of each request."""
    return [system(recorded.messages) for recorded in model.calls]


def old_history(text: str) -> tuple[ModelMessage, ...]:
    """A conversation as earlier versions stored it: with the instructions in its first message."""
    return (
        ModelRequest((SystemPromptPart(text), UserPromptPart("one"))),
        ModelResponse((TextPart("first"),)),
    )


async def test_they_lead_every_request_and_are_in_no_stored_message() -> None:
    model, session, keeper = ScriptedModel([call("look"), "one", "two"]), InMemorySession(), InMemoryCheckpointer()
    agent = Agent(model, tools=[look], instructions="Be brief.", checkpointer=keeper)
    first = await agent.run("a", session=session)
    second = await agent.run("b", session=session)
    assert sent(model) == [["Be brief."]] * 3
    assert model.calls[0].messages == (ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("a"))),)
    assert all(isinstance(recorded.messages[0].parts[0], SystemPromptPart) for recorded in model.calls)
    assert first.messages[0] == ModelRequest((UserPromptPart("a"),))
    assert system(second.messages) == system((await session.load()).messages) == []
    assert system((await keeper.load(second.run_id)).state.messages) == []


async def test_an_agent_that_goes_on_with_the_messages_of_another_one_keeps_to_its_own() -> None:
    first = await Agent(ScriptedModel(["Hello."]), instructions="You are A.").run("hi")
    model = ScriptedModel(["Bye."])
    await Agent(model, instructions="You are B.").run("and now?", message_history=first.messages)
    assert sent(model) == [["You are B."]]


@pytest.mark.parametrize("text", ["You are B.", "You are A."])
async def test_a_history_of_an_earlier_version_gets_no_second_instructions(text: str) -> None:
    model = ScriptedModel(["second"])
    result = await Agent(model, instructions="You are B.").run("two", message_history=old_history(text))
    assert sent(model) == [["You are B."]]
    assert result.messages[:2] == old_history(text)
    if text == "You are B.":
        assert model.calls[0].messages[0] is result.messages[0]  # what was evaluated of it stays valid


async def test_without_instructions_a_history_is_sent_as_it_is() -> None:
    model = ScriptedModel(["second"])
    await Agent(model).run("two", message_history=old_history("You are A."))
    assert sent(model) == [["You are A."]]


async def test_a_session_that_an_earlier_version_began_goes_on(tmp_path: Path) -> None:
    session = SQLiteSession(tmp_path / "runs.db", "s")
    await session.append(old_history("Be kind."), "")
    model = ScriptedModel(["second"])
    await Agent(model, instructions="Be kind.").run("two", session=session)
    assert sent(model) == [["Be kind."]]


async def test_a_run_that_an_earlier_version_stored_goes_on() -> None:
    agent = Agent(ScriptedModel([call("look"), "done"]), tools=[look], instructions="Be kind.")
    async with agent.iter("one") as run:
        await run.advance()
        await run.advance()
        state = run.state
    asked = ModelRequest((SystemPromptPart("Be kind."), UserPromptPart("one")))
    model = ScriptedModel(["done"])
    with agent.override(model=model):
        result = await agent.resume(replace(state, messages=(asked, *state.messages[1:])))
    assert (result.output, sent(model)) == ("done", [["Be kind."]])


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_function_is_asked_before_every_request(kind: str) -> None:
    def plain(context: RunContext[str]) -> str:
        return f"{context.deps} at step {context.step}"

    async def waiting(context: RunContext[str]) -> str:
        return plain(context)

    model = ScriptedModel([call("look"), "done"])
    agent = Agent(model, tools=[look], instructions=plain if kind == "sync" else waiting, deps_type=str)
    await agent.run("x", deps="Ann")
    assert sent(model) == [["Ann at step 0"], ["Ann at step 1"]]


async def test_a_function_without_a_text_sends_none() -> None:
    model = ScriptedModel(["done"])
    await Agent(model, instructions=lambda context: "").run("x")
    assert sent(model) == [[]]


async def test_the_same_text_is_the_same_message_in_all_requests_and_runs() -> None:
    """A model knows again what it has evaluated by the message's identity."""
    model = ScriptedModel([call("look"), "one", "two", "other"])
    agent = Agent(model, tools=[look], instructions=lambda context: "Be brief.")
    first = await agent.run("a")
    await agent.run("b", message_history=first.messages)
    await agent.run("a")
    one, two, three, other = (recorded.messages[0] for recorded in model.calls)
    assert one is two is three
    assert other is not one  # another conversation: it may have other tools


async def test_after_a_hand_off_the_other_agents_are_sent() -> None:
    its_model = ScriptedModel([call("look"), "Done."])

    async def told(context: RunContext[None]) -> str:
        return "You pay back."

    other = Agent(its_model, tools=[look], instructions=told, name="refunds")
    model = ScriptedModel([call("transfer_to_refunds", task="Refund 7.")])
    agent = Agent(model, handoffs=[Handoff(other)], instructions="You are the desk.", name="desk")
    result = await agent.run("Money back!")
    assert (sent(model), sent(its_model)) == ([["You are the desk."]], [["You pay back."]] * 2)
    assert its_model.calls[0].messages[0] is its_model.calls[1].messages[0]
    assert system(result.messages) == []


async def test_they_lead_what_is_shown_of_a_long_conversation() -> None:
    async def look(n: int) -> str:
        """Look at something long."""
        return "x " * 100

    window = SlidingWindow(max_tokens=50, keep_tokens=10)
    model = ScriptedModel([*[call("look", n=n) for n in range(12)], "done"])
    await Agent(model, tools=[look], instructions="Be brief.", compaction=window).run("the task")
    assert sent(model) == [["Be brief."]] * 13
    assert len(model.calls[-1].messages) < 25


async def test_events_tell_them_once_and_again_where_they_change(tmp_path: Path) -> None:
    events: list[AgentEvent] = []
    model = ScriptedModel([call("look"), call("look"), "done", "more"])

    def told(context: RunContext[None]) -> str:
        return "early" if context.step < 2 else "late"

    agent = Agent(model, tools=[look], instructions=told, on_event=events.append)
    result = await agent.run("x")
    requests = [event for event in events if isinstance(event, ModelRequestEvent)]
    assert [system(event.messages) for event in requests] == [["early"], [], []]
    assert [event.instructions for event in requests] == [None, None, "late"]
    events.clear()
    await agent.run("y", message_history=result.messages)
    (request,) = (event for event in events if isinstance(event, ModelRequestEvent))
    assert (system(request.messages), request.instructions) == ([], "early")


async def test_a_trace_can_be_replayed(tmp_path: Path) -> None:
    script = [call("look"), "done"]
    agent = Agent(ScriptedModel(script), tools=[look], instructions="Be brief.", trace=tmp_path)
    result = await agent.run("x")
    trace = tmp_path / f"{result.run_id}.jsonl"
    model = ScriptedModel(script)
    assert await replay([event for _, event in read_events(trace)], model) == (2, None)
    assert sent(model) == [["Be brief."]] * 2
    with agent.override(model=ReplayModel(trace)):
        assert (await agent.run("x")).output == "done"
