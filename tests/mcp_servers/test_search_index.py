"""The search server's index file: survives kill -9, is shared, is private, and is never another program's file."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from server_harness import REPOSITORY, ask_once, asker, kill_when_inside

from mcp_servers.failures import StartError
from mcp_servers.search.facts import set_fact
from mcp_servers.search.index import Index, default_path
from mcp_servers.search.policy import Limits
from mcp_servers.search.server import build_server

pytestmark = pytest.mark.anyio

LONG_AGO_NS = 10**18
N_FILES = 10
BATCH_FILES = 3

# Stops inside the `sys.argv[3]`-th call of a step of the refresh, says so, and waits to be killed.
STOPS_INSIDE = f"""
import os, pathlib, sys
from mcp_servers.filesystem.root import Root
from mcp_servers.search import refreshing
from mcp_servers.search.documents import DocumentReader
from mcp_servers.search.index import Index
from mcp_servers.search.policy import Limits, Selection

folder, index, stop_at, step = sys.argv[1:]
n_calls = 0
real = getattr(refreshing, step)

def stopping(*arguments):
    global n_calls
    n_calls += 1
    real(*arguments)
    if n_calls == int(stop_at):
        print("inside", flush=True)
        sys.stdin.read()

setattr(refreshing, step, stopping)
root, limits = Root(folder), Limits(batch_files={BATCH_FILES})
opened = Index(pathlib.Path(index), dict(folder=os.path.realpath(folder), include=[], exclude=[], gitignore=True))
reader = DocumentReader(root, limits)
refreshing.Refresher(opened, root, Selection(), reader, limits).refresh(lambda done, total: None)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(N_FILES):
        write(folder / f"{number}.md", f"# File {number}\nword number{number}\n\n# Second\nword\n")
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def check_whole(index: Path) -> None:
    """Let SQLite check its file, and FTS5 its own."""
    with closing(sqlite3.connect(index)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO words(words) VALUES ('integrity-check')")
        assert connection.execute("SELECT count(*) FROM words").fetchone() == (
            connection.execute("SELECT count(*) FROM passages").fetchone()
        )
        orphans = "SELECT count(*) FROM passages WHERE file_id NOT IN (SELECT id FROM files)"
        assert connection.execute(orphans).fetchone() == (0,)


def content(index: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(index)) as connection:
        return connection.execute(
            "SELECT files.path, stamp, status, first_line, last_line, words.path, heading, body, parts FROM files "
            "JOIN passages ON file_id = files.id JOIN words ON words.rowid = passages.id ORDER BY 1, 4"
        ).fetchall()


async def refreshed(folder: Path, index: Path) -> str:
    return (await ask_once(build_server(str(folder), index=str(index)), "refresh"))[0]


def killed_inside(folder: Path, index: Path, stop_at: int, step: str) -> None:
    """Refresh in a process of its own, and kill it in the middle."""
    kill_when_inside(STOPS_INSIDE, folder, index, stop_at, step)


@pytest.mark.parametrize("n_put", [1, 3, 4, 10])
async def test_kill_9_while_files_are_put_leaves_whole_batches_and_the_next_run_completes_them(
    folder: Path, index: Path, n_put: int
) -> None:
    killed_inside(folder, index, n_put, "put_file")
    check_whole(index)
    n_kept = (n_put - 1) // BATCH_FILES * BATCH_FILES
    assert len({row[0] for row in content(index)}) == n_kept
    assert (await refreshed(folder, index)).startswith(f"New or changed files read: {N_FILES - n_kept}.")
    check_whole(index)
    fresh = index.with_name("fresh.db")
    await refreshed(folder, fresh)
    assert content(index) == content(fresh)


async def test_kill_9_while_files_are_replaced_and_removed_keeps_what_was(folder: Path, index: Path) -> None:
    await refreshed(folder, index)
    before = content(index)
    (folder / "0.md").unlink()
    write(folder / "1.md", "changed\n")
    for step in ("remove_file", "put_file"):
        killed_inside(folder, index, 1, step)
        check_whole(index)
        kept = [row for row in before if step == "remove_file" or row[0] != "0.md"]
        assert content(index) == kept
    said = "New or changed files read: 1. Files taken out of the index: 0."
    assert (await refreshed(folder, index)).startswith(said)
    fresh = index.with_name("fresh.db")
    await refreshed(folder, fresh)
    assert content(index) == content(fresh)


async def test_kill_9_before_the_last_step_is_not_called_a_complete_refresh(folder: Path, index: Path) -> None:
    killed_inside(folder, index, 1, "set_fact")
    server = build_server(str(folder), index=str(index), limits=Limits(wait_s=0))
    async with Client(server) as client:
        result = await client.call_tool("index_status", {})
        assert result.structured_content is not None
        assert result.structured_content["files"] == N_FILES
    with closing(sqlite3.connect(index)) as connection:
        check_whole(index)
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (N_FILES,)


async def test_two_servers_fill_and_follow_one_index(folder: Path, index: Path) -> None:
    for number in range(300):
        write(folder / f"more{number}.txt", f"word {number}\n" * 30)
    target = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_servers.search", str(folder), "--index", str(index)],
        cwd=REPOSITORY,
    )
    async with Client(target) as first, Client(target) as second:

        async def use(client: Client) -> None:
            for _ in range(3):
                assert (await asker(client)("search", query="word"))[1] is False
                text, is_error = await asker(client)("refresh")
                assert not is_error and "refreshed" in text

        async with anyio.create_task_group() as both:
            both.start_soon(use, first)
            both.start_soon(use, second)
        for number in range(100):
            (folder / f"more{number}.txt").unlink()
        write(folder / "new.txt", "only here\n")
        async with anyio.create_task_group() as both:
            both.start_soon(use, first)
            both.start_soon(use, second)
        for client in (first, second):
            assert "new.txt" in (await asker(client)("search", query="only here"))[0]
            assert "\n211 files, " in (await asker(client)("index_status"))[0]
    check_whole(index)
    fresh = index.with_name("fresh.db")
    await refreshed(folder, fresh)
    assert content(index) == content(fresh)


async def test_many_servers_may_start_on_an_index_that_is_not_there(index: Path) -> None:
    code = "import sys, pathlib; from mcp_servers.search.index import Index; Index(pathlib.Path(sys.argv[1]), {})"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(index)], cwd=REPOSITORY) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8


def test_preparing_an_index_keeps_the_locks_of_its_readers(index: Path) -> None:
    """A lock that is lost lets another process, the last one as it thinks, remove the log that is in use."""
    opened = Index(index, {})
    with opened.reading(100) as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (0,)
        with opened.writing() as writer:
            set_fact(writer, "refreshed", "1")
        opened.prepare()
        code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM files'); c.close()"
        subprocess.run([sys.executable, "-c", code, str(index)], check=True)
        assert index.with_name("index.db-wal").exists()


async def test_an_index_in_its_own_folder_does_not_index_itself(folder: Path) -> None:
    index = folder / "deep" / "index.db"
    index.parent.mkdir()
    async with Client(build_server(str(folder), index=str(index))) as client:
        ask = asker(client)
        for _ in range(2):
            assert not (await ask("refresh"))[1]
        assert (await ask("search", query="index db"))[0].startswith("Nothing found.")
        status, _ = await ask("index_status")
        assert f"\n{N_FILES} files, " in status and " files of the index itself" in status


async def test_the_default_index_is_private_in_the_users_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    async with Client(build_server(str(folder))) as client:
        await asker(client)("refresh")
        place = tmp_path / "cache" / "agentkit" / "search"
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        reader = sqlite3.connect(next(place.glob("*.db")))  # keeps the log, so that it can be looked at
        assert reader.execute("SELECT count(*) FROM files").fetchone() == (N_FILES,)
        await asker(client)("refresh")
        names = sorted(path.name for path in place.iterdir())
        assert [name.split(".")[1] for name in names] == ["db", "db-shm", "db-wal"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
        reader.close()


def test_each_folder_and_choice_of_files_has_an_index_of_its_own() -> None:
    subjects = [{"folder": folder, "include": include} for folder in "ab" for include in ([], ["*.md"])]
    assert len({default_path(subject) for subject in subjects}) == 4
    assert default_path(subjects[0]) == default_path(dict(subjects[0]))


def test_an_index_that_others_can_read_is_made_private(folder: Path, index: Path) -> None:
    Index(index, {"folder": "a"})
    index.chmod(0o644)
    Index(index, {"folder": "a"})
    assert stat.S_IMODE(index.stat().st_mode) == 0o600


def test_another_programs_database_is_refused_and_left_as_it_is(folder: Path, index: Path) -> None:
    with closing(sqlite3.connect(index)) as connection:
        connection.executescript("CREATE TABLE mine(a); INSERT INTO mine VALUES (1);")
    index.chmod(0o644)
    before = index.read_bytes()
    with pytest.raises(StartError, match="another program's database"):
        build_server(str(folder), index=str(index))
    assert index.read_bytes() == before and stat.S_IMODE(index.stat().st_mode) == 0o644


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(folder: Path, index: Path) -> None:
    index.write_text("my notes\n" * 1_000, encoding="utf-8")
    with pytest.raises(StartError, match="as an index: file is not a database"):
        build_server(str(folder), index=str(index))
    assert index.read_text(encoding="utf-8") == "my notes\n" * 1_000


def test_a_link_is_no_index(folder: Path, index: Path) -> None:
    index.symlink_to(folder / "0.md")
    with pytest.raises(StartError, match="cannot use the index"):
        build_server(str(folder), index=str(index))


async def test_the_index_of_another_folder_or_choice_is_refused(folder: Path, index: Path, tmp_path: Path) -> None:
    await refreshed(folder, index)
    (tmp_path / "other").mkdir()
    choices: list[dict[str, Any]] = [{"include": ["*.md"]}, {"exclude": ["a"]}, {"gitignore": False}]
    for other, choice in ((tmp_path / "other", {}), *((folder, choice) for choice in choices)):
        with pytest.raises(StartError, match="index of another folder, or was made with other"):
            build_server(str(other), index=str(index), **choice)
    assert (await refreshed(folder, index)).startswith("New or changed files read: 0.")


async def test_an_index_of_an_older_schema_is_made_anew(folder: Path, index: Path) -> None:
    await refreshed(folder, index)
    with closing(sqlite3.connect(index)) as connection:
        connection.executescript("ALTER TABLE files RENAME COLUMN stamp TO old; PRAGMA user_version = 0;")
    assert (await refreshed(folder, index)).startswith(f"New or changed files read: {N_FILES}.")
    check_whole(index)


async def test_an_index_deleted_while_the_server_runs_is_made_again_by_a_refresh(
    folder: Path, index: Path
) -> None:
    async with Client(build_server(str(folder), index=str(index))) as client:
        ask = asker(client)
        assert not (await ask("search", query="word"))[1]
        for path in index.parent.glob("index.db*"):
            path.unlink()
        text, is_error = await ask("search", query="word")
        assert is_error and "Call refresh, or tell the user." in text and str(index) not in text
        assert (await ask("refresh"))[0].startswith(f"New or changed files read: {N_FILES}.")
        assert not (await ask("search", query="word"))[1]


async def test_a_damaged_index_is_an_answer_and_not_a_crash(folder: Path, index: Path) -> None:
    async with Client(build_server(str(folder), index=str(index))) as client:
        ask = asker(client)
        assert not (await ask("search", query="word"))[1]
        with closing(sqlite3.connect(index)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = index.stat().st_size
        with index.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        text, is_error = await ask("search", query="word")
        assert is_error and "The index cannot be read" in text
        text, is_error = await ask("refresh")
        assert is_error and "was not refreshed" in text and str(index) not in text


async def test_a_search_that_takes_too_long_is_stopped(
    folder: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_servers.search.index.STEPS_PER_CHECK", 1)
    await refreshed(folder, index)
    async with Client(build_server(str(folder), index=str(index), limits=Limits(search_s=0.0))) as client:
        text, is_error = await asker(client)("search", query="word")
        assert is_error and text == "This took longer than 0 s. Use fewer and rarer words."


# Bidirectional override, ASCII in Unicode tags, escape code, zero-width space, NUL-like controls, line separator.
HIDDEN = "\u202e\U000e0069\U000e0067\x1b[2J\u200b\x02\x03\x85\u2028"


def poison(index: Path, *statements: str) -> None:
    """Rewrite an index file as somebody else could have written it."""
    with closing(sqlite3.connect(index)) as connection:
        for statement in statements:
            connection.execute(statement, {"hidden": HIDDEN})
        connection.commit()


async def test_what_a_poisoned_index_says_passes_the_filter_of_hidden_characters(
    folder: Path, index: Path
) -> None:
    write(folder / "big.md", "x" * 2_000)
    limits = Limits(max_text_file_bytes=1_000)
    await ask_once(build_server(str(folder), index=str(index), limits=limits), "refresh")
    poison(
        index,
        "UPDATE words SET heading = 'head' || :hidden || 'ing', body = 'a wo' || :hidden || 'rd, word' || :hidden",
        "UPDATE files SET kind = 'm' || :hidden || 'd', problem = 'prob' || :hidden || 'lem'",
        """UPDATE facts SET value = '{"rea' || :hidden || 'son": 1}' WHERE name = 'left_out'""",
    )
    async with Client(build_server(str(folder), index=str(index), limits=limits)) as client:
        # What is in the file is shown before this server has refreshed it: it is unchanged, so it stays.
        for tool, arguments, expected in (
            ("search", {"query": "word"}, "head"),
            ("index_status", {}, "prob"),
        ):
            result = await client.call_tool(tool, arguments)
            (content,) = result.content
            assert content.type == "text"
            assert expected in content.text
            said = content.text + json.dumps(result.structured_content, ensure_ascii=False)
            assert not set(said) & set(HIDDEN.replace("[2J", ""))


async def test_a_poisoned_index_that_is_not_unicode_can_still_be_searched(folder: Path, index: Path) -> None:
    await ask_once(build_server(str(folder), index=str(index)), "refresh")
    poison(index, "UPDATE words SET heading = CAST(x'61ff62' AS TEXT), body = CAST(x'776f726420ff0a' AS TEXT)")
    text, is_error = await ask_once(build_server(str(folder), index=str(index)), "search", query="word")
    assert not is_error
    assert "a\ufffdb" in text


async def test_what_sqlite_says_of_a_poisoned_schema_is_filtered(folder: Path, index: Path) -> None:
    async with Client(build_server(str(folder), index=str(index))) as client:
        await asker(client)("refresh")
        poison(index, "PRAGMA writable_schema = ON")
        with closing(sqlite3.connect(index)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "UPDATE sqlite_schema SET sql = 'CREATE TABLE ' || :hidden WHERE name = 'passages'",
                {"hidden": HIDDEN},
            )
            connection.execute("PRAGMA schema_version = 4711")
            connection.commit()
        for tool, arguments in (("search", {"query": "word"}), ("refresh", {})):
            text, is_error = await asker(client)(tool, **arguments)
            assert is_error
            assert not set(text) & set(HIDDEN.replace("[2J", ""))


async def test_a_name_with_hidden_characters_stays_the_name_of_its_file(folder: Path, index: Path) -> None:
    write(folder / "a\u200bb\u00adc.md", "zebra\n")
    server = build_server(str(folder), index=str(index))
    async with Client(server) as client:
        ask = asker(client)
        found = await client.call_tool("search", {"query": "zebra"})
        assert found.structured_content is not None
        (hit,) = found.structured_content["hits"]
        assert (hit["path"], hit["note"]) == ("a\u200bb\u00adc.md", "")
        assert "zebra" in (await ask("read_passage", path=hit["path"]))[0]
        assert "read: 0" in (await ask("refresh"))[0]  # it is known, and not read once more
        text, _ = await ask("search", query="zebra")
        assert "a\\u200bb\\xadc.md" in text
        text, _ = await ask("read_passage", path="x/a\u200bb\u00adc.md")
        assert "Did you mean 'a\\\\u200bb\\\\xadc.md'?" in text
