"""Two processes write one file of memories, and one is killed: nothing is lost and nothing is half-written."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agentkit.memory import SQLiteMemoryStore

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL"),
]
N_TEXTS = 60


def writer(path: Path, user: str, *more: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.agentkit.memory.writing_processes", str(path), user]
    return subprocess.Popen([*command, *map(str, more)], stdout=subprocess.PIPE, text=True)


async def check(path: Path, user: str, reported: list[int], *, may_have_more: int) -> None:
    """All that was reported is stored and found, and at most one unreported write."""
    store = SQLiteMemoryStore(path)
    texts = [record.text for record in await store.list(user, limit=1_000)]
    expected = [f"{user} begins", *(f"{user} knows fact{number}" for number in reported)]
    assert texts[::-1][: len(expected)] == expected
    assert len(texts) <= len(expected) + may_have_more
    for number in reported[-3:]:
        (match, *_) = await store.search(user, f"fact{number}")
        assert match.record.text == f"{user} knows fact{number}"
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        file.execute("INSERT INTO memory_words(memory_words) VALUES ('integrity-check')")
        n_memories = "SELECT count(*), (SELECT count(*) FROM memory_words) FROM memories"
        one, other = file.execute(n_memories).fetchone()
        assert one == other


@pytest.mark.parametrize("n_before", [1, 25])
async def test_two_writers_and_a_kill_lose_nothing(tmp_path: Path, n_before: int) -> None:
    path = tmp_path / "memory.db"
    with writer(path, "ann", 100_000) as killed, writer(path, "bob", N_TEXTS) as other:
        assert killed.stdout is not None and other.stdout is not None
        reported = [int(killed.stdout.readline()) for _ in range(n_before)]
        killed.kill()
        reported += [int(line) for line in killed.stdout.read().splitlines()]
        finished = [int(line) for line in other.stdout.read().splitlines()]
    assert (killed.returncode, other.returncode) == (-signal.SIGKILL, 0)
    await check(path, "ann", reported, may_have_more=1)
    assert finished == list(range(N_TEXTS))
    await check(path, "bob", finished, may_have_more=0)


@pytest.mark.parametrize("n_commits", [1, 7])
async def test_a_kill_before_a_commit_leaves_nothing_of_its_transaction(tmp_path: Path, n_commits: int) -> None:
    path = tmp_path / "memory.db"
    with writer(path, "ann", N_TEXTS, n_commits) as killed:
        assert killed.stdout is not None
        reported = [int(line) for line in killed.stdout.read().splitlines()]
    assert killed.returncode == -signal.SIGKILL
    assert reported == list(range(n_commits - 1))
    await check(path, "ann", reported, may_have_more=0)
    store = SQLiteMemoryStore(path)  # the lock of the killed process is gone
    assert await store.add("ann", "Ann goes on.") in await store.list("ann")
