"""Writes of concurrent runs in one transaction: each succeeds or fails by itself, and none is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from agentkit.errors import CheckpointError
from agentkit.messages import ModelRequest, ToolCallPart, UserPromptPart
from agentkit.persistence import SQLiteCheckpointer
from agentkit.persistence.sql_database import Transaction
from agentkit.persistence.sqlite_database import SQLiteDatabase
from agentkit.persistence.write_group import MOST_WRITES
from agentkit.run.state import RunState
from agentkit.testing import check_checkpointer, check_stored_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SQLiteDatabase]:
    database = SQLiteDatabase(tmp_path / "numbers.db")
    database.groups_writes = True
    yield database
    database.close()


@pytest.fixture
async def numbers(database: SQLiteDatabase) -> SQLiteDatabase:
    """A database with a table of its own."""
    await database.write(lambda transaction: transaction.execute("CREATE TABLE numbers(n INTEGER PRIMARY KEY)"))
    return database


async def added(database: SQLiteDatabase, n: int) -> int:
    """Store a number; return how many are stored."""

    def work(transaction: Transaction) -> int:
        if n < 0:
            transaction.execute("INSERT INTO numbers VALUES (?)", (n,))
            raise CheckpointError(f"{n} is negative")
        transaction.execute("INSERT INTO numbers VALUES (?)", (n,))
        return transaction.execute("SELECT count(*) FROM numbers").fetchone()[0]

    return await database.write(work)


async def stored(database: SQLiteDatabase) -> list[int]:
    rows = await database.read(lambda transaction: transaction.execute("SELECT n FROM numbers").fetchall())
    return [n for (n,) in rows]


async def test_a_checkpointer_keeps_its_promises(tmp_path: Path) -> None:
    paths = (tmp_path / f"{n}.db" for n in count())

    def keeper() -> SQLiteCheckpointer:
        made = SQLiteCheckpointer(next(paths))
        made.group_writes()
        return made

    await check_checkpointer(keeper)
    await check_stored_events(keeper)


async def test_writes_at_the_same_time_are_one_transaction(numbers: SQLiteDatabase) -> None:
    """Each transaction appends the page that it has changed to the log."""
    log = numbers.path.with_name("numbers.db-wal")
    sizes = [log.stat().st_size]
    await asyncio.gather(*(added(numbers, n) for n in range(10)))
    sizes.append(log.stat().st_size)
    for n in range(10, 20):
        await added(numbers, n)
    sizes.append(log.stat().st_size)
    assert await stored(numbers) == list(range(20))
    assert sizes[2] - sizes[1] == 10 * (sizes[1] - sizes[0]) > 0


async def test_each_write_gets_its_own_result(numbers: SQLiteDatabase) -> None:
    assert await asyncio.gather(*(added(numbers, n) for n in range(250))) == list(range(1, 251))
    assert MOST_WRITES < 250


async def test_a_write_that_fails_is_undone_alone(numbers: SQLiteDatabase) -> None:
    found = await asyncio.gather(*(added(numbers, n) for n in (1, -2, 3, -4, 5)), return_exceptions=True)
    assert [n if isinstance(n, int) else str(n) for n in found] == [1, "-2 is negative", 2, "-4 is negative", 3]
    assert await stored(numbers) == [1, 3, 5]


async def test_calls_are_noted_once_though_their_writes_were_undone_with_another(tmp_path: Path) -> None:
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    keeper.group_writes()
    states = [RunState(messages=(ModelRequest((UserPromptPart(text),)),)) for text in "ab"]
    journals = [await keeper.create(state) for state in states]
    await keeper.delete(states[1].run_id)
    starts = (journal.call_started(ToolCallPart("add", "{}", "call-1"), durable=False) for journal in journals)
    first, second = await asyncio.gather(*starts, return_exceptions=True)
    assert first is None and isinstance(second, CheckpointError)
    assert (await keeper.load(states[0].run_id)).in_flight == ("call-1",)


async def test_an_error_of_the_file_undoes_the_group_and_all_are_told(numbers: SQLiteDatabase) -> None:
    found = await asyncio.gather(*(added(numbers, n) for n in (1, 2, 2, 3)), return_exceptions=True)
    assert all(isinstance(each, CheckpointError) and "UNIQUE" in str(each) for each in found)
    assert await stored(numbers) == []
    assert await added(numbers, 4) == 1


@pytest.mark.parametrize("n", [0, 1, 2])
async def test_a_cancelled_write_is_stored_and_the_others_go_on(numbers: SQLiteDatabase, n: int) -> None:
    results: dict[int, int] = {}
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def add(place: int) -> None:
        with scopes[place]:
            results[place] = await added(numbers, place)
            await anyio.sleep(0)
            results[place] = -1

    async with anyio.create_task_group() as tasks:
        for place in range(3):
            tasks.start_soon(add, place)
        await anyio.lowlevel.checkpoint()
        scopes[n].cancel()
    assert await stored(numbers) == [0, 1, 2]
    assert [results[place] == -1 for place in range(3)] == [place != n for place in range(3)]
    assert results[n] == n + 1, "it knew what was stored before it ended"


@pytest.mark.parametrize("n", [0, 1, 2])
async def test_a_task_that_asyncio_cancels_leaves_no_other_waiting(numbers: SQLiteDatabase, n: int) -> None:
    tasks = [asyncio.create_task(added(numbers, n)) for n in range(3)]
    await asyncio.sleep(0)
    tasks[n].cancel()
    with anyio.fail_after(10):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(n), asyncio.CancelledError)
    assert found == [place + 1 for place in range(3) if place != n]
    assert await stored(numbers) == [0, 1, 2]


async def test_a_group_waits_for_another_process_that_writes(numbers: SQLiteDatabase) -> None:
    with closing(sqlite3.connect(numbers.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(added, numbers, n)
            await anyio.sleep(0.1)
            assert other.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
            other.execute("COMMIT")
    assert await stored(numbers) == list(range(5))


async def test_threads_with_event_loops_of_their_own_have_groups_of_their_own(numbers: SQLiteDatabase) -> None:
    async def several(first: int) -> None:
        await asyncio.gather(*(added(numbers, first + n) for n in range(20)))

    async with anyio.create_task_group() as tasks:
        for first in (0, 100, 200):
            tasks.start_soon(anyio.to_thread.run_sync, lambda first=first: asyncio.run(several(first)))
    assert len(await stored(numbers)) == 60
