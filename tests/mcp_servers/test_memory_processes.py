"""Two servers on one store, and servers killed in the middle of a write: nothing lost, doubled or half done."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from server_harness import REPOSITORY, ask_once, asker

from mcp_servers.memory.server import build_server

N_CALLS = 25
BATCH = 40

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def check_sound(path: Path) -> None:
    """The file is whole, and the history tells exactly what is there."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []
    for what, table in (("entity", "entities"), ("observation", "observations"), ("relation", "relations")):
        counted = f"SELECT sum(CASE change WHEN 'added' THEN 1 ELSE -1 END) FROM history WHERE what = '{what}'"
        assert (rows(path, counted)[0][0] or 0,) == rows(path, f"SELECT count(*) FROM {table}")[0]
    assert rows(path, "SELECT count(*) FROM history") == rows(path, "SELECT coalesce(max(id), 0) FROM history")
    assert rows(path, "SELECT count(*) FROM search") == rows(path, "SELECT count(*) FROM entities")


def children_of(pid: int) -> list[int]:
    """Any of its threads may have started them."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text(encoding="ascii").split()]


@pytest.mark.anyio
async def test_two_processes_write_at_once_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    store = tmp_path / "memory.db"
    build_server(str(store))
    ready = [anyio.Event(), anyio.Event()]

    async def write(who: int) -> None:
        arguments = ["-m", "mcp_servers.memory", str(store)]
        async with Client(StdioServerParameters(command=sys.executable, args=arguments, cwd=REPOSITORY)) as client:
            ask = asker(client)
            await ask("search_nodes", query="warm")
            ready[who].set()
            await ready[1 - who].wait()
            for number in range(N_CALLS):
                entities = [
                    {"name": f"own {who} {number}", "entityType": "x", "observations": ["a", "b"]},
                    {"name": f"shared {number}", "entityType": "x", "observations": ["common", f"of {who}"]},
                ]
                text, is_error = await ask("create_entities", entities=entities)
                assert not is_error, text
                if number % 5 == 4:
                    text, is_error = await ask("delete_entities", entityNames=[f"own {who} {number}"])
                    assert not is_error, text

    async with anyio.create_task_group() as group:
        group.start_soon(write, 0)
        group.start_soon(write, 1)

    n_deleted = N_CALLS // 5
    expected = {f"shared {number}": ["common", "of 0", "of 1"] for number in range(N_CALLS)}
    expected |= {f"own {w} {n}": ["a", "b"] for w in (0, 1) for n in range(N_CALLS) if n % 5 != 4}
    found: dict[str, list[str]] = {}
    for name, text in rows(store, "SELECT name, text FROM entities e JOIN observations o ON o.entity = e.id"):
        found.setdefault(name, []).append(text)
    assert {name: sorted(texts) for name, texts in found.items()} == expected
    check_sound(store)
    added = "SELECT count(*) FROM history WHERE what = 'entity' AND change = 'added'"
    assert rows(store, added) == [(3 * N_CALLS,)]
    assert rows(store, "SELECT count(*) FROM history WHERE change = 'deleted'") == [(2 * n_deleted * 3,)]
    writers = [name[4] for (name,) in rows(store, "SELECT name FROM history WHERE name LIKE 'own%' ORDER BY id")]
    assert sum(a != b for a, b in pairwise(writers)) > 2, "the processes did not write at the same time"
    # One call's rows stand together: the transactions did not mix.
    calls = [call for (call,) in rows(store, "SELECT call FROM history ORDER BY id")]
    assert calls == sorted(calls)


@pytest.mark.anyio
async def test_a_process_killed_in_the_middle_of_a_write_leaves_the_old_state(tmp_path: Path) -> None:
    store = tmp_path / "memory.db"
    old = {"name": "Anna", "entityType": "person", "observations": ["old"]}
    await ask_once(build_server(str(store)), "create_entities", entities=[old])
    # The cache is made tiny, so that SQLite writes the unfinished transaction to the log before the kill.
    code = (
        "import sys; from pathlib import Path\n"
        "from mcp_servers.memory import changes, policy, store_file\n"
        f"with store_file.transaction(Path({str(store)!r}), policy.Limits(), write=True) as connection:\n"
        "    connection.execute('PRAGMA cache_size = 1')\n"
        "    call = changes.Call(connection, 'test')\n"
        "    changes.delete_entities(call, ['Anna'])\n"
        "    texts = [str(number) * 300 for number in range(400)]\n"
        "    changes.create_entities(call, [{'name': 'Bob', 'kind': 'x', 'texts': texts}])\n"
        "    call.answer(); print('in the middle', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"in the middle\n"
    assert Path(f"{store}-wal").stat().st_size > 100_000
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    async with Client(build_server(str(store))) as client:
        ask = asker(client)
        assert await ask("read_graph") == ("1 entity, 1 observation\nAnna (person)\n- old", False)
        assert await ask("search_nodes", query="old") == ("Anna (person): [old]", False)
        assert (await ask("list_changes"))[0].count("\n") == 1
        assert await ask("remember", name="Bob", fact="new") == ("added 1 entity, 1 observation", False)
    check_sound(store)


@pytest.mark.parametrize("n_answered", [0, 2])
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the server's child in /proc")
def test_a_server_and_its_child_killed_while_they_write_leave_whole_calls(tmp_path: Path, n_answered: int) -> None:
    store = tmp_path / "memory.db"
    build_server(str(store))
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_servers.memory", str(store)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None

    def send(message: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        process.stdin.flush()

    def call(number: int, tool: str, **arguments: Any) -> None:
        send({"id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})

    send(INITIALIZE)
    process.stdout.readline()
    send({"method": "notifications/initialized"})
    call(1, "read_graph")  # starts the child
    assert b'"id":1' in process.stdout.readline()
    (child,) = children_of(process.pid)
    for batch in range(n_answered + 3):
        entities = [
            {"name": f"{batch}/{number}", "entityType": "x", "observations": ["y" * 500]}
            for number in range(BATCH)
        ]
        call(10 + batch, "create_entities", entities=entities)
    answered = [json.loads(process.stdout.readline()) for _ in range(n_answered)]
    for pid in (process.pid, child):
        os.kill(pid, signal.SIGKILL)
    process.communicate()

    build_server(str(store))  # recovers, and finds it sound
    counts = dict(rows(store, "SELECT substr(name, 1, instr(name, '/') - 1), count(*) FROM entities GROUP BY 1"))
    assert set(counts.values()) <= {BATCH}
    assert {str(reply["id"] - 10) for reply in answered} <= counts.keys()
    assert not any(reply["result"].get("isError") for reply in answered)
    check_sound(store)
