"""Runs and conversations in PostgreSQL: the kits, processes that compete for a run, and lost connections."""

from __future__ import annotations

import gc
import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest

from agentkit import Agent
from agentkit.errors import CheckpointError, UserError
from agentkit.events import RewardEvent, TextDeltaEvent
from agentkit.messages import ModelRequest, UserPromptPart
from agentkit.persistence import PostgresCheckpointer, PostgresSession, RunJournal
from agentkit.persistence.leases import LEASE_S, renew_all
from agentkit.persistence.outbox import Outbox
from agentkit.persistence.postgres_database import PostgresDatabase
from agentkit.persistence.sql_database import Transaction
from agentkit.persistence.sql_journal import SQLJournal, create
from agentkit.run.state import RunState
from agentkit.testing import ScriptedModel, call, check_checkpointer, check_session, check_stored_events
from tests.agentkit.arrangements import World, approvals, by_turns
from tests.agentkit.persistence.postgres_server import PASSWORD, Databases, databases, psycopg, schemas, server

__all__ = ["databases", "server"]

pytestmark = pytest.mark.anyio

HOLDER = """
import asyncio, sys
from agentkit import Agent, tool
from agentkit.approvals.pending import Approve
from agentkit.errors import CheckpointError
from agentkit.persistence import PostgresCheckpointer
from agentkit.testing import call
from tests.agentkit.arrangements import by_turns

dsn, schema, run_id, digest, call_id = sys.argv[1:]

@tool(requires_approval=True)
async def pay(amount: int) -> str:
    print("paying", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return "paid"

async def main():
    keeper = PostgresCheckpointer(dsn, schema=schema)
    agent = Agent(by_turns(call("pay", amount=5), "done"), tools=[pay], name="payer", checkpointer=keeper)
    try:
        await agent.resume(run_id, [Approve(call_id, digest)])
    except CheckpointError as error:
        print(error, flush=True)

asyncio.run(main())
"""
"""A process that resumes a run, and stays inside of its tool until it reads a line."""


def run_of(*texts: str) -> RunState:
    return RunState(messages=tuple(said(text) for text in texts))


def said(text: str) -> ModelRequest:
    return ModelRequest((UserPromptPart(text),))


# -- what every store promises ------------------------------------------------------------------------------


async def test_the_keeper_in_postgres_conforms(databases: Databases) -> None:
    await check_checkpointer(lambda: databases.keeper(next(schemas)))
    await check_stored_events(lambda: databases.keeper(next(schemas)))


async def test_the_session_in_postgres_conforms(databases: Databases) -> None:
    names, database = map(str, itertools.count()), databases.database()
    await check_session(lambda: PostgresSession(database, next(names)))


async def test_runs_and_sessions_share_messages_and_deleted_text_is_gone(databases: Databases) -> None:
    keeper = databases.keeper()
    session = keeper.session("s")
    agent = Agent(ScriptedModel(["1", "2", "3"]), checkpointer=keeper)
    for prompt in "abc":
        await agent.run(prompt, session=session)
    assert databases.sql("SELECT count(*) FROM messages") == [(6,)]
    for run in await keeper.list_runs():
        await keeper.delete(run.run_id)
    assert len((await session.load()).messages) == 6
    await session.delete()
    assert databases.sql("SELECT count(*) FROM messages") == [(0,)]


async def test_text_that_a_guardrail_withheld_is_gone(databases: Databases) -> None:
    state = run_of("go", "withheld")
    journal = await databases.keeper().create(state)
    await journal.save(replace(state, messages=(*state.messages[:1], said("neutral"))), "running")
    bodies = [body for (body,) in databases.sql("SELECT body FROM messages")]
    assert len(bodies) == 2 and not any("withheld" in body for body in bodies)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE messages SET body = replace(body, 'hello', 'HELLO')",
        "DELETE FROM messages WHERE parent IS NULL",
        "UPDATE messages SET parent = id",
        "UPDATE runs SET head = 'not json'",
    ],
)
async def test_a_row_that_was_edited_is_refused(databases: Databases, statement: str) -> None:
    state, keeper = run_of("hello", "there"), databases.keeper()
    await keeper.create(state)
    databases.sql(statement)
    with pytest.raises(CheckpointError, match=state.run_id):
        await keeper.load(state.run_id)


# -- processes that compete ---------------------------------------------------------------------------------


def payer(world: World, keeper: PostgresCheckpointer) -> Agent[None, str]:
    tools = [world.pay(asks=True)]
    return Agent(by_turns(call("pay", amount=5), "done"), tools=tools, name="payer", checkpointer=keeper)


def holder(databases: Databases, stopped: Any) -> subprocess.Popen[str]:
    (waiting,) = stopped.pending
    arguments = (databases.server.dsn, databases.schema, stopped.run_id, waiting.digest, waiting.tool_call_id)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLDER, *arguments], stdin=pipe, stdout=pipe, text=True)


async def test_a_run_of_a_killed_process_goes_on_in_another(databases: Databases) -> None:
    keeper, world = databases.keeper(), World()
    stopped = await payer(world, keeper).run("go")
    with holder(databases, stopped) as first:
        assert first.stdout is not None and first.stdout.readline() == "paying\n"
        with pytest.raises(CheckpointError, match=f"going on in process {first.pid}"):
            await payer(world, keeper).resume(stopped.run_id, approvals(stopped.pending))
        assert await keeper.unheld_runs() == []
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert [run.run_id for run in await keeper.unheld_runs()] == [stopped.run_id]
    asked = await payer(world, keeper).resume(stopped.run_id, approvals(stopped.pending))
    assert (asked.status, asked.pending[0].kind) == ("needs_approval", "unknown")
    result = await payer(world, keeper).resume(stopped.run_id, [asked.pending[0].settle("paid")])
    assert (result.output, world.paid) == ("done", [])


async def test_a_process_that_was_taken_for_dead_writes_no_more(databases: Databases) -> None:
    keeper = databases.keeper()
    stopped = await payer(World(), keeper).run("go")
    with holder(databases, stopped) as first:
        assert first.stdin is not None and first.stdout is not None and first.stdout.readline() == "paying\n"
        databases.expire()
        stored, journal = await keeper.claim(stopped.run_id)
        first.stdin.write("go on\n")
        first.stdin.flush()
        assert "was resumed elsewhere" in first.stdout.readline()
    assert await keeper.load(stopped.run_id) == stored, "the former holder wrote"
    await journal.release()


async def test_of_connections_that_claim_a_run_at_once_one_gets_it(databases: Databases) -> None:
    state, held = run_of("x"), list[object]()
    await (await databases.keeper().create(state)).release()

    async def claim() -> None:
        try:
            held.append(await databases.keeper().claim(state.run_id))
        except CheckpointError as error:
            assert "is going on in" in str(error)

    await at_once([claim] * 6)
    assert len(held) == 1


async def at_once(actions: Sequence[Callable[[], Any]]) -> None:
    async with anyio.create_task_group() as tasks:
        for action in actions:
            tasks.start_soon(action)


async def test_a_claim_stops_inner_runs_of_inner_runs(databases: Databases) -> None:
    keeper, state = databases.keeper(), run_of("x")
    outer = await keeper.create(state)
    journals: list[RunJournal] = [outer]
    for n in range(3):
        inner = await journals[-1].inner_run("c", RunState(run_id=f"{state.run_id}.{n}"))
        assert inner is not None
        journals.append(inner)
    databases.expire()
    await keeper.claim(state.run_id)
    for n, journal in enumerate(journals[1:]):
        with pytest.raises(CheckpointError, match="resumed elsewhere"):
            await journal.save(RunState(run_id=f"{state.run_id}.{n}"), "running")
    assert databases.sql("SELECT DISTINCT generation FROM runs") == [(1,)]


async def test_a_lease_is_renewed_by_the_databases_clock(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, state = databases.keeper(), run_of("x")
    monkeypatch.setattr("time.time", lambda: 0.0)  # this machine's clock is wrong by decades
    journal = await keeper.create(state)
    left = "SELECT lease_until - extract(epoch FROM clock_timestamp())::float8 FROM runs"
    databases.sql("UPDATE runs SET lease_until = lease_until - 50")
    renew_all()
    assert LEASE_S - 10 < databases.sql(left)[0][0] <= LEASE_S
    with pytest.raises(CheckpointError, match="is going on in this process|is going on in process"):
        await databases.keeper().claim(state.run_id)
    await journal.release()


async def test_a_lease_of_another_machine_can_only_run_out(databases: Databases) -> None:
    keeper, state = databases.keeper(), run_of("x")
    journal = await keeper.create(state)
    databases.sql("UPDATE runs SET owner = %s", json.dumps(["another machine", 1, "", "token"]))
    del journal
    gc.collect()
    with pytest.raises(CheckpointError, match="process 1 of another machine"):
        await keeper.claim(state.run_id)
    assert await keeper.unheld_runs() == []
    databases.expire()
    assert [run.run_id for run in await keeper.unheld_runs()] == [state.run_id]
    await keeper.claim(state.run_id)


async def test_a_new_schema_may_be_opened_by_many_at_once(databases: Databases) -> None:
    await at_once([partial(databases.keeper().create, run_of("x")) for _ in range(6)])
    assert len(await databases.keeper().list_runs()) == 6


async def test_events_of_many_writers_are_numbered_without_gaps(databases: Databases) -> None:
    keeper, state, outbox = databases.keeper(), run_of("x"), Outbox()
    journal = await keeper.create(state, outbox=outbox)
    others = [databases.keeper() for _ in range(3)]

    async def add(other: PostgresCheckpointer) -> None:
        for _ in range(5):
            await other.append_event(state.run_id, RewardEvent(1.0, "x"))

    async def save() -> None:
        for _ in range(10):
            outbox(RewardEvent(0.5, "own"))
            await journal.save(state, "running")

    await at_once([save, *(partial(add, other) for other in others)])
    assert [each.number for each in await keeper.events(state.run_id)] == list(range(1, 26))


async def test_events_are_stored_in_the_order_in_which_they_were_sent(databases: Databases) -> None:
    keeper, state = databases.keeper(), run_of("x")
    told: list[str] = []
    outbox = Outbox(lambda stored: told.extend(each.body for each in stored))
    journal = await keeper.create(state, outbox=outbox)
    for n in range(20):
        outbox(TextDeltaEvent(f"piece {n}"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.store_events, [journal])
            await anyio.lowlevel.checkpoint()  # the pieces are on their way
            outbox(RewardEvent(float(n), "a change"))
            tasks.start_soon(journal.save, state, "running")
    bodies = [each.body for each in await keeper.events(state.run_id)]
    assert bodies == told and len(bodies) == 40
    assert all("piece" in body for body in bodies[::2]) and all("change" in body for body in bodies[1::2])


async def test_a_shared_history_survives_deletions_of_other_runs(databases: Databases) -> None:
    history = run_of(*map(str, range(5))).messages
    keepers = [databases.keeper() for _ in range(4)]
    made: list[str] = []

    async def work(keeper: PostgresCheckpointer) -> None:
        for n in range(8):
            state = RunState(messages=history)
            journal = await keeper.create(state)
            await journal.save(state, "completed")
            if n % 2:
                await keeper.delete(state.run_id)
            else:
                made.append(state.run_id)
            await keeper.delete_ended(before=0.0)

    await at_once([partial(work, keeper) for keeper in keepers])
    for run_id in made:
        assert (await keepers[0].load(run_id)).state.messages == history
        await keepers[0].delete(run_id)
    assert databases.sql("SELECT count(*) FROM messages") == [(0,)]


class Held:
    """Work that stays within its transaction until another transaction waits for it."""

    def __init__(self, work: Callable[[Transaction], object]) -> None:
        self._work = work
        self._is_begun, self._may_end = threading.Event(), threading.Event()

    def __call__(self, transaction: Transaction) -> None:
        self._work(transaction)
        self._is_begun.set()
        assert self._may_end.wait(20)

    async def until_another_waits(
        self, databases: Databases, other: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                try:
                    tasks.start_soon(databases.database().write, self)
                    await anyio.to_thread.run_sync(self._is_begun.wait)
                    tasks.start_soon(other)
                    while databases.sql("SELECT 1 FROM pg_locks WHERE NOT granted") == []:
                        await anyio.sleep(0.01)
                finally:
                    self._may_end.set()


async def test_messages_are_deleted_while_no_transaction_stores_any(databases: Databases) -> None:
    keeper, first, second = databases.keeper(), run_of("shared"), run_of("shared")
    await keeper.create(first)
    storing = Held(partial(create, second, None, {}, None))
    await storing.until_another_waits(databases, partial(keeper.delete, first.run_id))
    assert (await keeper.load(second.run_id)).state == second


async def test_a_claim_stops_an_inner_run_that_begins_meanwhile(databases: Databases) -> None:
    keeper, state = databases.keeper(), run_of("x")
    inner = await (await keeper.create(state)).inner_run("c", RunState(run_id=f"{state.run_id}.c"))
    assert isinstance(inner, SQLJournal)
    databases.expire()
    begin = partial(inner._begin_inner, "d", RunState(run_id=f"{state.run_id}.c.d"))
    await Held(begin).until_another_waits(databases, partial(keeper.claim, state.run_id))
    assert databases.sql("SELECT generation FROM runs") == [(1,)] * 3


async def test_of_runs_that_end_at_once_one_adds_to_its_session(databases: Databases) -> None:
    sessions = [PostgresSession(databases.database(), "s") for _ in range(5)]
    outcomes: list[str] = []

    async def add(session: PostgresSession) -> None:
        try:
            outcomes.append(await session.append((said("x"),), ""))
        except CheckpointError as error:
            assert "has gone on" in str(error)

    await at_once([partial(add, session) for session in sessions])
    assert [(await session.load()).version for session in sessions] == outcomes * 5


# -- lost connections, other versions, settings -------------------------------------------------------------


async def test_a_connection_that_broke_while_it_was_not_used_is_replaced(databases: Databases) -> None:
    keeper, state = databases.keeper(), run_of("x")
    journal = await keeper.create(state)
    n_ended = databases.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'agentkit'"
    )
    assert n_ended[0][0] > 0
    await journal.save(state, "completed")
    assert (await keeper.summary(state.run_id)).status == "completed"


async def test_a_transaction_whose_connection_breaks_leaves_nothing(databases: Databases) -> None:
    keeper, state = databases.keeper(), run_of("x")
    await keeper.create(state)

    def work(transaction: Transaction) -> None:
        transaction.execute("UPDATE runs SET status = 'failed'")
        transaction.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(CheckpointError, match="cannot be used"):
        await keeper.database.write(work)
    assert (await keeper.summary(state.run_id)).status == "running"


async def test_a_database_that_stops_is_named_and_used_again_later(databases: Databases) -> None:
    keeper, state = databases.keeper(wait_s=1.0), run_of("x")
    journal = await keeper.create(state)
    databases.server.stop()
    try:
        for keeper_now in (keeper, databases.keeper(wait_s=1.0)):
            with pytest.raises(CheckpointError) as caught:
                await keeper_now.load(state.run_id)
            assert f"'postgres at {databases.server.folder}:5432" in str(caught.value)
            assert "No such file or directory" in str(caught.value) or "refused" in str(caught.value)
            assert PASSWORD not in str(caught.value) and PASSWORD not in repr(caught.value.__cause__)
        renew_all()  # raises nothing in the thread that renews
        with pytest.raises(CheckpointError):
            await journal.save(state, "completed")
    finally:
        databases.server.start()
    await journal.save(state, "completed")
    assert (await keeper.load(state.run_id)).summary.status == "completed"


async def test_more_work_than_connections_waits(databases: Databases) -> None:
    keeper = databases.keeper(max_connections=2)
    states = [run_of(str(n)) for n in range(12)]
    await at_once([partial(keeper.create, state) for state in states])
    assert {run.run_id for run in await keeper.list_runs()} == {state.run_id for state in states}
    assert databases.sql("SELECT count(*) <= 2 FROM pg_stat_activity WHERE application_name = 'agentkit'") == [
        (True,)
    ]


async def test_a_journal_of_another_version_is_refused_by_name(databases: Databases) -> None:
    await databases.keeper().create(run_of("x"))
    databases.sql("UPDATE journal_format SET version = 99, written_by = 'agentkit-modelstack 9.0'")
    with pytest.raises(CheckpointError, match=r"has format 99, written by agentkit-modelstack 9\.0"):
        await databases.keeper().list_runs()


async def test_another_programs_schema_is_left_alone(databases: Databases) -> None:
    with psycopg.connect(databases.server.dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA theirs")
        connection.execute("CREATE TABLE theirs.runs(x INTEGER)")
    with pytest.raises(CheckpointError, match="'theirs' has tables of another program"):
        await databases.keeper("theirs").create(run_of("x"))


async def test_text_that_postgres_cannot_store_is_an_error_by_name(databases: Databases) -> None:
    keeper = databases.keeper()
    with pytest.raises(CheckpointError, match="cannot be used"):
        await keeper.create(run_of("x"), metadata={"user": "a\0b"})
    assert await keeper.list_runs() == []


async def test_an_error_of_the_driver_is_told_without_the_password(databases: Databases) -> None:
    def fails(transaction: Transaction) -> None:
        raise psycopg.OperationalError(f"cannot log in with {PASSWORD}.\nAsk somebody.")

    with pytest.raises(CheckpointError, match=r"cannot be used: cannot log in with \*\*\*\. What was"):
        await databases.database().write(fails)


async def test_a_transaction_waits_for_no_lock_and_no_process_for_ever(databases: Databases) -> None:
    names = ("lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
    query = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"
    databases.sql("ALTER ROLE tester SET synchronous_commit = off")
    try:
        found = await databases.database().write(lambda t: t.execute(query).fetchone(), durable=True)
    finally:
        databases.sql("ALTER ROLE tester RESET synchronous_commit")
    assert found == ("30s", "30s", "on")


@pytest.mark.parametrize("dsn", [f"postgresql://me:{PASSWORD}@[::1/db", f"password={PASSWORD} {PASSWORD}"])
async def test_a_dsn_that_cannot_be_read_is_not_repeated(dsn: str) -> None:
    with pytest.raises(UserError, match="the DSN cannot be read") as caught:
        PostgresCheckpointer(dsn)
    assert PASSWORD not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("options", [{"schema": 'x"; DROP'}, {"schema": ""}, {"max_connections": 0}])
async def test_settings_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="|".join(options)):
        PostgresDatabase("postgresql:///x", **options)


async def test_without_psycopg_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(UserError, match=r"needs psycopg_pool: pip install .*\[postgres\]"):
        PostgresCheckpointer("postgresql:///x")
