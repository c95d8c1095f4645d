"""Events of runs in the database of the runs, written in the transaction of what they report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from agentkit.persistence import sql_files
from agentkit.persistence.outbox import Outbox, SentEvent
from agentkit.persistence.sql_database import EventRow, JournalDatabase, Transaction, Work
from agentkit.persistence.stored_events import StoredEvent, numbered

T = TypeVar("T")


async def written_with(
    database: JournalDatabase,
    work: Work[T],
    run_id: str,
    outbox: Outbox | None,
    sent: Sequence[SentEvent],
    *,
    durable: bool = False,
    drops_messages: bool = False,
) -> T:
    """Do `work` and store events in one transaction; see `JournalDatabase.write`."""
    if outbox is None or not sent:
        return await database.write(work, durable=durable, drops_messages=drops_messages)
    last = outbox.last

    def with_events(transaction: Transaction) -> tuple[T, list[StoredEvent]]:
        return work(transaction), append(run_id, sent, transaction, last)

    result, stored = await database.write(with_events, durable=durable, drops_messages=drops_messages)
    outbox.stored(stored)
    return result


def append(
    run_id: str, sent: Sequence[SentEvent], transaction: Transaction, last: int | None = None
) -> list[StoredEvent]:
    """Store events of a run whose row the transaction has locked, or inserted.

    Args:
        run_id: The run.
        sent: Its events; at least one.
        transaction: The transaction.
        last: Number of the last event that the caller stored; others may have added some since. None: unknown.
    """
    events = numbered(sent, _last(run_id, transaction) if last is None else last)
    while not transaction.insert_events(_rows(run_id, events)):  # others added some: a request to cancel
        events = numbered(sent, _last(run_id, transaction))
    for each in events:
        if each.files:
            sql_files.add_of_events(transaction, run_id, each.files)
    return [each.without_files() for each in events]  # followers keep events in memory


def _last(run_id: str, transaction: Transaction) -> int:
    """Return the number of the last stored event of a run; 0 without one."""
    found = transaction.execute("SELECT coalesce(max(number), 0) FROM events WHERE run_id = ?", (run_id,))
    return found.fetchone()[0]


def _rows(run_id: str, events: Sequence[StoredEvent]) -> list[EventRow]:
    return [(run_id, each.number, each.time, each.body) for each in events]


def read(run_id: str, after: int, limit: int, transaction: Transaction) -> list[StoredEvent]:
    """Return stored events of a run; see `EventCheckpointer.events`."""
    rows = transaction.execute(
        "SELECT number, time, body FROM events WHERE run_id = ? AND number > ? ORDER BY number LIMIT ?",
        (run_id, after, limit),
    ).fetchall()
    return [StoredEvent(*row) for row in rows]


def last_events(run_ids: Sequence[str], transaction: Transaction) -> dict[str, int]:
    """Return the number of the last stored event of each run that is there; 0 without one."""
    rows = transaction.execute(
        f"""
        SELECT runs.run_id, coalesce((SELECT max(number) FROM events WHERE events.run_id = runs.run_id), 0)
        FROM {transaction.RUN_IDS} JOIN runs ON runs.run_id = wanted.value
        """,
        (json.dumps(list(run_ids)),),
    )
    return dict(rows.fetchall())
