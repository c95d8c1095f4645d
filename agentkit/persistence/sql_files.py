"""Files of conversations in the database of the runs: each is stored once, under the hash of its bytes.

Messages refer to their files, and runs to the files of their events. A file that nothing refers to is deleted.
"""

from __future__ import annotations

from agentkit.file_references import Files
from agentkit.persistence.sql_database import Transaction


def add_of_message(transaction: Transaction, message_id: bytes, files: Files) -> None:
    """Store the files of a message that is stored."""
    _add(transaction, files)
    transaction.executemany(
        "INSERT INTO message_files(message_id, sha256) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(message_id, sha256) for sha256 in files],
    )


def add_of_events(transaction: Transaction, run_id: str, files: Files) -> None:
    """Store the files of events of a run that is stored."""
    _add(transaction, files)
    transaction.executemany(
        "INSERT INTO run_files(run_id, sha256) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(run_id, sha256) for sha256 in files],
    )


def of_messages(transaction: Transaction, message_ids: str, tip: bytes) -> Files:
    """Return the files of a conversation; `message_ids` is the query of its messages' ids from `tip`, `?1`."""
    rows = transaction.execute(
        f"SELECT sha256, data FROM files WHERE sha256 IN "
        f"(SELECT sha256 FROM message_files WHERE message_id IN ({message_ids}))",
        (tip,),
    )
    return {sha256: bytes(data) for sha256, data in rows}


def of_run(
    transaction: Transaction, run_id: str, message_ids: str, tip: bytes | None, sha256: str
) -> bytes | None:
    """Return a file of a run's events or of its conversation, see `of_messages`; None if they have none."""
    row = transaction.execute(
        f"""
        SELECT data FROM files WHERE sha256 = ?2 AND (
            EXISTS (SELECT 1 FROM run_files WHERE run_id = ?3 AND sha256 = ?2)
            OR EXISTS (SELECT 1 FROM message_files WHERE sha256 = ?2 AND message_id IN ({message_ids}))
        )
        """,
        (tip, sha256, run_id),
    ).fetchone()
    return None if row is None else bytes(row[0])


def forget_unused(transaction: Transaction) -> None:
    """Delete the files that no message and no event has."""
    transaction.execute(
        """
        DELETE FROM files
        WHERE NOT EXISTS (SELECT 1 FROM message_files WHERE message_files.sha256 = files.sha256)
            AND NOT EXISTS (SELECT 1 FROM run_files WHERE run_files.sha256 = files.sha256)
        """
    )


def _add(transaction: Transaction, files: Files) -> None:
    transaction.executemany(
        "INSERT INTO files(sha256, data) VALUES (?, ?) ON CONFLICT DO NOTHING", list(files.items())
    )
