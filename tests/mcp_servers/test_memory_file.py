"""The memory server's file: what is recognised, created, refused, and never changed."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from server_harness import REPOSITORY, ask_once, asker

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.memory.policy import Limits
from mcp_servers.memory.schema import APPLICATION_ID, FORMAT_VERSION, SCHEMA
from mcp_servers.memory.server import WORKER, build_server
from mcp_servers.memory.store_file import transaction

FACTS = [f"fact {number} of Anna" for number in range(20)]
ANNA = {"name": "Anna", "entityType": "person", "observations": FACTS}


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    path = tmp_path / "memory.db"
    await ask_once(build_server(str(path)), "create_entities", entities=[ANNA])
    return path


def change(path: Path, *statements: str) -> None:
    """Change a store as another program would."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refused(path: Path) -> str:
    """Return why the file is refused, after making sure that it and its folder were left as they were."""
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()}
    reasons: list[str] = []
    for read_only in (False, True):
        with pytest.raises(StartError) as error:
            build_server(str(path), read_only=read_only)
        reasons.append(str(error.value))
    after = {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()}
    assert after == before and reasons[0] == reasons[1]
    return reasons[0]


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\0", b"{}", b"SQLite format 3\0" + b"\0" * 500, b"x" * 5_000]
)
def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert "it is left as it is" in refused(path)


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    change(path, "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    assert "is another program's SQLite database; it is left as it is" in refused(path)
    change(path, "PRAGMA journal_mode = WAL", "PRAGMA application_id = 1", "PRAGMA user_version = 1")
    assert "is another program's" in refused(path)


def test_another_programs_database_with_an_open_log_is_left_as_it_is(tmp_path: Path) -> None:
    """SQLite would copy the log into the file when it is opened and closed."""
    path = tmp_path / "other.db"
    change(path, "PRAGMA journal_mode = WAL", "CREATE TABLE t(a)")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO t VALUES (1)")
    assert Path(f"{path}-wal").stat().st_size > 0
    assert "is another program's" in refused(path)
    connection.close()


@pytest.mark.anyio
async def test_a_store_of_a_later_format_is_refused(store: Path) -> None:
    change(store, "PRAGMA user_version = 2")
    assert "is a memory store of format 2; this server knows format 1" in refused(store)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(StartError, match="is not a file"):
            build_server(str(path))
    with pytest.raises(StartError, match="folder .* does not exist"):
        build_server(str(tmp_path / "no" / "memory.db"))
    with pytest.raises(StartError, match="does not exist"):
        build_server(str(tmp_path / "memory.db"), read_only=True)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_new_store_is_its_owners_alone_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    build_server(str(path))
    assert os.listdir(tmp_path) == ["memory.db"]
    assert path.stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
def test_a_log_without_its_file_is_not_replayed_into_a_new_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"memory.db{suffix}").write_bytes(b"x" * 100)
    with pytest.raises(StartError, match=f"'memory.db{suffix}' of an earlier store is there"):
        build_server(str(tmp_path / "memory.db"))
    assert os.listdir(tmp_path) == [f"memory.db{suffix}"]


def test_of_servers_that_start_at_once_one_creates_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mcp_servers.memory", str(tmp_path / "memory.db")]
    servers = [
        subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    errors = [server.communicate()[1] for server in servers]
    assert [server.returncode for server in servers] == [0, 0, 0], errors
    assert os.listdir(tmp_path) == ["memory.db"]
    build_server(str(tmp_path / "memory.db"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["/no/such/folder/memory.db"], "does not exist"),
        ([__file__], "is not a memory store"),
        (["x", "--max-mb", "0"], "at least 1"),
    ],
)
def test_a_wrong_command_line_is_explained_without_a_traceback(arguments: list[str], problem: str) -> None:
    command = [sys.executable, "-m", "mcp_servers.memory", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert problem in done.stderr and "Traceback" not in done.stderr


def test_help_does_not_import_mcp() -> None:
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('mcp_servers.memory', run_name='__main__')\n"
        "except SystemExit: print('mcp' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert "--read-only" in done.stdout and done.stderr.strip() == "False"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TRIGGER evil AFTER INSERT ON entities BEGIN DELETE FROM observations; END", "evil"),
        ("CREATE VIEW evil AS SELECT 1", "evil"),
        ("CREATE TABLE evil(a)", "evil"),
        ("CREATE INDEX evil ON entities(kind)", "evil"),
        ("DROP TRIGGER history_is_not_deleted", "history_is_not_deleted"),
        ("ALTER TABLE entities ADD COLUMN evil TEXT", "entities"),
        ("DROP TABLE search", "search"),
        ("ALTER TABLE relations RENAME TO r", "relations"),
    ],
)
async def test_a_store_whose_schema_was_changed_is_refused(store: Path, statement: str, named: str) -> None:
    change(store, statement)
    with pytest.raises(StartError, match=f"changed by another program and is not used. It differs in: .*{named}"):
        build_server(str(store))


@pytest.mark.anyio
async def test_a_schema_that_is_changed_while_the_server_runs_is_refused_too(store: Path) -> None:
    async with Client(build_server(str(store))) as client:
        ask = asker(client)
        assert not (await ask("remember", name="Bob", fact="x"))[1]
        change(store, "CREATE TRIGGER evil AFTER INSERT ON entities BEGIN DELETE FROM observations; END")
        for tool, arguments in (("remember", {"name": "Cid", "fact": "x"}), ("read_graph", {})):
            text, is_error = await ask(tool, **arguments)
            assert is_error and "It differs in: evil" in text
        change(store, "DROP TRIGGER evil")
        assert not (await ask("remember", name="Cid", fact="x"))[1]


@pytest.mark.anyio
async def test_a_file_that_is_swapped_while_the_server_runs_is_refused_and_left_as_it_is(store: Path) -> None:
    async with Client(build_server(str(store))) as client:
        store.unlink()
        change(store, "CREATE TABLE t(a)")
        before = store.read_bytes()
        text, is_error = await asker(client)("remember", name="Bob", fact="x")
        assert is_error and "is another program's SQLite database" in text
        assert store.read_bytes() == before


@pytest.mark.anyio
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET content = 'x'",
        "DELETE FROM history",
        "DELETE FROM history WHERE id = 1",
        "UPDATE OR REPLACE history SET id = 2 WHERE id = 1",
    ],
)
async def test_the_history_is_append_only_for_every_program(store: Path, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        change(store, statement)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO entities VALUES (7, hex(zeroblob(200)), 'k', 'x')",
        "INSERT INTO observations VALUES (99, 1, hex(zeroblob(2000)))",
        "INSERT INTO observations VALUES (99, 1, '')",
        "INSERT INTO entities VALUES (7, x'00ff', 'k', 'x')",
        "INSERT INTO history SELECT 99, 1, at, tool, 'changed', what, name, name_key, content, target, target_key "
        "FROM history LIMIT 1",
    ],
)
async def test_the_caps_hold_for_every_program(store: Path, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        change(store, statement)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO observations VALUES (99, 1, hex(zeroblob(5000)))",
        "UPDATE search_data SET block = zeroblob(40) WHERE id > 10",
        "UPDATE search_content SET c0 = 'Eve'",
    ],
)
async def test_a_store_that_is_damaged_inside_is_refused(store: Path, statement: str) -> None:
    change(store, "PRAGMA ignore_check_constraints = 1", statement)
    with pytest.raises(StartError, match="The store (is damaged|cannot be used): "):
        build_server(str(store))


@pytest.mark.anyio
async def test_whatever_bytes_are_broken_every_call_is_answered(store: Path) -> None:
    """Random damage: each request ends with an answer or a failure, and a sound store is served afterwards."""
    sound = store.read_bytes()
    chance = random.Random(5)
    child = KillableChild(WORKER)
    requests: list[tuple[str, dict[str, Any]]] = [
        ("check", {}),
        ("read_graph", {"after": 0}),
        ("search_nodes", {"words": ["fact"], "offset": 0}),
        ("list_changes", {"name": "", "before": 0}),
        ("create_entities", {"entities": [{"name": "Bob", "kind": "x", "texts": ["fact"]}]}),
        ("delete_entities", {"names": ["Anna"]}),
    ]

    def answer(do: str, arguments: dict[str, Any]) -> str:
        limits = asdict(Limits(timeout_s=1.0))
        request = {"do": do, "path": str(store), "read_only": False, "limits": limits, "arguments": arguments}
        try:
            child.call(request, timeout_s=30)
        except ToolFailure as failure:
            return str(failure)
        return "answered"

    answers: set[str] = set()
    try:
        for _ in range(40):
            broken = bytearray(sound)
            for _ in range(chance.choice([1, 10, 100])):
                broken[chance.randrange(100, len(broken))] = chance.randrange(256)
            store.write_bytes(bytes(broken[: chance.choice([len(broken), len(broken) // 2])]))
            answers |= {answer(do, arguments) for do, arguments in requests}
            for suffix in ("-wal", "-shm", "-journal"):
                Path(f"{store}{suffix}").unlink(missing_ok=True)
        store.write_bytes(sound)
        assert {answer(do, arguments) for do, arguments in requests} == {"answered"}
    finally:
        child.close()
    assert any("damaged" in text or "malformed" in text for text in answers)


@pytest.mark.anyio
async def test_a_full_store_says_so_changes_nothing_and_can_still_be_deleted_from(tmp_path: Path) -> None:
    limits = Limits(max_store_bytes=300_000, delete_reserve_bytes=200_000)
    path = tmp_path / "memory.db"
    async with Client(build_server(str(path), limits=limits)) as client:
        ask = asker(client)
        names: list[str] = []
        while True:
            entity = {
                "name": f"e{len(names)}",
                "entityType": "x",
                "observations": [f"{n} " * 400 for n in range(10)],
            }
            text, is_error = await ask("create_entities", entities=[entity])
            if is_error:
                break
            names.append(entity["name"])
        assert "The store is full (0.286102 MiB) or the disk is; nothing was saved" in text
        assert path.stat().st_size <= limits.max_store_bytes and names
        assert (await ask("open_nodes", names=[f"e{len(names)}"]))[1]
        assert (await ask("read_graph"))[0].startswith(f"{len(names)} entities, {10 * len(names)} observations")
        assert await ask("delete_entities", entityNames=names[:3]) == (
            "deleted 3 entities, 30 observations",
            False,
        )
    build_server(str(path))


@pytest.mark.anyio
async def test_a_store_that_another_program_locks_is_waited_for_and_then_said(store: Path) -> None:
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    async with Client(build_server(str(store), limits=Limits(timeout_s=0.2))) as client:
        ask = asker(client)
        text, is_error = await ask("remember", name="Bob", fact="x")
        assert is_error and "Another program keeps the store locked; nothing was changed" in text
        assert not (await ask("read_graph"))[1]  # readers do not wait
        connection.execute("ROLLBACK")
        assert not (await ask("remember", name="Bob", fact="x"))[1]
    connection.close()


@pytest.mark.anyio
async def test_a_call_that_takes_too_long_is_stopped_and_changes_nothing(store: Path) -> None:
    async with Client(build_server(str(store))) as client:
        for name in ("Bob", "Cid", "Dan"):
            entity = {"name": name, "entityType": "x", "observations": [f"fact {number}" for number in range(100)]}
            assert not (await asker(client)("create_entities", entities=[entity]))[1]
    before = store.read_bytes()
    async with Client(build_server(str(store), limits=Limits(timeout_s=1e-9))) as client:
        for tool, arguments in (("list_changes", {}), ("delete_entities", {"entityNames": ["Bob"]})):
            text, is_error = await asker(client)(tool, **arguments)
            assert is_error and "longer than 1e-09 s and was stopped; nothing was changed" in text
    assert store.read_bytes() == before


@pytest.mark.anyio
async def test_a_child_that_dies_or_hangs_is_a_failure_and_the_server_lives(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = build_server(str(store))
    real_call = KillableChild.call
    async with Client(server) as client:
        for error, hint in ((ChildCrash, "may be damaged"), (ChildTimeout, "saved as a whole or not at all")):

            def failing(*arguments: Any, error: type[Exception] = error) -> None:
                raise error

            monkeypatch.setattr(KillableChild, "call", failing)
            text, is_error = await asker(client)("read_graph")
            assert is_error and hint in text
            monkeypatch.setattr(KillableChild, "call", real_call)
            assert not (await asker(client)("read_graph"))[1]


@pytest.mark.anyio
async def test_a_connection_is_opened_safely(store: Path) -> None:
    with transaction(store, Limits(heap_bytes=0), write=True) as connection:
        values = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("trusted_schema", "cell_size_check", "foreign_keys", "mmap_size", "query_only")
        }
        assert values == {
            "trusted_schema": 0,
            "cell_size_check": 1,
            "foreign_keys": 1,
            "mmap_size": 0,
            "query_only": 0,
        }
        with pytest.raises(sqlite3.OperationalError, match="not authorized"):
            connection.execute("SELECT load_extension('x')")
        with pytest.raises(sqlite3.OperationalError, match="too many attached"):
            connection.execute("ATTACH ':memory:' AS other")
        with pytest.raises(sqlite3.DataError, match="too big"):
            connection.execute("SELECT zeroblob(9000000)")
    for read_only_file in (False, True):
        reading = transaction(store, Limits(heap_bytes=0), write=False, read_only_file=read_only_file)
        with pytest.raises(ToolFailure, match="readonly"), reading as connection:
            connection.execute("DELETE FROM entities")


def test_the_schema_is_the_one_that_format_1_has() -> None:
    """A store's tables are compared text by text: a changed schema needs a new FORMAT_VERSION."""
    digest = hashlib.sha256(SCHEMA.encode()).hexdigest()
    assert (FORMAT_VERSION, digest[:16]) == (1, "93b4a6606e2eef1d")
