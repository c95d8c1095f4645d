"""Keepers of runs: both of ours against the kit, and what only a file can suffer."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import CheckpointError, UserError
from agentkit.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from agentkit.persistence import InMemoryCheckpointer, SQLiteCheckpointer
from agentkit.persistence.checkpointer import RunJournal, StoredRun
from agentkit.persistence.sqlite_database import SQLiteDatabase
from agentkit.run.state import RunState
from agentkit.testing import check_checkpointer, check_stored_events

pytestmark = pytest.mark.anyio


def run_of(*texts: str) -> RunState:
    return RunState(messages=tuple(ModelRequest((UserPromptPart(text),)) for text in texts))


async def test_the_keeper_in_memory_conforms() -> None:
    await check_checkpointer(InMemoryCheckpointer)
    await check_stored_events(InMemoryCheckpointer)


async def test_the_keeper_in_a_file_conforms(tmp_path: Path) -> None:
    paths = iter(tmp_path / f"{n}.db" for n in range(100))
    await check_checkpointer(lambda: SQLiteCheckpointer(next(paths)))
    await check_stored_events(lambda: SQLiteCheckpointer(next(paths)))


class WithoutLeases(InMemoryCheckpointer):
    """Lets any process take up a run that goes on."""

    async def create(self, *args: Any, **options: Any) -> RunJournal:
        journal = await super().create(*args, **options)
        await journal.release()
        return journal


class WithLeasesForEver(InMemoryCheckpointer):
    """Lets nobody take up a run again."""

    async def claim(self, run_id: str) -> tuple[StoredRun, RunJournal]:
        raise CheckpointError(f"run {run_id} is held.")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (WithoutLeases, "a run that goes on was claimed"),
        (WithLeasesForEver, r"RunJournal\.release\(\) did not give the run up"),
    ],
)
async def test_a_keeper_without_proper_leases_is_told_what_to_implement(
    make: type[InMemoryCheckpointer], complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint) as caught:
        await check_checkpointer(make)
    for part in ("`create` and `claim` take it", "`release`", "agentkit.persistence.leases.Lease"):
        assert part in str(caught.value)


async def test_a_second_connection_reads_what_the_first_one_wrote(tmp_path: Path) -> None:
    state = run_of("hello")
    await SQLiteCheckpointer(tmp_path / "runs.db").create(state)
    assert (await SQLiteCheckpointer(tmp_path / "runs.db").load(state.run_id)).state == state


async def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    await keeper.create(run_of("secret"))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


async def test_a_shared_history_is_stored_once(tmp_path: Path) -> None:
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    history = run_of(*map(str, range(20))).messages
    for n in range(5):
        await keeper.create(RunState(messages=(*history, *run_of(f"new {n}").messages), n_history=20))
    with sqlite3.connect(tmp_path / "runs.db") as file:
        assert file.execute("SELECT count(*) FROM messages").fetchone() == (25,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE messages SET body = replace(body, 'hello', 'HELLO')",
        "DELETE FROM messages WHERE parent IS NULL",
        "UPDATE messages SET parent = id",
        'UPDATE runs SET head = replace(head, \'"step":0\', \'"step":"0"\')',
        "UPDATE runs SET head = replace(head, '{', '{\"__class__\":\"os.system\",')",
        "UPDATE runs SET head = replace(head, '\"schema_version\":3', '\"schema_version\":4')",
        "UPDATE runs SET head = 'not json'",
    ],
)
async def test_a_file_that_was_edited_is_refused(tmp_path: Path, statement: str) -> None:
    state = run_of("hello", "there")
    await SQLiteCheckpointer(tmp_path / "runs.db").create(state)
    with sqlite3.connect(tmp_path / "runs.db") as file:
        file.execute(statement)
    with pytest.raises(CheckpointError, match=state.run_id):
        await SQLiteCheckpointer(tmp_path / "runs.db").load(state.run_id)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as file:
        file.execute("CREATE TABLE theirs(x)")
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(CheckpointError, match="another program's"):
        await SQLiteCheckpointer(tmp_path / "other.db").create(run_of("x"))
    assert (tmp_path / "other.db").read_bytes() == before


async def test_a_file_of_a_later_format_is_refused(tmp_path: Path) -> None:
    await SQLiteCheckpointer(tmp_path / "runs.db").create(run_of("x"))
    with sqlite3.connect(tmp_path / "runs.db") as file:
        file.execute("PRAGMA user_version=99")
    with pytest.raises(CheckpointError, match="format 99"):
        await SQLiteCheckpointer(tmp_path / "runs.db").create(run_of("x"))


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("these are not the pages you are looking for" * 100)
    with pytest.raises(CheckpointError, match="cannot be used"):
        await SQLiteCheckpointer(tmp_path / "runs.db").create(run_of("x"))


async def test_a_write_waits_for_another_process_and_the_loop_does_not(tmp_path: Path) -> None:
    """The other process holds the lock until the loop, which goes on meanwhile, releases it."""
    import anyio

    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    journal = await keeper.create(run_of("x"))
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    saved: list[str] = []

    async def save() -> None:
        await journal.save(run_of("x"), "completed")
        saved.append("saved")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save)
            await anyio.sleep(0.05)
            assert saved == []
            other.execute("COMMIT")
    assert saved == ["saved"]
    other.close()


async def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """Each with a connection of its own, as processes have; none takes a file in the making for another's."""
    import anyio

    for number in range(20):
        path = tmp_path / f"{number}.db"
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(SQLiteCheckpointer(path).create, run_of("x"))
        assert len(await SQLiteCheckpointer(path).list_runs()) == 6


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(UserError, match="InMemoryCheckpointer"):
        SQLiteDatabase(":memory:")


async def test_reading_does_not_wait_for_a_process_that_writes(tmp_path: Path) -> None:
    state = run_of("hello")
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    await keeper.create(state)
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert (await keeper.load(state.run_id)).state == state
        assert [run.run_id for run in await keeper.list_runs()] == [state.run_id]
    finally:
        other.close()
        keeper.close()


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=8))
async def test_any_prefix_of_a_journal_loads(turns: list[tuple[str, str]]) -> None:
    """After every write, whatever was said: what is loaded is what was saved last."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        keeper = SQLiteCheckpointer(Path(folder) / "runs.db")
        state = RunState()
        journal = await keeper.create(state)
        for said, answer in turns:
            call = ToolCallPart("add", answer)
            reply = ModelResponse((TextPart(answer), call))
            messages = (*state.messages, ModelRequest((UserPromptPart(said),)), reply)
            state = replace(state, messages=messages, step=state.step + 1)
            await journal.save(state, "running")
            assert (await keeper.load(state.run_id)).state == state
            await journal.call_started(call, durable=False)
            stored = await keeper.load(state.run_id)
            assert (stored.state, stored.in_flight) == (state, (call.tool_call_id,))
        keeper.close()
