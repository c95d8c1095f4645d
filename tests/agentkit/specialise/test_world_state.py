"""A folder as data: the same where it is the same, whatever tools have put into it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from agentkit.specialise import world_state
from agentkit.specialise.world_state import WorldUnreadable, folder_state


def database(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


def test_files_folders_and_rows_are_all_there(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "old").write_text("gone")
    (tmp_path / "notes" / "todo.md").write_text("läuft")
    (tmp_path / "raw.bin").write_bytes(b"\xff\x00")
    database(
        tmp_path / "shop.db", "create table t(a, b)", "insert into t values (2, 'x'), (1, x'ff'), (null, 1.5)"
    )
    state = folder_state(tmp_path, frozenset({".trash"}))
    assert state["files"]["notes/todo.md"] == "läuft"
    assert state["files"]["raw.bin"]["bytes"] == 2 and len(state["files"]) == 2
    assert state["folders"] == ["empty"]
    assert sorted(map(str, state["tables"]["shop.db"]["t"])) == ["[1, 'ff']", "[2, 'x']", "[None, 1.5]"]


def test_the_order_in_which_rows_came_makes_no_difference_and_their_number_does(tmp_path: Path) -> None:
    one, other, more = (tmp_path / name for name in ("one", "other", "more"))
    for folder, rows in ((one, "(1), (2)"), (other, "(2), (1)"), (more, "(1), (2), (2)")):
        folder.mkdir()
        database(folder / "x", "create table t(a)", f"insert into t values {rows}")
    assert folder_state(one) == folder_state(other) != folder_state(more)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "world" / "inner").mkdir(parents=True)
    (tmp_path / "world" / "file").symlink_to(tmp_path / "secret")
    (tmp_path / "world" / "loop").symlink_to(tmp_path / "world")
    state = folder_state(tmp_path / "world")
    assert "s3cret" not in str(state)
    assert set(state["files"]) == {"file", "loop"} and all("link" in found for found in state["files"].values())


def test_pipes_are_not_opened_and_broken_databases_are_a_state(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").write_bytes(b"SQLite format 3\x00" + b"\x01" * 4000)
    state = folder_state(tmp_path)
    assert state["files"]["pipe"] == {"special": True}
    assert "unreadable" in state["tables"]["broken"]


def test_what_a_database_writes_beside_it_is_not_a_file_of_its_own(tmp_path: Path) -> None:
    path = database(tmp_path / "shop.db", "pragma journal_mode = wal", "create table t(a)")
    connection = sqlite3.connect(path)
    connection.execute("insert into t values (1)")
    connection.commit()
    assert (tmp_path / "shop.db-wal").exists()
    state = folder_state(tmp_path)
    connection.close()
    assert state["files"] == {} and state["tables"] == {"shop.db": {"t": [[1]]}}


def test_a_table_that_computes_for_ever_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_state, "MOST_STEPS", 300_000)
    body = "a integer, b as (a + a + a + a + a + a) virtual"
    rows = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 90000) select i from n"
    database(tmp_path / "slow.db", f"create table t({body})", f"insert into t(a) {rows}")
    with pytest.raises(WorldUnreadable, match="takes too long"):
        folder_state(tmp_path)


@pytest.mark.parametrize(("limit", "n"), [("MOST_FILES", 3), ("MOST_ROWS", 2)])
def test_more_than_can_be_compared_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, n: int
) -> None:
    database(tmp_path / "x", "create table t(a)", "insert into t values (1), (2), (3)")
    for number in range(3):
        (tmp_path / str(number)).write_text("")
    folder_state(tmp_path)
    monkeypatch.setattr(world_state, limit, n)
    with pytest.raises(WorldUnreadable, match="more than"):
        folder_state(tmp_path)


def test_a_folder_that_is_not_there_is_an_error_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        folder_state(tmp_path / "nowhere")
