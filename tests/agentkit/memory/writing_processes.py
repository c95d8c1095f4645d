"""A process that writes memories and reports each one, to be killed at any moment.

    python -m tests.agentkit.memory.writing_processes FILE USER N [N_COMMITS]

With N_COMMITS, the process kills itself when all of a transaction is written and its commit is next.
"""

from __future__ import annotations

import os
import signal
import sys

from agentkit.memory import SQLiteMemoryStore


async def write(path: str, user: str, n_texts: int, n_commits: int | None) -> None:
    """Add `n_texts` memories; each is printed once it is stored."""
    store = SQLiteMemoryStore(path)
    await store.add(user, f"{user} begins")
    if n_commits is not None:
        kill_at_commit(store, n_commits)
    for number in range(n_texts):
        await store.add(user, f"{user} knows fact{number}")
        print(number, flush=True)


def kill_at_commit(store: SQLiteMemoryStore, n_commits: int) -> None:
    """Kill this process before the given commit, counted from 1."""
    connection = store._file._connection  # pyright: ignore[reportPrivateUsage]
    assert connection is not None
    seen = 0

    def before(statement: str) -> None:
        nonlocal seen
        seen += statement == "COMMIT"
        if seen == n_commits:
            os.kill(os.getpid(), signal.SIGKILL)

    connection.set_trace_callback(before)


if __name__ == "__main__":
    import anyio

    path, user, n_texts, *rest = sys.argv[1:]
    anyio.run(write, path, user, int(n_texts), int(rest[0]) if rest else None)
