"""Runs in a SQLite file: one transaction per step, which writes only new messages."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from agentkit.errors import CheckpointError
from agentkit.events import AgentEvent
from agentkit.messages import ModelMessage, ToolCallPart
from agentkit.persistence import message_chain, sqlite_events
from agentkit.persistence.checkpointer import (
    EventCheckpointer,
    RunJournal,
    RunSummary,
    StoredRun,
    StoredStatus,
    going_on,
    known_already,
    taken_over,
    unknown_calls,
    unknown_run,
    with_calls,
    with_inner,
)
from agentkit.persistence.leases import LEASE_S, Lease, described, is_gone
from agentkit.persistence.outbox import Outbox, SentEvent
from agentkit.persistence.sqlite_database import SQLiteDatabase
from agentkit.persistence.sqlite_format import IS_UNENDED
from agentkit.persistence.stored_events import StoredEvent
from agentkit.persistence.stored_state import (
    answer_from_json,
    answer_to_json,
    head_from_json,
    head_to_json,
    ids_from_json,
    ids_to_json,
)
from agentkit.run.state import CallAnswer, RunState

T = TypeVar("T")

FEW = 100
"""Events that are read without a worker thread."""
_NO_LEASE = ", owner = NULL, lease_until = NULL"
# Keys and values of the filter are bound, never spliced in (LangGraph CVE-2025-67644).
_HAS_METADATA = """NOT EXISTS (
    SELECT 1 FROM json_each(?1) AS wanted WHERE NOT EXISTS (
        SELECT 1 FROM json_each(runs.metadata) AS has
        WHERE has.key = wanted.key AND has.value = wanted.value
    )
)"""
_SUMMARY = "run_id, agent_name, status, created_at, updated_at, metadata"


class SQLiteCheckpointer(EventCheckpointer):
    """Stores runs in a file, which processes may share."""

    def __init__(self, database: SQLiteDatabase | str | Path) -> None:
        """Set the file; the first use creates it.

        Raises:
            UserError: the path names a database in memory.
        """
        self.database = database if isinstance(database, SQLiteDatabase) else SQLiteDatabase(database)

    async def create(
        self,
        state: RunState,
        *,
        agent_name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        outbox: Outbox | None = None,
    ) -> RunJournal:
        """Create the journal of a run; it shares the rows of its history with earlier runs."""
        lease = Lease()
        work = partial(_create, state, agent_name, dict(metadata or {}), lease.owner)
        sent = [] if outbox is None else outbox.with_state()
        tip = await sqlite_events.written_with(self.database, work, state.run_id, outbox, sent)
        journal = _SQLiteJournal(self.database, state, tip, generation=0, lease=lease)
        journal.outbox = outbox
        return journal

    async def has(self, run_id: str) -> bool:
        """Return whether a run with that id exists."""
        return await self.database.read(partial(_has, run_id), is_short=True)

    async def load(self, run_id: str) -> StoredRun:
        """Return a run without claiming it."""
        stored, _, _ = await self.database.read(partial(_load, run_id))
        return stored

    async def claim(self, run_id: str) -> tuple[StoredRun, RunJournal]:
        """Claim a run."""
        lease = Lease()
        stored, tip, generation = await self.database.write(partial(_claim, run_id, lease.owner), is_short=False)
        return stored, _SQLiteJournal(self.database, stored.state, tip, generation, stored.in_flight, lease)

    async def list_runs(
        self,
        *,
        status: StoredStatus | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> Sequence[RunSummary]:
        """Return runs, latest first."""
        return await self.database.read(partial(_list, status, dict(metadata or {}), limit))

    async def delete(self, run_id: str) -> None:
        """Delete a run, and the messages that no other run or session has."""
        await self.database.write(partial(_delete, run_id))

    async def summary(self, run_id: str) -> RunSummary:
        """Return the entry of a run."""
        return await self.database.read(partial(_summary_of, run_id), is_short=True)

    async def unended_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs that have not ended."""
        return await self.database.read(partial(_unended, dict(metadata or {}), limit), is_short=True)

    async def unheld_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs that no live process holds."""
        return await self.database.read(partial(_unheld, dict(metadata or {}), limit))

    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """Return stored events of a run."""

        def work(connection: sqlite3.Connection) -> list[StoredEvent]:
            if not _has(run_id, connection):
                raise unknown_run(run_id)
            return sqlite_events.read(run_id, after, limit, connection)

        return await self.database.read(work, is_short=limit <= FEW)

    async def last_events(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the number of the last stored event of each run."""
        return await self.database.read(partial(sqlite_events.last_events, run_ids), is_short=True)

    async def append_event(self, run_id: str, event: AgentEvent) -> int:
        """Store an event of a run."""

        def work(connection: sqlite3.Connection) -> int:
            if not _has(run_id, connection):
                raise unknown_run(run_id)
            return sqlite_events.append(run_id, [(time.time(), event)], connection)[-1].number

        return await self.database.write(work)

    async def delete_ended(self, *, before: float, metadata: Mapping[str, str] | None = None) -> int:
        """Delete runs that ended before a time, and the messages that no other run or session has."""
        work = partial(_delete_ended, before, dict(metadata or {}))
        return await self.database.write(work, is_short=False)

    async def store_events(self, journals: Sequence[RunJournal]) -> None:
        """Store events that need no other write, in one transaction."""
        waiting: list[tuple[_SQLiteJournal, Outbox, list[SentEvent]]] = []
        for journal in journals:
            outbox = journal.outbox
            if isinstance(journal, _SQLiteJournal) and outbox is not None and (sent := outbox.alone()):
                waiting.append((journal, outbox, sent))
        if not waiting:
            return

        def work(connection: sqlite3.Connection) -> list[list[StoredEvent]]:
            return [
                sqlite_events.append(journal.run_id, sent, connection) if journal.holds(connection) else []
                for journal, _, sent in waiting
            ]

        stored = await self.database.write(work)
        for (_, outbox, _), events in zip(waiting, stored, strict=True):
            outbox.stored(events)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self.database.close()


class _SQLiteJournal(RunJournal):
    def __init__(
        self,
        database: SQLiteDatabase,
        state: RunState,
        tip: bytes | None,
        generation: int,
        in_flight: Sequence[str] = (),
        lease: Lease | None = None,
    ) -> None:
        self._database = database
        self.run_id = state.run_id
        self._tip = tip
        self._stored = state.messages
        self._generation = generation
        self._started = list(in_flight)
        """Ids of calls that were started and not answered, in order; the file may also list answered ones."""
        self._has_answers = generation > 0
        """True if the file may contain answers of calls, from an earlier holder or from this journal."""
        self._has_inner = generation > 0
        """True if the file may contain inner runs, likewise."""
        self._lease = lease
        """Lease of the run; None after release, and for an inner run, which the outer run's lease covers."""
        if lease is not None:
            lease.keep(partial(_renew, database, self.run_id, lease.owner))

    async def save(
        self,
        state: RunState,
        status: StoredStatus,
        *,
        starting: ToolCallPart | None = None,
        durable: bool = False,
    ) -> None:
        work = partial(self._save, state, status, starting)
        self._tip, self._started = await self._write(work, self._sent(), durable=durable)
        self._stored = state.messages
        self._has_answers = self._has_inner = False
        if status != "running":
            self._forget_lease()

    async def failed(self) -> None:
        await self._write(self._failed, self._sent())
        self._forget_lease()

    async def release(self) -> None:
        if self._lease is not None:
            await self._database.write(partial(_release, self.run_id, self._lease.owner))
            self._forget_lease()

    def _forget_lease(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
        call_id = call.tool_call_id
        await self._write(partial(self._note_start, call_id), self._sent_of(call_id), durable=durable)

    async def call_answered(self, answer: CallAnswer) -> None:
        text, call_id = answer_to_json(answer).decode(), answer.tool_call_id or ""
        await self._write(partial(self._note_answer, call_id, text), self._sent_of(call_id))

    async def inner_run(self, call_id: str, state: RunState) -> RunJournal | None:
        tip = await self._database.write(partial(self._begin_inner, call_id, state))
        return _SQLiteJournal(self._database, state, tip, self._generation)

    def _sent(self) -> list[SentEvent]:
        return [] if self.outbox is None else self.outbox.with_state()

    def _sent_of(self, call_id: str) -> list[SentEvent]:
        return [] if self.outbox is None else self.outbox.with_call(call_id)

    async def _write(
        self, work: Callable[[sqlite3.Connection], T], sent: Sequence[SentEvent], *, durable: bool = False
    ) -> T:
        return await sqlite_events.written_with(
            self._database, work, self.run_id, self.outbox, sent, durable=durable
        )

    def holds(self, connection: sqlite3.Connection) -> bool:
        """Return whether no other process has claimed the run since."""
        same = "SELECT 1 FROM runs WHERE run_id = ? AND generation = ?"
        return connection.execute(same, (self.run_id, self._generation)).fetchone() is not None

    def _save(
        self, state: RunState, status: StoredStatus, starting: ToolCallPart | None, connection: sqlite3.Connection
    ) -> tuple[bytes | None, list[str]]:
        started = [call_id for call_id in unknown_calls(state) if call_id in self._started]
        if starting is not None:
            started.append(starting.tool_call_id)
        is_longer = self._is_longer(state.messages)
        new = state.messages[len(self._stored) :] if is_longer else state.messages
        tip = message_chain.add(connection, self._tip if is_longer else None, new)
        head = head_to_json(state).decode()
        columns = "tip = ?, head = ?, status = ?, started = ?" + ("" if status == "running" else _NO_LEASE)
        self._update(columns, (tip, head, status, _ids(started)), connection)
        if self._has_answers:
            connection.execute("DELETE FROM answers WHERE run_id = ?", (self.run_id,))
        if self._has_inner:
            connection.execute("DELETE FROM runs WHERE part_of = ?", (self.run_id,))
        if not is_longer:
            message_chain.forget_end(connection, self._tip)
        return tip, started

    def _is_longer(self, messages: Sequence[ModelMessage]) -> bool:
        """Return whether a conversation extends the stored one; if not, a guardrail changed stored messages."""
        n = len(self._stored)
        return n == 0 or (len(messages) >= n and messages[n - 1] is self._stored[-1])

    def _begin_inner(self, call_id: str, state: RunState, connection: sqlite3.Connection) -> bytes | None:
        self._update("status = ?", ("running",), connection)
        self._has_inner = True
        # Replaces an earlier attempt, or a run of the same id that an earlier format stored as a separate run.
        connection.execute("DELETE FROM runs WHERE run_id = ?", (state.run_id,))
        tip = _create(state, None, {}, None, connection)
        connection.execute(
            "UPDATE runs SET part_of = ?, call_id = ?, generation = ? WHERE run_id = ?",
            (self.run_id, call_id, self._generation, state.run_id),
        )
        return tip

    def _failed(self, connection: sqlite3.Connection) -> None:
        self._update(f"status = ?{_NO_LEASE}", ("failed",), connection)

    def _note_start(self, call_id: str, connection: sqlite3.Connection) -> None:
        # Runs under the file's lock, so concurrent calls record their starts one after another.
        started = [*self._started, call_id]
        self._update("started = ?", (_ids(started),), connection)
        self._started = started

    def _note_answer(self, call_id: str, answer: str, connection: sqlite3.Connection) -> None:
        noted = connection.execute(
            "INSERT OR REPLACE INTO answers(run_id, tool_call_id, answer) "
            "SELECT run_id, ?, ? FROM runs WHERE run_id = ? AND generation = ?",
            (call_id, answer, self.run_id, self._generation),
        )
        if noted.rowcount != 1:
            raise taken_over(self.run_id)
        self._has_answers = True
        self._started = [each for each in self._started if each != call_id]

    def _update(self, columns: str, values: tuple[object, ...], connection: sqlite3.Connection) -> None:
        changed = connection.execute(
            f"UPDATE runs SET {columns}, updated_at = ? WHERE run_id = ? AND generation = ?",
            (*values, time.time(), self.run_id, self._generation),
        )
        if changed.rowcount != 1:
            raise taken_over(self.run_id)


def _ids(calls: Sequence[str]) -> str | None:
    return ids_to_json(calls).decode() if calls else None


def _create(
    state: RunState,
    agent_name: str | None,
    metadata: dict[str, str],
    owner: str | None,
    connection: sqlite3.Connection,
) -> bytes | None:
    tip = message_chain.add(connection, None, state.messages)
    now = time.time()
    head = head_to_json(state).decode()
    row = (state.run_id, agent_name, "running", tip, head, json.dumps(metadata), now, now, owner, now + LEASE_S)
    made = connection.execute(
        "INSERT OR IGNORE INTO runs(run_id, agent_name, status, tip, head, generation, metadata, created_at, "
        "updated_at, owner, lease_until) VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
        row,
    )
    if made.rowcount != 1:
        raise known_already(state.run_id)
    return tip


def _has(run_id: str, connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is not None


def _load(run_id: str, connection: sqlite3.Connection) -> tuple[StoredRun, bytes | None, int]:
    whose = f"run {run_id!r}"
    row = connection.execute(
        f"SELECT {_SUMMARY}, tip, head, generation, started FROM runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    if row is None:
        raise unknown_run(run_id)
    *summary, tip, head, generation, started = row
    state = head_from_json(head, message_chain.read(connection, tip, whose=whose), whose=whose)
    calls: dict[str, CallAnswer | None] = dict.fromkeys(ids_from_json(started or "[]", whose=whose))
    answers = connection.execute("SELECT tool_call_id, answer FROM answers WHERE run_id = ?", (run_id,))
    calls |= {call_id: answer_from_json(answer, whose=whose) for call_id, answer in answers}
    inner = connection.execute("SELECT call_id, run_id FROM runs WHERE part_of = ?", (run_id,)).fetchall()
    kept = {call_id: _load(inner_id, connection)[0] for call_id, inner_id in inner}
    return with_inner(StoredRun(_summary(summary), *with_calls(state, calls)), kept), tip, generation


def _claim(run_id: str, owner: str, connection: sqlite3.Connection) -> tuple[StoredRun, bytes | None, int]:
    # Runs in one transaction, so only one of several claiming processes gets the run.
    row = connection.execute("SELECT part_of, owner, lease_until FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    part_of, holder, until = row or (None, None, None)
    if part_of is not None:
        raise CheckpointError(f"run {run_id!r} is a part of run {part_of!r}, which has it: resume that one.")
    if holder is not None and _is_held(holder, until):
        raise going_on(run_id, described(holder))
    connection.execute(
        """
        WITH RECURSIVE family(run_id) AS (
            SELECT ?1 UNION SELECT runs.run_id FROM runs JOIN family ON runs.part_of = family.run_id
        )
        UPDATE runs SET generation = generation + 1 WHERE run_id IN (SELECT run_id FROM family)
        """,
        (run_id,),
    )
    connection.execute(
        "UPDATE runs SET owner = ?, lease_until = ? WHERE run_id = ?", (owner, time.time() + LEASE_S, run_id)
    )
    return _load(run_id, connection)


def _is_held(owner: str | None, until: float | None) -> bool:
    return owner is not None and (until or 0) > time.time() and not is_gone(owner)


def _renew(database: SQLiteDatabase, run_id: str, owner: str) -> None:
    """Renew a lease, in the renewal thread; a lost lease is not restored."""
    until = time.time() + LEASE_S
    database.write_if_open(
        lambda connection: connection.execute(
            "UPDATE runs SET lease_until = ? WHERE run_id = ? AND owner = ?", (until, run_id, owner)
        )
    )


def _release(run_id: str, owner: str, connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE runs SET owner = NULL, lease_until = NULL WHERE run_id = ? AND owner = ?", (run_id, owner)
    )


def _list(
    status: str | None, metadata: dict[str, str], limit: int, connection: sqlite3.Connection
) -> list[RunSummary]:
    rows = connection.execute(
        f"""
        SELECT {_SUMMARY} FROM runs
        WHERE part_of IS NULL AND {_HAS_METADATA} AND (?2 IS NULL OR status = ?2)
        ORDER BY updated_at DESC LIMIT ?3
        """,
        (json.dumps(metadata), status, limit),
    )
    return [_summary(row) for row in rows]


def _unended(metadata: dict[str, str], limit: int, connection: sqlite3.Connection) -> list[RunSummary]:
    rows = connection.execute(
        f"SELECT {_SUMMARY} FROM runs WHERE {IS_UNENDED} AND {_HAS_METADATA} ORDER BY updated_at DESC LIMIT ?2",
        (json.dumps(metadata), limit),
    )
    return [_summary(row) for row in rows]


def _unheld(metadata: dict[str, str], limit: int, connection: sqlite3.Connection) -> list[RunSummary]:
    rows = connection.execute(
        f"""
        SELECT {_SUMMARY}, owner, lease_until FROM runs
        WHERE {IS_UNENDED} AND status = 'running' AND {_HAS_METADATA} ORDER BY updated_at
        """,
        (json.dumps(metadata),),
    )
    free = (_summary(row) for *row, owner, until in rows if not _is_held(owner, until))
    return list(islice(free, limit))


def _delete(run_id: str, connection: sqlite3.Connection) -> None:
    if connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,)).rowcount != 1:
        raise unknown_run(run_id)
    message_chain.forget_unused(connection)


def _delete_ended(before: float, metadata: dict[str, str], connection: sqlite3.Connection) -> int:
    deleted = connection.execute(
        f"DELETE FROM runs WHERE part_of IS NULL AND NOT ({IS_UNENDED}) AND updated_at < ?2 AND {_HAS_METADATA}",
        (json.dumps(metadata), before),
    ).rowcount
    if deleted:
        message_chain.forget_unused(connection)
    return deleted


def _summary_of(run_id: str, connection: sqlite3.Connection) -> RunSummary:
    row = connection.execute(f"SELECT {_SUMMARY} FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise unknown_run(run_id)
    return _summary(row)


def _summary(row: Sequence[Any]) -> RunSummary:
    run_id, agent_name, status, created_at, updated_at, metadata = row
    return RunSummary(run_id, agent_name, status, created_at, updated_at, json.loads(metadata))
