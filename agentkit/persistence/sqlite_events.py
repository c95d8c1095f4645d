"""Events of runs in the SQLite file of the runs, written in the transaction of what they report."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from agentkit.persistence.outbox import Outbox, SentEvent
from agentkit.persistence.sqlite_database import SQLiteDatabase
from agentkit.persistence.stored_events import StoredEvent, numbered

T = TypeVar("T")


async def written_with(
    database: SQLiteDatabase,
    work: Callable[[sqlite3.Connection], T],
    run_id: str,
    outbox: Outbox | None,
    sent: Sequence[SentEvent],
    *,
    durable: bool = False,
) -> T:
    """Do `work` and store events in one transaction."""
    if outbox is None or not sent:
        return await database.write(work, durable=durable)

    def with_events(connection: sqlite3.Connection) -> tuple[T, list[StoredEvent]]:
        return work(connection), append(run_id, sent, connection)

    result, stored = await database.write(with_events, durable=durable)
    outbox.stored(stored)
    return result


def append(run_id: str, sent: Sequence[SentEvent], connection: sqlite3.Connection) -> list[StoredEvent]:
    """Store events of a run."""
    last = connection.execute(
        "SELECT coalesce(max(number), 0) FROM events WHERE run_id = ?", (run_id,)
    ).fetchone()[0]
    events = numbered(sent, last)
    rows = [(run_id, each.number, each.time, each.body) for each in events]
    connection.executemany("INSERT INTO events(run_id, number, time, body) VALUES (?, ?, ?, ?)", rows)
    return events


def read(run_id: str, after: int, limit: int, connection: sqlite3.Connection) -> list[StoredEvent]:
    """Return stored events of a run; see `EventCheckpointer.events`."""
    rows = connection.execute(
        "SELECT number, time, body FROM events WHERE run_id = ? AND number > ? ORDER BY number LIMIT ?",
        (run_id, after, limit),
    ).fetchall()
    return [StoredEvent(*row) for row in rows]


def last_events(run_ids: Sequence[str], connection: sqlite3.Connection) -> dict[str, int]:
    """Return the number of the last stored event of each run that is there; 0 without one."""
    rows = connection.execute(
        """
        SELECT runs.run_id, coalesce((SELECT max(number) FROM events WHERE events.run_id = runs.run_id), 0)
        FROM json_each(?) AS wanted JOIN runs ON runs.run_id = wanted.value
        """,
        (json.dumps(list(run_ids)),),
    )
    return dict(rows.fetchall())
