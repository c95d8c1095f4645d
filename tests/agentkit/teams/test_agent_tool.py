"""An agent that works for another one: its answer, its budget, its approvals, and a crash in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from agentkit import Agent, RunContext, UsageLimits, UserError, tool
from agentkit.guardrails import Block, Verdict, input_guardrail
from agentkit.messages import ModelRequest, ModelResponse, ToolReturnPart
from agentkit.results import RunResult
from agentkit.testing import FunctionModel, ScriptedModel, call

pytestmark = pytest.mark.anyio


def told(result: RunResult[Any]) -> list[str]:
    parts = (part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts)
    return [part.text for part in parts if isinstance(part, ToolReturnPart)]


def by_turns(*replies: Any) -> FunctionModel:
    """A model that knows from the conversation alone how far it is."""

    def reply(messages: Any, parameters: Any) -> ModelResponse:
        n_said = sum(isinstance(message, ModelResponse) for message in messages)
        return ScriptedModel([])._as_response(replies[n_said], messages)  # pyright: ignore[reportPrivateUsage]

    return FunctionModel(reply)


async def test_an_agent_answers_another_one_and_sees_its_deps() -> None:
    async def whoami(context: RunContext[str]) -> str:
        """Say who asks."""
        return context.deps

    inner = Agent(ScriptedModel([call("whoami"), "It is Ann."]), tools=[whoami], deps_type=str, name="clerk")
    asks = ScriptedModel([call("clerk", task="Who is it?"), "Ann."])
    outer = Agent(asks, tools=[inner.as_tool("Knows people.")])
    result = await outer.run("who?", deps="Ann")  # pyright: ignore[reportArgumentType]
    assert (result.output, told(result)) == ("Ann.", ["It is Ann."])


async def test_what_it_uses_counts_for_both() -> None:
    inner = Agent(ScriptedModel(["a b c d"]), name="writer")
    outer = Agent(ScriptedModel([call("writer", task="four words"), "done"]), tools=[inner.as_tool("Writes.")])
    result = await outer.run("go")
    assert (result.usage.requests, result.usage.output_tokens) == (3, 4 + 1 + 3)


async def test_it_has_no_more_than_is_left() -> None:
    """Four requests in all: one for the outer agent to ask, one for it to answer."""
    spent: list[int] = []

    async def dig() -> str:
        """Dig."""
        spent.append(1)
        return "earth"

    inner = Agent(by_turns(*[call("dig")] * 9, "never"), tools=[dig], name="digger")
    outer = Agent(
        ScriptedModel([call("digger", task="dig"), "enough"]),
        tools=[inner.as_tool("Digs.")],
        limits=UsageLimits(request_limit=4),
    )
    result = await outer.run("go")
    assert (len(spent), result.output, result.usage.requests) == (1, "enough", 4)


async def test_a_structured_answer_is_json() -> None:
    class Size(BaseModel):
        width: int

    inner = Agent(ScriptedModel(['{"width": 3}']), output_type=Size, name="ruler")
    outer = Agent(ScriptedModel([call("ruler", task="measure"), "three"]), tools=[inner.as_tool("Measures.")])
    assert told(await outer.run("go")) == ['{"width":3}']


async def test_an_agent_that_refuses_says_so() -> None:
    @input_guardrail
    def no(text: str, context: RunContext[Any]) -> Verdict:
        return Block("no")

    inner = Agent(ScriptedModel([]), guardrails=[no], name="prim")
    outer = Agent(ScriptedModel([call("prim", task="x"), "pity"]), tools=[inner.as_tool("Refuses.")])
    assert told(await outer.run("go")) == ["A guardrail refused the task or the answer."]


@pytest.mark.parametrize("journal", [False, True])
async def test_a_call_of_its_own_that_needs_approval_makes_the_outer_call_wait(
    tmp_path: Path, journal: bool
) -> None:
    paid: list[int] = []

    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    kept = tmp_path / "runs.db" if journal else None
    inner = Agent(by_turns(call("pay", amount=5), "It is paid."), tools=[pay], name="payer", checkpointer=kept)
    outer = Agent(by_turns(call("payer", task="pay 5"), "done"), tools=[inner.as_tool("Pays.")], checkpointer=kept)
    stopped = await outer.run("pay")
    assert (stopped.status, paid) == ("needs_approval", [])
    assert stopped.pending[0].reason == 'payer wants to run pay {"amount":5}: its tool needs approval'
    result = await outer.resume(stopped.state, [stopped.pending[0].approve()])
    assert (result.output, told(result), paid) == ("done", ["It is paid."], [5])
    assert result.usage.requests == 4  # each counted once


async def test_an_inner_run_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """The process dies in the inner agent's second step; its first one is not repeated."""
    steps: list[str] = []
    inside = anyio.Event()

    async def first() -> str:
        """Step one."""
        steps.append("first")
        return "1"

    @tool
    async def second() -> str:
        """Step two."""
        steps.append("second")
        if steps.count("second") == 1:
            inside.set()
            await anyio.sleep_forever()
        return "2"

    kept = tmp_path / "runs.db"
    inner = Agent(
        by_turns(call("first"), call("second"), "both"), tools=[first, second], name="worker", checkpointer=kept
    )
    outer = Agent(by_turns(call("worker", task="go"), "done"), tools=[inner.as_tool("Works.")], checkpointer=kept)
    run_ids: list[str] = []

    async def go() -> None:
        async with outer.iter("go") as run:
            run_ids.append(run.state.run_id)
            await run.finish()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        await inside.wait()
        tasks.cancel_scope.cancel()
    stopped = await outer.resume(run_ids[0])
    assert stopped.status == "needs_approval"
    assert "may have taken effect; to approve runs it again" in stopped.pending[0].reason
    result = await outer.resume(run_ids[0], [stopped.pending[0].approve()])
    assert (result.output, told(result), steps) == ("done", ["both"], ["first", "second", "second"])


def test_a_tool_needs_a_name() -> None:
    with pytest.raises(UserError, match="needs a name"):
        Agent(ScriptedModel([])).as_tool("Nameless.")
