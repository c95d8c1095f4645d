"""An effect takes place once for each decision, in every arrangement of agents: approval, kill and resume.

The promises, one a test: never without a decision; once after an approval, however often that is delivered; asked
again, as another attempt, where the outcome is unknown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, RunContext, RunState, UserError, tool
from agentkit.approvals.pending import Decision
from agentkit.errors import ApprovalRequired
from agentkit.messages import ModelResponse, TextPart
from agentkit.persistence import (
    InMemoryCheckpointer,
    RunJournal,
    SQLiteCheckpointer,
    state_from_json,
    state_to_json,
)
from agentkit.results import RunResult
from agentkit.testing import FunctionModel, call
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, Killed, World, approvals, by_turns, told

pytestmark = pytest.mark.anyio


@pytest.fixture(params=ARRANGEMENTS, ids=lambda each: each.name)
def arrangement(request: pytest.FixtureRequest) -> Iterator[Arrangement]:
    if request.param.needs_code:
        pytest.importorskip("pydantic_monty")
    yield request.param


class Case:
    """One run, each of whose processes builds its agents anew."""

    def __init__(self, arrangement: Arrangement, journal: Path | None, **pay: Any) -> None:
        self.world = World()
        self._arrangement = arrangement
        self._journal = journal
        self._pay = pay

    def agent(self) -> Agent[None, str]:
        calls = [call("pay", amount=5)]
        return self._arrangement.build([self.world.pay(**self._pay)], calls, self._journal)

    async def start(self) -> RunResult[str]:
        return await self.agent().run("pay 5")

    async def resume(self, at: RunState, *decisions: Decision) -> RunResult[str]:
        """In a new process: from the journal if there is one, else from what was written down of the state."""
        run = at.run_id if self._journal is not None else state_from_json(state_to_json(at))
        return await self.agent().resume(run, decisions)

    async def redeliver(self, at: RunState, *decisions: Decision) -> None:
        """Resume with decisions that were delivered before; an error that says so is as good as no effect."""
        with contextlib.suppress(UserError):
            await self.resume(at, *decisions)


@pytest.fixture(params=["journal", "state"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "runs.db" if request.param == "journal" else None


async def test_nothing_happens_without_a_decision_and_once_with_it(
    arrangement: Arrangement, kept: Path | None
) -> None:
    case = Case(arrangement, kept, asks=True)
    stopped = await case.start()
    for _ in range(3):
        assert (stopped.status, case.world.paid) == ("needs_approval", [])
        (waiting,) = stopped.pending
        assert (waiting.tool_name, waiting.arguments, waiting.kind) == ("pay", '{"amount":5}', "approval")
        stopped = await case.resume(stopped.state)
    result = await case.resume(stopped.state, *approvals(stopped.pending))
    assert (result.status, result.output, case.world.paid) == ("completed", "done", [5])
    await case.redeliver(result.state, *approvals(stopped.pending))
    assert case.world.paid == [5]


async def test_a_denied_call_does_not_happen(arrangement: Arrangement, kept: Path | None) -> None:
    case = Case(arrangement, kept, asks=True)
    stopped = await case.start()
    result = await case.resume(stopped.state, stopped.pending[0].deny("too much"))
    assert case.world.paid == []
    assert result.status == "completed"


async def killed(case: Case, *decisions: Decision, run_id: str | None = None) -> str:
    """Run until the process ends in a payment that took effect."""
    case.world.dies_at = 5
    agent = case.agent()
    running = agent.iter("pay 5") if run_id is None else agent.iter_resumed(run_id, decisions)
    async with running as run:
        with pytest.raises(Killed):
            await run.finish()
    case.world.dies_at = None
    return run.state.run_id


@pytest.mark.parametrize("asks", [False, True])
async def test_a_call_that_was_cut_off_is_asked_about_as_another_attempt(
    arrangement: Arrangement, tmp_path: Path, asks: bool
) -> None:
    case = Case(arrangement, tmp_path / "runs.db", asks=asks)
    given: list[Decision] = []
    if asks:
        stopped = await case.start()
        given = list(approvals(stopped.pending))
        run_id = await killed(case, *given, run_id=stopped.run_id)
    else:
        run_id = await killed(case)
    for n in (1, 2, 3):
        assert case.world.paid == [5] * n
        for decisions in (given, [], given):  # the old approval is of another attempt, delivered however often
            stopped = await case.agent().resume(run_id, decisions)
            assert (stopped.status, case.world.paid) == ("needs_approval", [5] * n)
        (waiting,) = stopped.pending
        assert (waiting.tool_name, waiting.kind, waiting.attempt) == ("pay", "unknown", n + 1)
        given = [waiting.approve()]
        if n < 3:
            await killed(case, *given, run_id=run_id)
    result = await case.agent().resume(run_id, given)
    assert (result.status, result.output, case.world.paid) == ("completed", "done", [5] * 4)


async def test_a_call_that_was_cut_off_and_took_effect_is_settled(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    case = Case(arrangement, tmp_path / "runs.db")
    run_id = await killed(case)
    stopped = await case.agent().resume(run_id)
    result = await case.agent().resume(run_id, [stopped.pending[0].settle("paid 5")])
    assert (result.status, result.output, case.world.paid) == ("completed", "done", [5])


async def test_a_call_that_may_be_repeated_is_repeated_without_asking(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    case = Case(arrangement, tmp_path / "runs.db", idempotent=True)
    run_id = await killed(case)
    result = await case.agent().resume(run_id)
    assert (result.status, case.world.paid) == ("completed", [5, 5])


async def test_an_approval_for_the_run_does_not_repeat_a_call_that_was_cut_off(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    case = Case(arrangement, tmp_path / "runs.db", asks=True)
    stopped = await case.start()
    run_id = await killed(case, stopped.pending[0].approve(for_run=True), run_id=stopped.run_id)
    stopped = await case.agent().resume(run_id)
    assert (stopped.status, stopped.pending[0].kind, case.world.paid) == ("needs_approval", "unknown", [5])


async def test_an_approval_of_another_run_decides_nothing(arrangement: Arrangement, tmp_path: Path) -> None:
    """Servers number calls from 0 in every reply, so two runs may have the same call under the same id."""
    case, other = (Case(arrangement, tmp_path / f"{n}.db", asks=True) for n in (1, 2))
    stopped, elsewhere = await case.start(), await other.start()
    decision = elsewhere.pending[0].approve()
    forged = type(decision)(stopped.pending[0].tool_call_id, decision.digest)
    again = await case.resume(stopped.state, forged)
    assert (again.status, case.world.paid) == ("needs_approval", [])


# --- several calls, one after the other --------------------------------------------------------------------------


def teller(world: World, journal: Path | None, *amounts: int, levels: int = 1) -> Agent[None, str]:
    """An agent whose inner one pays one amount after the other; each payment needs an approval."""
    calls = [call("pay", amount=amount) for amount in amounts]
    agent = Agent(by_turns(*calls, "paid"), tools=[world.pay(asks=True)], name="teller")
    for level in range(levels):
        inner = agent.as_tool("Pays.", name=f"inner_{level}")
        agent = Agent(
            by_turns(call(inner.name, task="pay"), "done"),
            tools=[inner],
            name=f"outer_{level}",
            checkpointer=journal if level == levels - 1 else None,
        )
    return agent


@pytest.mark.parametrize("levels", [1, 2])
async def test_each_call_of_an_inner_agent_needs_a_decision_of_its_own(kept: Path | None, levels: int) -> None:
    world = World()

    async def resume(at: RunState, *decisions: Decision) -> RunResult[str]:
        run = at.run_id if kept is not None else state_from_json(state_to_json(at))
        return await teller(world, kept, 5, 6, 7, levels=levels).resume(run, decisions)

    stopped = await teller(world, kept, 5, 6, 7, levels=levels).run("go")
    for n, amount in enumerate((5, 6, 7)):
        first = stopped.pending[0].approve()
        stopped = await resume(stopped.state, first)
        assert world.paid == [5, 6, 7][: n + 1]
        if amount == 7:
            break
        assert stopped.pending[0].arguments == f'{{"amount":{amount + 1}}}'
        stopped = await resume(stopped.state)  # no decision
        with contextlib.suppress(UserError):
            stopped = await resume(stopped.state, first)  # one that is used
        assert world.paid == [5, 6, 7][: n + 1]
    assert (stopped.status, stopped.output) == ("completed", "done")


async def test_one_of_two_inner_calls_that_wait_is_decided(tmp_path: Path) -> None:
    world = World()
    both = [call("pay", amount=5), call("pay", amount=6)]
    inner = Agent(by_turns(both, "paid"), tools=[world.pay(asks=True)], name="teller")
    outer = Agent(
        by_turns(call("teller", task="pay"), "done"),
        tools=[inner.as_tool("Pays.")],
        checkpointer=tmp_path / "runs.db",
    )
    stopped = await outer.run("go")
    assert [each.arguments for each in stopped.pending] == ['{"amount":5}', '{"amount":6}']
    again = await outer.resume(stopped.run_id, [stopped.pending[0].approve()])
    assert (again.status, world.paid) == ("needs_approval", [])
    assert again.pending == stopped.pending[1:]
    result = await outer.resume(stopped.run_id, [again.pending[0].deny("no")])
    assert (result.status, world.paid) == ("completed", [5])


async def test_an_inner_agent_that_was_cut_off_does_not_repeat_what_it_did(tmp_path: Path) -> None:
    """Only the outer agent has a journal: the inner one's steps are in it."""
    world, journal = World(), tmp_path / "runs.db"

    def agent() -> Agent[None, str]:
        replies = call("pay", amount=1), call("pay", amount=2), "paid"
        inner = Agent(by_turns(*replies), tools=[world.pay()], name="teller")
        return Agent(
            by_turns(call("teller", task="pay"), "done"), tools=[inner.as_tool("Pays.")], checkpointer=journal
        )

    world.dies_at = 2
    async with agent().iter("go") as run:
        with pytest.raises(Killed):
            await run.finish()
    world.dies_at = None
    asked = await agent().resume(run.state.run_id)
    assert (asked.pending[0].arguments, asked.pending[0].kind) == ('{"amount":2}', "unknown")
    result = await agent().resume(run.state.run_id, [asked.pending[0].settle("paid 2")])
    assert (result.output, world.paid) == ("done", [1, 2])


async def test_a_run_lists_once_and_takes_its_inner_runs_along(tmp_path: Path) -> None:
    world, keeper = World(), SQLiteCheckpointer(tmp_path / "runs.db")
    stopped = await teller(world, tmp_path / "runs.db", 5, levels=2).run("go")
    assert [run.run_id for run in await keeper.list_runs()] == [stopped.run_id]
    await keeper.delete(stopped.run_id)
    assert await keeper.list_runs() == []


async def test_what_the_inner_agent_was_denied_it_reads_and_goes_on(kept: Path | None) -> None:
    world, seen = World(), list[str]()

    def reply(messages: Any, parameters: Any) -> ModelResponse:
        if len(messages) > 2:
            seen.append(messages[-1].parts[0].content)
            return ModelResponse((TextPart("It was not allowed."),))
        return ModelResponse((call("pay", amount=5),))

    inner = Agent(FunctionModel(reply), tools=[world.pay(asks=True)], name="teller")
    outer = Agent(by_turns(call("teller", task="pay"), "done"), tools=[inner.as_tool("Pays.")], checkpointer=kept)
    stopped = await outer.run("go")
    result = await outer.resume(stopped.state, [stopped.pending[0].deny("too much")])
    assert (seen, told(result), world.paid) == (["Not allowed: too much"], ["It was not allowed."], [])


async def test_a_journal_that_keeps_no_inner_runs_asks_about_the_outer_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its state of the inner run is the one before the approved call, which must not run again by itself."""
    monkeypatch.setattr(
        "agentkit.persistence.in_memory_checkpointer._MemoryJournal.inner_run", RunJournal.inner_run
    )
    world, keeper = World(), InMemoryCheckpointer()

    def agent() -> Agent[None, str]:
        inner = Agent(by_turns(call("pay", amount=5), "paid"), tools=[world.pay(asks=True)], name="teller")
        model = by_turns(call("teller", task="pay"), "done")
        return Agent(model, tools=[inner.as_tool("Pays.")], checkpointer=keeper)

    stopped = await agent().run("go")
    world.dies_at = 5
    async with agent().iter_resumed(stopped.run_id, approvals(stopped.pending)) as run:
        with pytest.raises(Killed):
            await run.finish()
    world.dies_at = None
    for decisions in (approvals(stopped.pending), []):
        asked = await agent().resume(stopped.run_id, decisions)
        assert (asked.status, world.paid) == ("needs_approval", [5])
    assert (asked.pending[0].tool_name, asked.pending[0].kind) == ("teller", "unknown")
    result = await agent().resume(stopped.run_id, [asked.pending[0].settle("paid")])
    assert (result.output, world.paid) == ("done", [5])


async def test_another_attempt_that_is_allowed_for_the_run_runs_once(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    case = Case(arrangement, tmp_path / "runs.db")
    run_id = await killed(case)
    stopped = await case.agent().resume(run_id)
    result = await case.agent().resume(run_id, [stopped.pending[0].approve(for_run=True)])
    assert (result.status, case.world.paid) == ("completed", [5, 5])


# --- tools that ask for themselves -------------------------------------------------------------------------------


async def test_a_tool_that_asks_twice_is_allowed_twice() -> None:
    asked: list[bool] = []

    async def launch(context: RunContext[None]) -> str:
        """Ask for the first stage, then for the second."""
        asked.append(context.approved)
        if len([each for each in asked if each]) < 2:
            raise ApprovalRequired(f"stage {len(asked)}")
        return "launched"

    agent = Agent(by_turns(call("launch"), "done"), tools=[launch])
    first = await agent.run("go")
    second = await agent.resume(first.state, approvals(first.pending))
    assert (second.status, asked) == ("needs_approval", [False, True])
    again = await agent.resume(second.state, approvals(first.pending))  # the first stage's approval
    assert (again.status, asked) == ("needs_approval", [False, True, False])
    result = await agent.resume(again.state, approvals(again.pending))
    assert (result.output, asked) == ("done", [False, True, False, True])


async def test_an_approval_does_not_pass_to_the_same_call_under_the_same_id_in_a_later_reply() -> None:
    world = World()
    pay = replace(call("pay", amount=5), tool_call_id="call_0")
    agent = Agent(by_turns(pay, pay, "done"), tools=[world.pay(asks=True)])
    first = await agent.run("go")
    second = await agent.resume(first.state, approvals(first.pending))
    assert (second.status, world.paid) == ("needs_approval", [5])
    third = await agent.resume(second.state, approvals(first.pending))
    assert (third.status, world.paid) == ("needs_approval", [5])


async def test_an_approval_that_arrives_twice_before_its_call_starts_counts_once(tmp_path: Path) -> None:
    """The process ends between the approval and the call."""
    world = World()

    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        world.paid.append(amount)
        return "paid"

    def agent() -> Agent[None, str]:
        return Agent(
            by_turns(call("pay", amount=5), "done"), tools=[pay], name="payer", checkpointer=tmp_path / "runs.db"
        )

    stopped = await agent().run("go")
    given = approvals(stopped.pending)
    async with agent().iter_resumed(stopped.run_id, given) as run:
        await run.advance()
    assert world.paid == []
    result = await agent().resume(stopped.run_id, given)
    assert (result.output, world.paid) == ("done", [5])
