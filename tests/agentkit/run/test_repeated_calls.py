"""A model that repeats a call: once in a reply, twice in a run, then it is told, then the tool is withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agentkit import Agent, ToolFailed, UsageLimits, tool
from agentkit.events import AgentEvent, RepeatedCallEvent
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import ModelRequestParameters
from agentkit.persistence import InMemoryCheckpointer
from agentkit.results import RunResult
from agentkit.run.actions import RunTools, ToolOutcomes
from agentkit.run.admission import LoopRules
from agentkit.run.decide import step
from agentkit.run.state import RunState
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tools.definition import ToolAnnotations
from agentkit.tools.function import function_tool
from tests.agentkit.arrangements import by_turns

pytestmark = pytest.mark.anyio


def told(result: RunResult[Any]) -> list[ToolReturnPart]:
    parts = (part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts)
    return [part for part in parts if isinstance(part, ToolReturnPart)]


class Counted:
    """Tools that count their calls."""

    def __init__(self) -> None:
        self.n_paid = 0
        self.n_failed = 0
        self.n_polled = 0
        self.files: list[str] = []

    async def pay(self, amount: int, to: str = "Ann") -> str:
        """Pay."""
        self.n_paid += 1
        return f"paid {amount}"

    async def fail(self, path: str) -> str:
        """Fail."""
        self.n_failed += 1
        raise ToolFailed(f"no file {path}")

    async def poll(self) -> str:
        """Say how far it is."""
        self.n_polled += 1
        return f"{self.n_polled} of 9"

    async def look(self) -> str:
        """List the files."""
        return ", ".join(self.files) or "none"

    async def write(self, name: str) -> str:
        """Write a file."""
        self.files.append(name)
        return f"wrote {name}"


async def test_equal_calls_of_one_reply_run_once_and_each_gets_the_result() -> None:
    does = Counted()
    events: list[AgentEvent] = []
    calls = [
        ToolCallPart("pay", '{"amount": 5, "to": "Bo"}', "c1"),
        ToolCallPart("pay", '{"amount": 6, "to": "Bo"}', "c2"),
        ToolCallPart("pay", '{"to":"Bo","amount":5}', "c3"),
    ]
    agent = Agent(ScriptedModel([calls, "done"]), tools=[does.pay], on_event=events.append)
    result = await agent.run("pay")
    first, other, copy = told(result)
    assert does.n_paid == 2
    assert (first.content, other.content) == ("paid 5", "paid 6")
    assert [part.tool_call_id for part in (first, other, copy)] == ["c1", "c2", "c3"]
    assert copy.text.startswith("paid 5\n[") and copy.data == "paid 5" and not copy.is_error
    assert [event for event in events if isinstance(event, RepeatedCallEvent)] == [
        RepeatedCallEvent("pay", "c3", "c1", "copied")
    ]


async def test_a_copy_of_a_call_that_waits_is_asked_about_once() -> None:
    does = Counted()
    pay = replace(function_tool(does.pay), requires_approval=True)
    agent = Agent(by_turns([call("pay", amount=5), call("pay", amount=5)], "done"), tools=[pay])
    stopped = await agent.run("pay")
    assert len(stopped.pending) == 1
    result = await agent.resume(stopped.state, [stopped.pending[0].approve()])
    assert (does.n_paid, len(told(result)), result.output) == (1, 2, "done")


async def test_copies_of_a_rejected_call_count_as_one_retry() -> None:
    calls = [call("pay", amount="five")] * 4
    calls = [ToolCallPart("pay", each.arguments, f"c{n}") for n, each in enumerate(calls)]
    does = Counted()
    result = await Agent(ScriptedModel([calls, call("pay", amount=5), "done"]), tools=[does.pay]).run("pay")
    assert (does.n_paid, result.state.disabled_tools) == (1, ())


@pytest.mark.parametrize("name", ["pay", "fail"])
async def test_a_call_that_gave_the_same_twice_is_not_run_again_and_then_its_tool_is_withdrawn(name: str) -> None:
    does = Counted()
    events: list[AgentEvent] = []
    again = call("pay", amount=5) if name == "pay" else call("fail", path="x")
    model = ScriptedModel([again, again, again, again, "I give up."])
    agent = Agent(model, tools=[does.pay, does.fail], on_event=events.append)
    result = await agent.run("x")
    assert does.n_paid + does.n_failed == 2
    assert (result.output, result.status) == ("I give up.", "completed")
    parts = told(result)
    assert parts[2].text.startswith("Not run: the same call was made 2 times")
    assert parts[3].text.endswith(f"{name!r} cannot be called any more in this run.")
    assert len(result.repeated_calls) == 2 and result.state.disabled_tools == (name,)
    kinds = [event.kind for event in events if isinstance(event, RepeatedCallEvent)]
    assert kinds == ["told", "withdrawn"]
    offered = [{each.name for each in asked.parameters.callable_tools} for asked in model.calls]
    assert offered == [{"pay", "fail"}] * 4 + [{"pay", "fail"} - {name}]


async def test_many_equal_calls_in_each_reply_run_twice_in_all() -> None:
    does = Counted()
    replies = [[ToolCallPart("fail", '{"path": "x"}', f"c{turn}_{n}") for n in range(8)] for turn in range(4)]
    result = await Agent(ScriptedModel([*replies, "done"]), tools=[does.fail]).run("x")
    assert (does.n_failed, len(told(result)), result.output) == (2, 32, "done")


async def test_a_tool_whose_result_changes_is_not_hit() -> None:
    does = Counted()
    result = await Agent(by_turns(*[call("poll")] * 9, "done"), tools=[does.poll]).run("x")
    assert (does.n_polled, result.repeated_calls, result.output) == (9, (), "done")


async def test_a_tool_may_allow_repeats() -> None:
    n_rolled = 0

    @tool(allows_repeats=True)
    async def roll() -> int:
        """Roll a die."""
        nonlocal n_rolled
        n_rolled += 1
        return 4

    turns = [[call("roll"), call("roll")]] * 3
    result = await Agent(by_turns(*turns, "done"), tools=[roll]).run("x")
    assert (n_rolled, result.repeated_calls) == (6, ())


async def test_a_call_runs_again_after_something_new_was_done() -> None:
    does = Counted()
    turns = (call("look"), call("look"), call("write", name="a"), call("look"))
    result = await Agent(by_turns(*turns, "done"), tools=[does.look, does.write]).run("x")
    assert told(result)[-1].content == "a" and result.repeated_calls == ()


async def test_a_read_only_call_between_does_not_hide_a_repetition() -> None:
    does = Counted()
    look = function_tool(does.look)
    annotations = ToolAnnotations(read_only=True)
    reads = replace(look, definition=replace(look.definition, annotations=annotations))
    turns = (call("pay", amount=5), call("pay", amount=5), call("look"), call("pay", amount=5))
    await Agent(by_turns(*turns, "done"), tools=[does.pay, reads]).run("x")
    assert does.n_paid == 2


async def test_calls_that_take_turns_are_repetitions_too() -> None:
    does = Counted()
    turns = [call("pay", amount=5), call("look")] * 3
    result = await Agent(by_turns(*turns, "done"), tools=[does.pay, does.look]).run("x")
    assert (does.n_paid, len(result.repeated_calls)) == (2, 2)


async def test_a_resumed_run_decides_alike() -> None:
    does = Counted()
    keeper = InMemoryCheckpointer()
    fails = True

    def model(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        n = sum(isinstance(message, ModelResponse) for message in messages)
        if n == 3 and fails:
            raise RuntimeError("gone")
        return ModelResponse((TextPart("done"),) if n == 4 else (call("pay", amount=5),))

    agent = Agent(FunctionModel(model), tools=[does.pay], checkpointer=keeper)
    with pytest.raises(RuntimeError):
        await agent.run("x")
    (run,) = await keeper.list_runs()
    fails = False
    result = await agent.resume(run.run_id)
    assert (does.n_paid, len(result.repeated_calls), result.state.disabled_tools) == (2, 2, ("pay",))


async def test_a_model_that_goes_on_with_a_withdrawn_tool_meets_the_limit_of_failures() -> None:
    does = Counted()
    asked: list[ModelRequestParameters] = []

    def model(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        asked.append(parameters)
        said = TextPart("no more") if parameters.tool_choice == "none" else call("pay", amount=5)
        return ModelResponse((said,))

    result = await Agent(FunctionModel(model), tools=[does.pay], limits=UsageLimits(request_limit=50)).run("x")
    assert (does.n_paid, result.status, result.output) == (2, "limit_reached", "no more")
    assert len(asked) == 8


def test_equal_calls_of_earlier_runs_and_other_agents_are_not_counted() -> None:
    rules = LoopRules(max_retries={"add": 1})
    state, _ = step(RunState(), ModelRequest((UserPromptPart("x"),)), rules)
    for n in range(2):
        state, _ = step(state, ModelResponse((ToolCallPart("add", "{}", f"c{n}"),)), rules)
        state, _ = step(state, ToolOutcomes((ToolReturnPart("add", f"c{n}", "3"),), 1), rules)
    response = ModelResponse((ToolCallPart("add", " {} ", "c9"),))
    _, action = step(state, response, rules)
    assert isinstance(action, RunTools) and not action.calls
    fresh, _ = step(
        RunState(messages=state.messages, n_history=len(state.messages)),
        ModelRequest((UserPromptPart("again"),)),
        rules,
    )
    _, action = step(fresh, response, rules)
    assert isinstance(action, RunTools) and len(action.calls) == 1
