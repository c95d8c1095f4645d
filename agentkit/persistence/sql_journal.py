"""Journal of one run in a database: one transaction per step, which writes only new messages.

Every write names the generation of the claim that the journal has, and locks the run's row. A later claim adds one
to the generation, so the writes of a former holder match no row and fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from agentkit.messages import ModelMessage, ToolCallPart
from agentkit.persistence import message_chain, sql_events
from agentkit.persistence.checkpointer import RunJournal, StoredStatus, known_already, taken_over, unknown_calls
from agentkit.persistence.leases import LEASE_S, Lease
from agentkit.persistence.outbox import Outbox, SentEvent
from agentkit.persistence.sql_database import JournalDatabase, Transaction, Work
from agentkit.persistence.stored_state import answer_to_json, head_to_json, ids_to_json
from agentkit.run.state import CallAnswer, RunState

T = TypeVar("T")

_NO_LEASE = ", owner = NULL, lease_until = NULL"


class SQLJournal(RunJournal):
    """Journal of a run that this process holds, or of an inner run of such a run."""

    def __init__(
        self,
        database: JournalDatabase,
        state: RunState,
        tip: bytes | None,
        generation: int,
        in_flight: Sequence[str] = (),
        lease: Lease | None = None,
    ) -> None:
        """Continue a stored run.

        Args:
            database: The database with the run.
            state: The stored state.
            tip: Id of its last message.
            generation: Number of the claim by which this process holds the run.
            in_flight: Ids of calls that were started and not answered.
            lease: The run's lease; None for an inner run, which the outer run's lease covers.
        """
        from anyio import Lock

        self._database = database
        self.run_id = state.run_id
        self._tip = tip
        self._stored = state.messages
        self._generation = generation
        self._started = list(in_flight)
        """Ids of calls that were started and not answered, in order; the database may also list answered ones."""
        self._has_answers = generation > 0
        """True if the database may contain answers of calls, from an earlier holder or from this journal."""
        self._has_inner = generation > 0
        """True if the database may contain inner runs, likewise."""
        self._lease = lease
        """Lease of the run; None after release."""
        self._turn = Lock()
        """Held from taking events until they are stored, so that events are stored in the order of the outbox."""
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
        """Store a state."""
        is_longer = self._is_longer(state.messages)
        work = partial(self._save, state, status, starting, is_longer)
        written = await self._write(work, Outbox.with_state, durable=durable, drops_messages=not is_longer)
        self._tip, self._started = written
        self._stored = state.messages
        self._has_answers = self._has_inner = False
        if status != "running":
            self._forget_lease()

    async def failed(self) -> None:
        """Record that the run ended with an error."""
        try:
            await self._write(self._failed, Outbox.with_state)
        finally:
            self._forget_lease()

    async def release(self) -> None:
        """Release the run; if that cannot be written, its lease is no longer renewed, and ends."""
        if self._lease is not None:
            try:
                await self._database.write(partial(_release, self.run_id, self._lease.owner))
            finally:
                self._forget_lease()

    def _forget_lease(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
        """Record that a call is about to run."""
        call_id = call.tool_call_id
        await self._write(
            partial(self._note_start, call_id), lambda outbox: outbox.with_call(call_id), durable=durable
        )

    async def call_answered(self, answer: CallAnswer) -> None:
        """Record the answer of a call."""
        text, call_id = answer_to_json(answer).decode(), answer.tool_call_id or ""
        await self._write(partial(self._note_answer, call_id, text), lambda outbox: outbox.with_call(call_id))

    async def inner_run(self, call_id: str, state: RunState) -> RunJournal | None:
        """Begin the journal of a run that a call of this run performs."""
        tip = await self._database.write(partial(self._begin_inner, call_id, state))
        return SQLJournal(self._database, state, tip, self._generation)

    async def _write(
        self,
        work: Work[T],
        take: Callable[[Outbox], list[SentEvent]],
        *,
        durable: bool = False,
        drops_messages: bool = False,
    ) -> T:
        if self._turn.locked():
            await self._turn.acquire()
        else:
            self._turn.acquire_nowait()  # cannot be cancelled, unlike `acquire`
        try:
            sent = [] if self.outbox is None else take(self.outbox)
            return await sql_events.written_with(
                self._database,
                work,
                self.run_id,
                self.outbox,
                sent,
                durable=durable,
                drops_messages=drops_messages,
            )
        finally:
            self._turn.release()

    def events_alone(self, turns: ExitStack) -> list[SentEvent]:
        """Take the events that need no other write, and the journal's turn until `turns` closes.

        None are taken during another write of the journal: it has taken them, or they come after it.
        """
        if self.outbox is None or self.outbox.is_empty or self._turn.locked():
            return []
        self._turn.acquire_nowait()
        turns.callback(self._turn.release)
        return self.outbox.alone()

    def holds(self, transaction: Transaction) -> bool:
        """Return whether no other process has claimed the run since, and keep it so until the transaction ends."""
        same = f"SELECT 1 FROM runs WHERE run_id = ? AND generation = ?{transaction.FOR_UPDATE}"
        return transaction.execute(same, (self.run_id, self._generation)).fetchone() is not None

    def _save(
        self,
        state: RunState,
        status: StoredStatus,
        starting: ToolCallPart | None,
        is_longer: bool,
        transaction: Transaction,
    ) -> tuple[bytes | None, list[str]]:
        started = [call_id for call_id in unknown_calls(state) if call_id in self._started]
        if starting is not None:
            started.append(starting.tool_call_id)
        new = state.messages[len(self._stored) :] if is_longer else state.messages
        tip = message_chain.add(transaction, self._tip if is_longer else None, new)
        head = head_to_json(state).decode()
        columns = "tip = ?, head = ?, status = ?, started = ?" + ("" if status == "running" else _NO_LEASE)
        self._update(columns, (tip, head, status, _ids(started)), transaction)
        if self._has_answers:
            transaction.execute("DELETE FROM answers WHERE run_id = ?", (self.run_id,))
        if self._has_inner:
            transaction.execute("DELETE FROM runs WHERE part_of = ?", (self.run_id,))
        if not is_longer:
            message_chain.forget_end(transaction, self._tip)
        return tip, started

    def _is_longer(self, messages: Sequence[ModelMessage]) -> bool:
        """Return whether a conversation extends the stored one; if not, a guardrail changed stored messages."""
        n = len(self._stored)
        return n == 0 or (len(messages) >= n and messages[n - 1] is self._stored[-1])

    def _begin_inner(self, call_id: str, state: RunState, transaction: Transaction) -> bytes | None:
        self._update("status = ?", ("running",), transaction)
        self._has_inner = True
        # Replaces an earlier attempt, or a run of the same id that an earlier format stored as a separate run.
        transaction.execute("DELETE FROM runs WHERE run_id = ?", (state.run_id,))
        tip = create(state, None, {}, None, transaction)
        transaction.execute(
            "UPDATE runs SET part_of = ?, call_id = ?, generation = ? WHERE run_id = ?",
            (self.run_id, call_id, self._generation, state.run_id),
        )
        return tip

    def _failed(self, transaction: Transaction) -> None:
        self._update(f"status = ?{_NO_LEASE}", ("failed",), transaction)

    def _note_start(self, call_id: str, transaction: Transaction) -> None:
        # Runs in the journal's turn, so concurrent calls record their starts one after another.
        started = [*(each for each in self._started if each != call_id), call_id]
        self._update("started = ?", (_ids(started),), transaction)
        self._started = started

    def _note_answer(self, call_id: str, answer: str, transaction: Transaction) -> None:
        noted = transaction.execute(
            "INSERT INTO answers(run_id, tool_call_id, answer) "
            f"SELECT run_id, ?, ? FROM runs WHERE run_id = ? AND generation = ?{transaction.FOR_UPDATE} "
            "ON CONFLICT (run_id, tool_call_id) DO UPDATE SET answer = excluded.answer",
            (call_id, answer, self.run_id, self._generation),
        )
        if noted.rowcount != 1:
            raise taken_over(self.run_id)
        self._has_answers = True
        self._started = [each for each in self._started if each != call_id]

    def _update(self, columns: str, values: tuple[object, ...], transaction: Transaction) -> None:
        changed = transaction.execute(
            f"UPDATE runs SET {columns}, updated_at = ? WHERE run_id = ? AND generation = ?",
            (*values, transaction.now(), self.run_id, self._generation),
        )
        if changed.rowcount != 1:
            raise taken_over(self.run_id)


def create(
    state: RunState,
    agent_name: str | None,
    metadata: dict[str, str],
    owner: str | None,
    transaction: Transaction,
) -> bytes | None:
    """Store a new run, held by `owner`; return the id of its last message.

    Raises:
        CheckpointError: a run with that id exists.
    """
    tip = message_chain.add(transaction, None, state.messages)
    now = transaction.now()
    head = head_to_json(state).decode()
    row = (state.run_id, agent_name, "running", tip, head, json.dumps(metadata), now, now, owner, now + LEASE_S)
    made = transaction.execute(
        "INSERT INTO runs(run_id, agent_name, status, tip, head, generation, metadata, created_at, updated_at, "
        "owner, lease_until) VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        row,
    )
    if made.rowcount != 1:
        raise known_already(state.run_id)
    return tip


def _ids(calls: Sequence[str]) -> str | None:
    return ids_to_json(calls).decode() if calls else None


def _renew(database: JournalDatabase, run_id: str, owner: str) -> None:
    """Renew a lease, in the renewal thread; a lost lease is not restored."""
    database.write_if_open(
        lambda transaction: transaction.execute(
            "UPDATE runs SET lease_until = ? WHERE run_id = ? AND owner = ?",
            (transaction.now() + LEASE_S, run_id, owner),
        )
    )


def _release(run_id: str, owner: str, transaction: Transaction) -> None:
    transaction.execute(
        "UPDATE runs SET owner = NULL, lease_until = NULL WHERE run_id = ? AND owner = ?", (run_id, owner)
    )
