"""Runs that stop for an approval, or because their process did, and go on elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentkit import Agent, RunContext, ToolAnnotations, ToolExecutionError, UserError, tool
from agentkit.approvals.pending import Approve, PendingCall, canonical_arguments
from agentkit.errors import ApprovalRequired, CheckpointError
from agentkit.events import AgentEvent, ApprovalRequestedEvent, RunResumedEvent
from agentkit.history.repair import repaired
from agentkit.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart
from agentkit.persistence import InMemoryCheckpointer, SQLiteCheckpointer, state_from_json, state_to_json
from agentkit.results import RunResult
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tools.function import function_tool
from agentkit.tools.json_schema import compile_schema

pytestmark = pytest.mark.anyio


class Bank:
    """Something in the world: what was transferred, and what was looked at."""

    def __init__(self) -> None:
        self.transfers: list[tuple[str, int]] = []
        self.looks = 0

    def tools(self, rule: Any = True) -> list[Any]:
        @tool(requires_approval=rule)
        async def transfer(to: str, amount: int) -> str:
            """Transfer money."""
            self.transfers.append((to, amount))
            return f"{amount} sent to {to}"

        async def balance() -> int:
            """Look at the balance."""
            self.looks += 1
            return 100

        return [transfer, balance]


def script(*replies: Any) -> FunctionModel:
    """A model that knows from the conversation alone how far it is, as a process that resumes must."""

    def reply(messages: Any, parameters: Any) -> ModelResponse:
        n_said = sum(isinstance(message, ModelResponse) for message in messages)
        scripted = ScriptedModel([replies[n_said]])
        return scripted._as_response(replies[n_said], messages)  # pyright: ignore[reportPrivateUsage]

    return FunctionModel(reply)


def returns(result: RunResult[Any]) -> list[ToolReturnPart]:
    return [
        part
        for message in result.messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    ]


async def test_a_call_waits_until_it_is_approved_in_another_process(tmp_path: Path) -> None:
    bank, model = Bank(), script(call("transfer", to="Ann", amount=5), "done")

    def agent() -> Agent[None, str]:
        return Agent(model, tools=bank.tools(), checkpointer=tmp_path / "runs.db")

    stopped = await agent().run("pay Ann", metadata={"user": "7"})
    assert (stopped.status, stopped.output_or_none, bank.transfers) == ("needs_approval", None, [])
    (waiting,) = stopped.pending
    assert (waiting.tool_name, waiting.arguments) == ("transfer", '{"amount":5,"to":"Ann"}')
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    assert [run.run_id for run in await keeper.list_runs(status="needs_approval")] == [stopped.run_id]

    still = await agent().resume(stopped.run_id)
    assert (still.status, still.pending, bank.transfers) == ("needs_approval", stopped.pending, [])
    result = await agent().resume(stopped.run_id, [waiting.approve()])
    assert (result.status, result.output, bank.transfers) == ("completed", "done", [("Ann", 5)])
    again = await agent().resume(stopped.run_id)
    assert (again.output, again.messages, bank.transfers) == ("done", result.messages, [("Ann", 5)])


async def test_a_state_alone_is_enough_to_go_on() -> None:
    bank = Bank()
    agent = Agent(script(call("transfer", to="Ann", amount=5), "done"), tools=bank.tools())
    stored = state_to_json((await agent.run("pay Ann")).state)
    state = state_from_json(stored)
    result = await agent.resume(state, [state.pending[0].approve()])
    assert (result.output, bank.transfers) == ("done", [("Ann", 5)])


async def test_a_denial_tells_the_model_why() -> None:
    bank = Bank()
    agent = Agent(script(call("transfer", to="Ann", amount=5), "sorry"), tools=bank.tools())
    stopped = await agent.run("pay Ann")
    result = await agent.resume(stopped.state, [stopped.pending[0].deny("too much")])
    assert (result.output, bank.transfers) == ("sorry", [])
    (told,) = returns(result)
    assert (told.content, told.is_error) == ("Not allowed: too much", True)


async def test_nothing_of_a_response_runs_while_one_of_its_calls_waits() -> None:
    bank = Bank()
    calls = [call("balance"), call("transfer", to="Ann", amount=5)]
    agent = Agent(script(calls, "done"), tools=bank.tools())
    stopped = await agent.run("look and pay")
    assert (bank.looks, bank.transfers) == (0, [])
    result = await agent.resume(stopped.state, [stopped.pending[0].deny()])
    assert (bank.looks, bank.transfers) == (1, [])
    assert [part.tool_name for part in returns(result)] == ["balance", "transfer"]


async def test_an_approval_of_some_arguments_does_not_allow_others() -> None:
    bank = Bank()
    agent = Agent(
        script(call("transfer", to="Ann", amount=5), call("transfer", to="Eve", amount=500), "done"),
        tools=bank.tools(),
    )
    stopped = await agent.run("pay Ann")
    again = await agent.resume(stopped.state, [stopped.pending[0].approve()])
    assert (again.status, bank.transfers) == ("needs_approval", [("Ann", 5)])
    assert again.pending[0].arguments == '{"amount":500,"to":"Eve"}'


async def test_the_same_call_once_more_asks_once_more() -> None:
    bank, pay = Bank(), call("transfer", to="Ann", amount=5)
    agent = Agent(script(pay, replace(pay, tool_call_id="second"), "done"), tools=bank.tools())
    stopped = await agent.run("pay Ann twice")
    again = await agent.resume(stopped.state, [stopped.pending[0].approve()])
    assert (again.status, bank.transfers) == ("needs_approval", [("Ann", 5)])


async def test_an_approval_does_not_pass_to_a_call_that_was_changed_under_the_same_id() -> None:
    """The state is changed while it waits: the arguments are others, the id is not."""
    bank = Bank()
    agent = Agent(script(call("transfer", to="Ann", amount=5), "done"), tools=bank.tools())
    stopped = await agent.run("pay Ann")
    seen = stopped.pending[0]
    text = state_to_json(stopped.state).decode().replace("Ann\\", "Eve\\")
    forged = state_from_json(text)
    assert forged.open_calls[0].arguments == '{"to": "Eve", "amount": 5}'
    result = await agent.resume(forged, [seen.approve()])
    assert (result.status, bank.transfers) == ("needs_approval", [])
    result = await agent.resume(result.state, [Approve(seen.tool_call_id, seen.digest)])
    assert (result.status, bank.transfers) == ("needs_approval", [])


async def test_an_approval_for_the_run_allows_the_tool_and_no_other() -> None:
    bank = Bank()

    @tool(requires_approval=True)
    async def close_account() -> str:
        """Close the account."""
        raise AssertionError("was not allowed")

    agent = Agent(
        script(
            call("transfer", to="Ann", amount=5), call("transfer", to="Bob", amount=6), call("close_account"), "-"
        ),
        tools=[*bank.tools(), close_account],
    )
    stopped = await agent.run("pay")
    again = await agent.resume(stopped.state, [stopped.pending[0].approve(for_run=True)])
    assert bank.transfers == [("Ann", 5), ("Bob", 6)]
    assert [waiting.tool_name for waiting in again.pending] == ["close_account"]


async def test_a_rule_decides_by_the_arguments() -> None:
    async def large(arguments: dict[str, Any], context: RunContext[Any]) -> str | bool:
        return f"{arguments['amount']} is much" if arguments["amount"] > 100 else False

    bank, seen = Bank(), list[AgentEvent]()
    calls = [call("transfer", to="Ann", amount=5)], [call("transfer", to="Ann", amount=500)]
    agent = Agent(script(*calls, "done"), tools=bank.tools(large), on_event=seen.append)
    stopped = await agent.run("pay")
    assert (bank.transfers, stopped.pending[0].reason) == ([("Ann", 5)], "500 is much")
    assert [event.call for event in seen if isinstance(event, ApprovalRequestedEvent)] == list(stopped.pending)


async def test_a_call_with_wrong_arguments_asks_nobody() -> None:
    bank = Bank()
    agent = Agent(script(call("transfer", to="Ann"), "done"), tools=bank.tools())
    assert (await agent.run("pay")).status == "completed"


async def test_a_tool_can_ask_for_itself() -> None:
    deleted: list[str] = []

    async def delete(context: RunContext[None], path: str) -> str:
        """Delete a file."""
        if path.startswith("/etc") and not context.approved:
            raise ApprovalRequired(f"{path} belongs to the system")
        deleted.append(path)
        return "deleted"

    agent = Agent(script([call("delete", path="a"), call("delete", path="/etc/b")], "done"), tools=[delete])
    stopped = await agent.run("clean up")
    assert (stopped.status, deleted) == ("needs_approval", ["a"])
    assert stopped.pending[0].reason == "/etc/b belongs to the system"
    result = await agent.resume(stopped.state, [stopped.pending[0].approve()])
    assert (result.status, deleted) == ("completed", ["a", "/etc/b"])
    assert [part.content for part in returns(result)] == ["deleted", "deleted"]


async def test_decisions_must_be_about_calls_that_wait() -> None:
    agent = Agent(script(call("transfer", to="Ann", amount=5), "done"), tools=Bank().tools())
    stopped = await agent.run("pay")
    with pytest.raises(UserError, match="does not wait"):
        await agent.resume(stopped.state, [Approve("call_other", "digest")])
    with pytest.raises(UserError, match="has not run"):
        await agent.resume(stopped.state, [stopped.pending[0].settle("paid")])


async def test_a_run_is_resumed_by_the_agent_that_made_it(tmp_path: Path) -> None:
    bank = Bank()
    model = script(call("transfer", to="Ann", amount=5), "done")
    first = Agent(model, tools=bank.tools(), name="payer", checkpointer=tmp_path / "runs.db")
    stopped = await first.run("pay")
    other = Agent(model, tools=bank.tools(), name="reader", checkpointer=tmp_path / "runs.db")
    with pytest.raises(UserError, match="'payer', not 'reader'"):
        await other.resume(stopped.run_id)
    with pytest.raises(UserError, match="checkpointer"):
        await Agent(model).resume(stopped.run_id)
    with pytest.raises(CheckpointError, match="run_unknown"):
        await first.resume("run_unknown")


async def test_a_resume_that_is_refused_does_not_stop_whoever_has_the_run() -> None:
    keeper, bank = InMemoryCheckpointer(), Bank()
    model = script(call("transfer", to="Ann", amount=5), "done")
    owner = Agent(model, tools=bank.tools(False), name="owner", checkpointer=keeper)
    async with owner.iter("pay") as run:
        await run.advance()
        with pytest.raises(UserError, match="'owner'"):
            await Agent(model, name="other", checkpointer=keeper).resume(run.state.run_id)
        assert (await run.finish()).output == "done"


async def test_a_state_that_the_journal_has_left_behind_is_refused(tmp_path: Path) -> None:
    agent = Agent(
        script(call("transfer", to="Ann", amount=5), "done"),
        tools=Bank().tools(),
        checkpointer=tmp_path / "runs.db",
    )
    stopped = await agent.run("pay")
    await agent.resume(stopped.state, [stopped.pending[0].approve()])
    with pytest.raises(CheckpointError, match="has gone on"):
        await agent.resume(stopped.state, [stopped.pending[0].approve()])


# --- calls whose outcome nobody knows -------------------------------------------------------------------------


class Interrupted:
    """A tool whose process seems to die the first time: the run is cancelled while it is inside."""

    def __init__(self, annotations: ToolAnnotations | None = None) -> None:
        self.started = 0

        @tool(annotations=annotations or ToolAnnotations())
        async def send(text: str) -> str:
            """Send a text."""
            self.started += 1
            if self.started == 1:
                inside.set()
                await anyio.sleep_forever()
            return "sent"

        inside = anyio.Event()
        self.keeper = InMemoryCheckpointer()
        self.agent = Agent(script(call("send", text="hi"), "done"), tools=[send], checkpointer=self.keeper)
        self.inside = inside

    async def run_id(self) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.agent.run, "send it")
            await self.inside.wait()
            tasks.cancel_scope.cancel()
        (summary,) = await self.keeper.list_runs()
        return summary.run_id


async def test_a_call_in_flight_is_asked_about_and_not_repeated() -> None:
    broken = Interrupted()
    run_id = await broken.run_id()
    for _ in range(2):
        stopped = await broken.agent.resume(run_id)
        assert (stopped.status, broken.started) == ("needs_approval", 1)
        assert [waiting.kind for waiting in stopped.pending] == ["unknown"]
    result = await broken.agent.resume(run_id, [stopped.pending[0].settle("sent")])
    assert (result.output, broken.started) == ("done", 1)
    assert [part.content for part in returns(result)] == ["sent"]


async def test_a_call_in_flight_runs_again_if_somebody_says_so() -> None:
    broken = Interrupted()
    run_id = await broken.run_id()
    stopped = await broken.agent.resume(run_id)
    result = await broken.agent.resume(run_id, [stopped.pending[0].approve()])
    assert (result.output, broken.started) == ("done", 2)


async def test_a_call_in_flight_that_is_denied_tells_the_model_what_is_known() -> None:
    broken = Interrupted()
    run_id = await broken.run_id()
    stopped = await broken.agent.resume(run_id)
    result = await broken.agent.resume(run_id, [stopped.pending[0].deny()])
    assert returns(result)[0].content == "Interrupted, it may have taken effect; not run again."
    assert broken.started == 1


@pytest.mark.parametrize("annotations", [ToolAnnotations(idempotent=True), ToolAnnotations(read_only=True)])
async def test_a_call_in_flight_of_an_idempotent_tool_is_repeated(annotations: ToolAnnotations) -> None:
    broken = Interrupted(annotations)
    result = await broken.agent.resume(await broken.run_id())
    assert (result.output, broken.started) == ("done", 2)


async def test_calls_beside_one_that_failed_are_not_repeated(tmp_path: Path) -> None:
    ran: list[str] = []

    async def good() -> str:
        """Always works."""
        ran.append("good")
        return "fine"

    async def slow() -> str:
        """Works late."""
        ran.append("slow")
        await anyio.sleep_forever()
        raise AssertionError

    async def bad() -> str:
        """Breaks once its neighbour's answer is stored."""
        ran.append("bad")
        if ran.count("bad") == 1:
            await anyio.wait_all_tasks_blocked()
            raise RuntimeError("broken")
        return "mended"

    agent = Agent(
        script([call("good"), call("bad"), call("slow")], "done"),
        tools=[good, bad, slow],
        on_tool_error="raise",
        checkpointer=tmp_path / "runs.db",
    )
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    with pytest.raises(ToolExecutionError):
        await agent.run("go")
    (summary,) = await keeper.list_runs(status="failed")
    stopped = await agent.resume(summary.run_id)
    assert sorted(waiting.tool_name for waiting in stopped.pending) == ["bad", "slow"]
    decisions = [
        waiting.approve() if waiting.tool_name == "bad" else waiting.settle("late") for waiting in stopped.pending
    ]
    result = await agent.resume(summary.run_id, decisions)
    assert (result.output, ran.count("good"), ran.count("slow"), ran.count("bad")) == ("done", 1, 1, 2)
    assert [part.content for part in returns(result)] == ["fine", "mended", "late"]


async def test_resuming_is_told_to_listeners(tmp_path: Path) -> None:
    seen: list[AgentEvent] = []
    agent = Agent(
        script(call("transfer", to="Ann", amount=5), "done"),
        tools=Bank().tools(),
        on_event=seen.append,
        checkpointer=tmp_path / "runs.db",
    )
    stopped = await agent.run("pay")
    await agent.resume(stopped.run_id)
    assert [event.step for event in seen if isinstance(event, RunResumedEvent)] == [1]


async def test_cancelled_at_any_await_the_journal_has_no_orphan_and_the_run_goes_on(tmp_path: Path) -> None:
    """Cancelled after every number of loop turns until the run ends by itself; each call takes effect once."""
    for ticks in itertools.count():
        effects: list[str] = []

        async def act(name: str) -> str:
            """Act, with the effect in the middle."""
            await anyio.lowlevel.checkpoint()
            effects.append(name)  # noqa: B023 - the list of this turn of the loop
            await anyio.lowlevel.checkpoint()
            return name

        model = script([call("act", name="a"), call("act", name="b")], call("act", name="c"), "done")
        agent = Agent(model, tools=[act], checkpointer=tmp_path / f"{ticks}.db")
        task = asyncio.ensure_future(agent.run("go"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            break
        runs = await SQLiteCheckpointer(tmp_path / f"{ticks}.db").list_runs()
        if not runs:  # cancelled before anything was worth keeping
            continue
        result = await agent.resume(runs[0].run_id)
        if result.status == "needs_approval":
            settled = [
                waiting.settle(name)
                if (name := json.loads(waiting.arguments)["name"]) in effects
                else waiting.approve()
                for waiting in result.pending
            ]
            result = await agent.resume(runs[0].run_id, settled)
        assert (result.output, sorted(effects)) == ("done", ["a", "b", "c"])
        assert repaired(result.messages) == result.messages
    assert ticks > 10


# --- one meaning, one form ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ('{"b": 1, "a": [ 1.50, null ]}', '{"a":[1.5,null],"b":1}'),
        ('{"a": 1, "a": 2}', '{"a":2}'),
        ("", "{}"),
        ('{"a": "\\u00e9"}', '{"a":"é"}'),
        ("{not json}", "{not json}"),
        ('{"a": NaN}', '{"a": NaN}'),
    ],
)
def test_arguments_have_one_canonical_form(written: str, canonical: str) -> None:
    assert canonical_arguments(written) == canonical


def test_of_a_key_that_stands_twice_the_tool_reads_what_was_approved() -> None:
    def pay(amount: int) -> None:
        """Pay."""

    assert function_tool(pay).validate('{"amount": 1, "amount": 2}') == {"amount": 2}
    assert compile_schema({"type": "object"}, name="pay").arguments('{"amount": 1, "amount": 2}') == {"amount": 2}


def test_the_digest_covers_tool_and_arguments() -> None:
    from agentkit.approvals.pending import pending_call

    def digest(tool_name: str, arguments: str) -> str:
        return pending_call(ToolCallPart(tool_name, arguments, "c"), "").digest

    same = digest("pay", json.dumps({"a": 1, "b": 2}))
    assert digest("pay", '{"b":2,"a":1}') == same
    assert len({same, digest("pay", '{"b":2,"a":2}'), digest("play", '{"b":2,"a":1}')}) == 3
    assert PendingCall("pay", "c", "{}", same, "").approve() == Approve("c", same)
