"""One budget for a run and its inner runs: counted while they go on, and both runs' limits hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from agentkit import Agent, UsageLimits, tool
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolReturnPart
from agentkit.models.base import ModelRequestParameters
from agentkit.results import RunResult
from agentkit.testing import FunctionModel, call
from agentkit.tools.definition import ToolAnnotations
from tests.agentkit.arrangements import Killed, by_turns

pytestmark = pytest.mark.anyio


class Digger:
    """A sub-agent that digs for as long as it may, and counts its requests."""

    def __init__(self, name: str, limits: UsageLimits | None = None) -> None:
        self.n_requests = 0
        self.n_dug = 0
        self.agent = Agent(FunctionModel(self._reply), tools=[self.dig], name=name, limits=limits or UsageLimits())

    async def dig(self, depth: int) -> str:
        """Dig."""
        self.n_dug += 1
        await anyio.lowlevel.checkpoint()
        return f"earth from {depth}"

    async def _reply(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        self.n_requests += 1
        await anyio.lowlevel.checkpoint()
        if parameters.tool_choice == "none":
            return ModelResponse((TextPart("as deep as I could"),))
        return ModelResponse((call("dig", depth=self.n_requests),))


def outer_of(*diggers: Digger, limits: UsageLimits, **options: Any) -> Agent[None, str]:
    asks = [call(f"digger_{n}", task="dig") for n in range(len(diggers))]
    tools = [digger.agent.as_tool("Digs.", name=f"digger_{n}") for n, digger in enumerate(diggers)]
    return Agent(by_turns(asks, "done"), tools=tools, limits=limits, **options)


def told(result: RunResult[Any]) -> list[str]:
    parts = (part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts)
    return [part.text for part in parts if isinstance(part, ToolReturnPart)]


@pytest.mark.parametrize(("own", "outer", "expected"), [(3, 50, 3), (50, 5, 3), (3, 200, 3), (None, 5, 3)])
async def test_the_smaller_of_an_inner_runs_own_limit_and_the_outer_budget_holds(
    own: int | None, outer: int, expected: int
) -> None:
    digger = Digger("digger", UsageLimits(request_limit=own))
    result = await outer_of(digger, limits=UsageLimits(request_limit=outer)).run("go")
    assert (digger.n_requests, result.output, result.usage.requests) == (expected, "done", expected + 2)


async def test_sub_agents_side_by_side_share_one_budget() -> None:
    diggers = [Digger(f"digger {n}") for n in range(4)]
    result = await outer_of(*diggers, limits=UsageLimits(request_limit=10)).run("go")
    assert sum(digger.n_requests for digger in diggers) == 8
    assert (result.usage.requests, result.output, result.status) == (10, "done", "limit_reached")
    assert told(result) == ["as deep as I could"] * 4


async def test_a_sub_agent_for_which_no_request_is_left_makes_none() -> None:
    diggers = [Digger(f"digger {n}") for n in range(4)]
    result = await outer_of(*diggers, limits=UsageLimits(request_limit=3)).run("go")
    assert sum(digger.n_requests for digger in diggers) == 1
    assert (result.usage.requests, result.output) == (3, "done")
    assert sum("used up its budget" in text for text in told(result)) == 3


async def test_tool_calls_of_sub_agents_side_by_side_share_one_budget() -> None:
    diggers = [Digger(f"digger {n}") for n in range(3)]
    limits = UsageLimits(request_limit=None, tool_calls_limit=8)
    result = await outer_of(*diggers, limits=limits).run("go")
    assert (sum(digger.n_dug for digger in diggers), result.usage.tool_calls) == (5, 8)


async def test_tokens_of_sub_agents_side_by_side_share_one_budget() -> None:
    from agentkit.usage import RequestUsage

    async def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        await anyio.lowlevel.checkpoint()
        said = TextPart("so far") if parameters.tool_choice == "none" else call("dig", depth=len(messages))
        return ModelResponse((said,), RequestUsage(output_tokens=10))

    diggers = [Digger(f"digger {n}") for n in range(2)]
    for digger in diggers:
        digger.agent = Agent(FunctionModel(reply), tools=[digger.dig], name="digger")
    limits = UsageLimits(request_limit=None, output_tokens_limit=60)
    result = await outer_of(*diggers, limits=limits).run("go")
    assert sum(digger.n_dug for digger in diggers) <= 7
    assert result.usage.output_tokens <= 100  # the limit, and one more turn and one answer of each


async def test_a_budget_holds_through_agents_inside_of_agents() -> None:
    digger = Digger("digger")
    inner = outer_of(digger, limits=UsageLimits(request_limit=40))
    outer = Agent(
        by_turns(call("middle", task="go"), "done"),
        tools=[inner.as_tool("Delegates.", name="middle")],
        limits=UsageLimits(request_limit=9),
    )
    result = await outer.run("go")
    assert (digger.n_requests, result.usage.requests, result.output) == (5, 9, "done")


@pytest.mark.parametrize("journal", [False, True])
async def test_after_an_approval_earlier_usage_counts_once(tmp_path: Path, journal: bool) -> None:
    paid: list[int] = []

    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    async def look(page: int) -> str:
        """Look."""
        return f"page {page}"

    asks = (call("look", page=1), call("look", page=2), call("pay", amount=5), call("look", page=3), "It is paid.")
    inner = Agent(by_turns(*asks), tools=[pay, look], name="payer", limits=UsageLimits(request_limit=6))
    outer = Agent(
        by_turns(call("payer", task="pay 5"), "done"),
        tools=[inner.as_tool("Pays.")],
        limits=UsageLimits(request_limit=8),
        checkpointer=tmp_path / "runs.db" if journal else None,
    )
    stopped = await outer.run("pay")
    assert stopped.usage.requests == 4
    result = await outer.resume(stopped.state, [stopped.pending[0].approve()])
    assert (told(result), paid, result.usage.requests) == (["It is paid."], [5], 7)
    assert result.usage.tool_calls == 5


async def test_what_an_inner_run_used_before_a_crash_counts_once(tmp_path: Path) -> None:
    dies = True

    async def look(page: int) -> str:
        """Look."""
        if page == 2 and dies:
            raise Killed
        return f"page {page}"

    looking = tool(annotations=ToolAnnotations(read_only=True))(look)

    def outer() -> Agent[None, str]:
        inner = Agent(
            by_turns(call("look", page=1), call("look", page=2), "Both."), tools=[looking], name="reader"
        )
        asks = by_turns(call("reader", task="read"), "done")
        return Agent(asks, tools=[inner.as_tool("Reads.")], checkpointer=tmp_path / "runs.db", name="outer")

    agent = outer()
    run_id = ""
    with pytest.raises(Killed):
        async with agent.iter("go") as run:
            run_id = run.state.run_id
            await run.finish()
    dies = False
    result = await outer().resume(run_id)
    assert (result.output, told(result)) == ("done", ["Both."])
    assert (result.usage.requests, result.usage.tool_calls) == (5, 3)
