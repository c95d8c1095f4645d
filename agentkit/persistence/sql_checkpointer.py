"""Runs in a database, which processes may share; the SQL is that of `agentkit.persistence.sql_database`."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import islice
from typing import Any

from agentkit.errors import CheckpointError
from agentkit.events import AgentEvent
from agentkit.persistence import message_chain, sql_events, sql_files
from agentkit.persistence.checkpointer import (
    EventCheckpointer,
    RunJournal,
    RunSummary,
    StoredRun,
    StoredStatus,
    UnendedRun,
    going_on,
    unknown_run,
    with_calls,
    with_inner,
)
from agentkit.persistence.leases import LEASE_S, Lease, birth, described, is_gone, of_this_machine
from agentkit.persistence.outbox import Outbox, SentEvent
from agentkit.persistence.session import Session
from agentkit.persistence.sql_database import IS_UNENDED, JournalDatabase, Transaction
from agentkit.persistence.sql_journal import SQLJournal, create
from agentkit.persistence.stored_events import StoredEvent
from agentkit.persistence.stored_state import answer_from_json, head_from_json, ids_from_json
from agentkit.run.state import CallAnswer, RunState

FEW = 100
"""Events that are read without a worker thread."""
_SUMMARY = "run_id, agent_name, status, created_at, updated_at, metadata"


class SQLCheckpointer(EventCheckpointer):
    """Stores runs in a database."""

    def __init__(self, database: JournalDatabase) -> None:
        """Set the database."""
        self._database = database

    @property
    def name(self) -> str:
        """Name for messages, without a password."""
        return self._database.name

    @abstractmethod
    def session(self, id: str) -> Session:
        """Return the conversation with an id, in the same database."""

    def group_writes(self) -> None:
        """Store what concurrent runs write at the same time together."""
        self._database.groups_writes = True

    async def create(
        self,
        state: RunState,
        *,
        agent_name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        outbox: Outbox | None = None,
        alone_with: Mapping[str, str] | None = None,
    ) -> RunJournal:
        """Create the journal of a run; it shares the rows of its history with earlier runs."""
        lease = Lease()
        work = partial(_create_in_turn, state, agent_name, dict(metadata or {}), lease.owner, alone_with)
        sent: list[SentEvent] = []
        if outbox is not None:
            sent, outbox.last = outbox.with_state(), 0
        tip = await sql_events.written_with(self._database, work, state.run_id, outbox, sent)
        journal = SQLJournal(self._database, state, tip, generation=0, lease=lease)
        journal.outbox = outbox
        return journal

    async def has(self, run_id: str) -> bool:
        """Return whether a run with that id exists."""
        return await self._database.read(partial(_has, run_id), is_short=True)

    async def load(self, run_id: str) -> StoredRun:
        """Return a run without claiming it."""
        stored, _, _ = await self._database.read(partial(_load, run_id))
        return stored

    async def claim(self, run_id: str) -> tuple[StoredRun, RunJournal]:
        """Claim a run."""
        lease = Lease()
        stored, tip, generation = await self._database.write(partial(_claim, run_id, lease.owner), is_short=False)
        return stored, SQLJournal(self._database, stored.state, tip, generation, stored.in_flight, lease)

    async def list_runs(
        self,
        *,
        status: StoredStatus | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> Sequence[RunSummary]:
        """Return runs, latest first."""
        return await self._database.read(partial(_list, status, dict(metadata or {}), limit))

    async def delete(self, run_id: str) -> None:
        """Delete a run, and the messages that no other run or session has."""
        await self._database.delete(partial(_delete, run_id))

    async def summary(self, run_id: str) -> RunSummary:
        """Return the entry of a run."""
        return await self._database.read(partial(_summary_of, run_id), is_short=True)

    async def unended_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs that have not ended."""
        return await self._database.read(partial(_unended, dict(metadata or {}), limit), is_short=True)

    async def unheld_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs that no live process holds."""
        return await self._database.read(partial(_unheld, dict(metadata or {}), limit))

    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """Return stored events of a run."""

        def work(transaction: Transaction) -> list[StoredEvent]:
            found = sql_events.read(run_id, after, limit, transaction)
            if not found and not _has(run_id, transaction):
                raise unknown_run(run_id)
            return found

        return await self._database.read(work, is_short=limit <= FEW)

    async def file(self, run_id: str, sha256: str) -> bytes | None:
        """Return a file of a run by its hash."""

        def work(transaction: Transaction) -> bytes | None:
            row = transaction.execute("SELECT tip FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row is None:
                raise unknown_run(run_id)
            return sql_files.of_run(transaction, run_id, message_chain.CHAIN_IDS, row[0], sha256)

        return await self._database.read(work)

    async def last_events(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the number of the last stored event of each run."""
        return await self._database.read(partial(sql_events.last_events, run_ids), is_short=True)

    async def append_event(self, run_id: str, event: AgentEvent) -> int:
        """Store an event of a run."""
        sent = [(time.time(), event)]

        def work(transaction: Transaction) -> int:
            if not _has(run_id, transaction, transaction.FOR_UPDATE):
                raise unknown_run(run_id)
            return sql_events.append(run_id, sent, transaction)[-1].number

        return await self._database.write(work)

    async def delete_ended(self, *, before: float, metadata: Mapping[str, str] | None = None) -> int:
        """Delete runs that ended before a time, and the messages that no other run or session has."""
        return await self._database.delete(partial(_delete_ended, before, dict(metadata or {})))

    async def store_events(self, journals: Sequence[RunJournal]) -> None:
        """Store events that need no other write, in one transaction."""
        with ExitStack() as turns:
            waiting: list[tuple[SQLJournal, Outbox, list[SentEvent]]] = []
            ours = (each for each in journals if isinstance(each, SQLJournal))
            # Rows are locked in the order of their ids, so that no two processes wait for each other.
            for journal in sorted(ours, key=lambda journal: journal.run_id):
                outbox = journal.outbox
                if outbox is not None and (sent := journal.events_alone(turns)):
                    waiting.append((journal, outbox, sent))
            if not waiting:
                return

            def work(transaction: Transaction) -> list[list[StoredEvent]]:
                return [
                    sql_events.append(journal.run_id, sent, transaction, outbox.last)
                    if journal.holds(transaction)
                    else []
                    for journal, outbox, sent in waiting
                ]

            stored = await self._database.write(work)
            for (_, outbox, _), events in zip(waiting, stored, strict=True):
                outbox.stored(events)

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._database.close()


def _create_in_turn(
    state: RunState,
    agent_name: str | None,
    metadata: dict[str, str],
    owner: str,
    alone_with: Mapping[str, str] | None,
    transaction: Transaction,
) -> bytes | None:
    if alone_with is not None:
        # Of runs that are created at the same time, each then sees the earlier ones.
        transaction.take_turn(f"create {json.dumps(dict(alone_with))}")
        for other in _unended(dict(alone_with), 1, transaction):
            raise UnendedRun(other)
    return create(state, agent_name, metadata, owner, transaction)


def _has(run_id: str, transaction: Transaction, lock: str = "") -> bool:
    found = transaction.execute(f"SELECT 1 FROM runs WHERE run_id = ?{lock}", (run_id,))
    return found.fetchone() is not None


def _load(run_id: str, transaction: Transaction) -> tuple[StoredRun, bytes | None, int]:
    whose = f"run {run_id!r}"
    row = transaction.execute(
        f"SELECT {_SUMMARY}, tip, head, generation, started FROM runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    if row is None:
        raise unknown_run(run_id)
    *summary, tip, head, generation, started = row
    state = head_from_json(head, message_chain.read(transaction, tip, whose=whose), whose=whose)
    calls: dict[str, CallAnswer | None] = dict.fromkeys(ids_from_json(started or "[]", whose=whose))
    answers = transaction.execute("SELECT tool_call_id, answer FROM answers WHERE run_id = ?", (run_id,))
    calls |= {call_id: answer_from_json(answer, whose=whose) for call_id, answer in answers}
    inner = transaction.execute("SELECT call_id, run_id FROM runs WHERE part_of = ?", (run_id,)).fetchall()
    kept = {call_id: _load(inner_id, transaction)[0] for call_id, inner_id in inner}
    return with_inner(StoredRun(_summary(summary), *with_calls(state, calls)), kept), tip, generation


def _claim(run_id: str, owner: str, transaction: Transaction) -> tuple[StoredRun, bytes | None, int]:
    # The row is locked, so only one of several claiming processes gets the run.
    row = transaction.execute(
        f"SELECT part_of, owner, lease_until, generation FROM runs WHERE run_id = ?{transaction.FOR_UPDATE}",
        (run_id,),
    ).fetchone()
    if row is None:
        raise unknown_run(run_id)
    part_of, holder, until, generation = row
    if part_of is not None:
        raise CheckpointError(f"run {run_id!r} is a part of run {part_of!r}, which has it: resume that one.")
    if _is_held(holder, until, transaction.now()):
        raise going_on(run_id, described(holder))
    # Again until none is left: the former holder may have begun an inner run of an inner run meanwhile.
    while _with_generation(run_id, generation + 1, transaction) > 0:
        pass
    transaction.execute(
        "UPDATE runs SET owner = ?, lease_until = ? WHERE run_id = ?",
        (owner, transaction.now() + LEASE_S, run_id),
    )
    return _load(run_id, transaction)


def _with_generation(run_id: str, generation: int, transaction: Transaction) -> int:
    """Give a run and its inner runs a generation; return how many had another one."""
    # A statement that begins with UPDATE: of others sqlite3 does not count the rows.
    return transaction.execute(
        """
        UPDATE runs SET generation = ?2 WHERE generation <> ?2 AND run_id IN (
            WITH RECURSIVE family(run_id) AS (
                SELECT ?1 UNION SELECT runs.run_id FROM runs JOIN family ON runs.part_of = family.run_id
            )
            SELECT run_id FROM family
        )
        """,
        (run_id, generation),
    ).rowcount


def _is_held(
    owner: str | None, until: float | None, now: float, birth_of: Callable[[int], str] | None = None
) -> bool:
    return owner is not None and (until or 0) > now and not is_gone(owner, birth_of)


def _list(status: str | None, metadata: dict[str, str], limit: int, transaction: Transaction) -> list[RunSummary]:
    rows = transaction.execute(
        f"""
        SELECT {_SUMMARY} FROM runs
        WHERE part_of IS NULL AND {transaction.HAS_METADATA} AND (CAST(?2 AS TEXT) IS NULL OR status = ?2)
        ORDER BY updated_at DESC LIMIT ?3
        """,
        (json.dumps(metadata), status, limit),
    )
    return [_summary(row) for row in rows]


def _unended(metadata: dict[str, str], limit: int, transaction: Transaction) -> list[RunSummary]:
    rows = transaction.execute(
        f"SELECT {_SUMMARY} FROM runs WHERE {IS_UNENDED} AND {transaction.HAS_METADATA} "
        "ORDER BY updated_at DESC LIMIT ?2",
        (json.dumps(metadata), limit),
    )
    return [_summary(row) for row in rows]


def _unheld(metadata: dict[str, str], limit: int, transaction: Transaction) -> list[RunSummary]:
    now, here = transaction.now(), of_this_machine()
    rows = transaction.execute(
        f"""
        SELECT {_SUMMARY}, owner, lease_until FROM runs
        WHERE {IS_UNENDED} AND status = 'running' AND {transaction.HAS_METADATA}
            AND (owner IS NULL OR coalesce(lease_until, 0) <= ?2 OR substr(owner, 1, length(?3)) = ?3)
        ORDER BY updated_at
        """,
        (json.dumps(metadata), now, here),
    )
    birth_of = cache(birth)
    free = (_summary(row) for *row, owner, until in rows if not _is_held(owner, until, now, birth_of))
    return list(islice(free, limit))


def _delete(run_id: str, transaction: Transaction) -> int:
    n_deleted = transaction.execute("DELETE FROM runs WHERE run_id = ?", (run_id,)).rowcount
    if n_deleted != 1:
        raise unknown_run(run_id)
    return n_deleted


def _delete_ended(before: float, metadata: dict[str, str], transaction: Transaction) -> int:
    return transaction.execute(
        f"DELETE FROM runs WHERE part_of IS NULL AND NOT ({IS_UNENDED}) AND updated_at < ?2 "
        f"AND {transaction.HAS_METADATA}",
        (json.dumps(metadata), before),
    ).rowcount


def _summary_of(run_id: str, transaction: Transaction) -> RunSummary:
    row = transaction.execute(f"SELECT {_SUMMARY} FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise unknown_run(run_id)
    return _summary(row)


def _summary(row: Sequence[Any]) -> RunSummary:
    run_id, agent_name, status, created_at, updated_at, metadata = row
    return RunSummary(run_id, agent_name, status, created_at, updated_at, json.loads(metadata))
