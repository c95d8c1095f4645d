"""Errors in the middle of a run: one error comes as itself, with what the run had done; finished calls stay so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from agentkit import Agent, AgentRunError, ModelRequest, RunContext, ToolExecutionError, UserError, tool
from agentkit.events import AgentEvent, RunFailedEvent, ToolResultEvent
from agentkit.messages import ToolReturnPart
from agentkit.persistence import InMemoryCheckpointer
from agentkit.run.state import RunState
from agentkit.testing import ScriptedModel, call
from agentkit.tools.function import function_tool
from agentkit.tracing.reading import read_events

pytestmark = pytest.mark.anyio


class Gate:
    """Tools that come to their ends in a fixed order: `quick`, then the one that breaks."""

    def __init__(self, breaks: Callable[[], Any]) -> None:
        self.quick_is_over = anyio.Event()
        self.breaks = breaks

    async def quick(self) -> str:
        return "quick result"

    async def broken(self) -> Any:
        await self.quick_is_over.wait()
        return self.breaks()

    async def slow(self) -> str:
        await anyio.sleep_forever()
        return ""

    def heard(self, event: AgentEvent) -> None:
        if isinstance(event, ToolResultEvent) and event.tool_name == "quick":
            self.quick_is_over.set()

    def tools(self) -> list[Any]:
        return [self.quick, self.broken, self.slow]


class OwnBase(BaseException):
    pass


def raising(error: BaseException) -> Callable[[], Any]:
    def breaks() -> Any:
        raise error

    return breaks


BREAKS: dict[str, tuple[Callable[[], Any], type[BaseException]]] = {
    "undeclared": (raising(ZeroDivisionError("x")), ToolExecutionError),
    "developer's mistake": (raising(UserError("x")), UserError),
    "no JSON form": (object, UserError),
    "base exception": (raising(OwnBase("x")), OwnBase),
}


def answers(error: BaseException) -> dict[str, str]:
    """What the messages of an error say of the calls."""
    messages: Any = cast(Any, error).messages
    assert isinstance(messages[-1], ModelRequest)
    return {part.tool_name: part.text for part in messages[-1].parts if isinstance(part, ToolReturnPart)}


@pytest.mark.parametrize("n_beside", [0, 2])
@pytest.mark.parametrize("what", BREAKS)
async def test_a_tool_that_raises_gives_one_error_also_beside_others(what: str, n_beside: int) -> None:
    breaks, expected = BREAKS[what]
    gate = Gate(breaks)
    if not n_beside:
        gate.quick_is_over.set()
    calls = [call("broken"), call("quick"), call("slow")][: 1 + n_beside]
    agent = Agent(ScriptedModel([calls]), tools=gate.tools(), on_event=gate.heard, on_tool_error="raise")
    with anyio.fail_after(5), pytest.raises(BaseException) as caught:
        await agent.run("x")
    assert type(caught.value) is expected


@pytest.mark.parametrize("n_beside", [0, 1])
async def test_a_listener_that_raises_gives_its_own_error(n_beside: int) -> None:
    def heard(event: AgentEvent) -> None:
        if isinstance(event, ToolResultEvent):
            raise KeyError("listener")

    async def look(n: int) -> str:
        return "seen"

    calls = [call("look", n=n) for n in range(1 + n_beside)]
    agent = Agent(ScriptedModel([calls]), tools=[look], on_event=heard)
    with pytest.raises(KeyError, match="listener") as caught:
        await agent.run("x")
    assert type(caught.value) is KeyError
    assert "seen" in answers(caught.value).values()


@pytest.mark.parametrize("what", ["undeclared", "developer's mistake", "no JSON form"])
async def test_an_error_carries_state_messages_and_usage(what: str) -> None:
    gate = Gate(BREAKS[what][0])
    agent = Agent(
        ScriptedModel([[call("quick"), call("broken"), call("slow")]]),
        tools=gate.tools(),
        on_event=gate.heard,
        on_tool_error="raise",
    )
    with anyio.fail_after(5), pytest.raises((AgentRunError, UserError)) as caught:
        await agent.run("x")
    error = caught.value
    assert isinstance(error.state, RunState)
    assert (error.messages, error.usage) == (error.state.messages, error.state.usage)
    assert error.usage is not None and error.usage.requests == 1
    said = answers(error)
    assert said["quick"] == "quick result"
    assert "may have taken effect" not in said["quick"]
    assert "may or may not have taken effect" in said["slow"]
    assert "may or may not have taken effect" in said["broken"]


async def test_calls_that_had_not_begun_are_said_not_to_have_run() -> None:
    def first() -> str:
        return "first result"

    @tool(sequential=True, on_error="raise")
    def breaks() -> str:
        raise ZeroDivisionError

    @tool(sequential=True)
    def never() -> str:
        raise AssertionError("was run")

    agent = Agent(ScriptedModel([[call("first"), call("breaks"), call("never")]]), tools=[first, breaks, never])
    with pytest.raises(ToolExecutionError) as caught:
        await agent.run("x")
    said = answers(caught.value)
    assert said["first"] == "first result"
    assert said["never"].startswith("Not run")


@pytest.mark.parametrize("what", ["undeclared", "developer's mistake", "no JSON form"])
async def test_a_finished_sibling_keeps_its_result_in_the_journal(what: str) -> None:
    gate = Gate(BREAKS[what][0])
    keeper = InMemoryCheckpointer()
    agent = Agent(
        ScriptedModel([[call("quick"), call("broken")], "done"]),
        tools=gate.tools(),
        on_event=gate.heard,
        on_tool_error="raise",
        checkpointer=keeper,
    )
    with anyio.fail_after(5), pytest.raises((AgentRunError, UserError)) as caught:
        await agent.run("x")
    state = caught.value.state
    assert state is not None
    stored = await keeper.load(state.run_id)
    assert stored.summary.status == "failed"
    assert [part.content for part in stored.state.answers] == ["quick result"]
    assert len(stored.in_flight) == 1
    resumed = await agent.resume(state.run_id)
    assert [pending.tool_name for pending in resumed.pending] == ["broken"]


async def test_a_result_whose_listener_raises_is_kept_in_the_journal() -> None:
    def heard(event: AgentEvent) -> None:
        if isinstance(event, ToolResultEvent):
            raise KeyError("listener")

    def look() -> str:
        return "seen"

    keeper = InMemoryCheckpointer()
    agent = Agent(ScriptedModel([call("look"), "done"]), tools=[look], on_event=heard, checkpointer=keeper)
    with pytest.raises(KeyError) as caught:
        await agent.run("x")
    run_id: str = cast(Any, caught.value).state.run_id
    stored = await keeper.load(run_id)
    assert (stored.summary.status, stored.in_flight) == ("failed", ())
    assert [part.content for part in stored.state.answers] == ["seen"]


async def test_an_untrusted_result_taints_the_state_of_a_failed_turn() -> None:
    gate = Gate(raising(ZeroDivisionError()))
    tools = [replace(function_tool(gate.quick), is_untrusted=True), gate.broken]
    agent = Agent(
        ScriptedModel([[call("quick"), call("broken")]]),
        tools=tools,
        on_event=gate.heard,
        on_tool_error="raise",
    )
    with anyio.fail_after(5), pytest.raises(ToolExecutionError) as caught:
        await agent.run("x")
    assert caught.value.state is not None and caught.value.state.tainted


async def test_a_listener_that_fails_at_the_end_too_hides_neither_the_error_nor_the_trace(tmp_path: Path) -> None:
    def heard(event: AgentEvent) -> None:
        if isinstance(event, RunFailedEvent):
            raise KeyError("listener")

    def breaks() -> str:
        raise ZeroDivisionError

    agent = Agent(
        ScriptedModel([call("breaks")]), tools=[breaks], on_event=heard, trace=tmp_path, on_tool_error="raise"
    )
    with pytest.raises(ToolExecutionError) as caught:
        await agent.run("x")
    assert "KeyError" in "".join(caught.value.__notes__)
    (trace,) = tmp_path.glob("run_*.jsonl")
    *_, (_, last) = read_events(trace)
    assert isinstance(last, RunFailedEvent)


async def test_an_output_validators_own_error_carries_the_run() -> None:
    agent = Agent(ScriptedModel(["hello"]))

    @agent.output_validator
    async def check(_context: RunContext[None], _output: str) -> str:
        raise LookupError("mine")

    with pytest.raises(LookupError) as caught:
        await agent.run("x")
    assert len(cast(Any, caught.value).messages) == 2
