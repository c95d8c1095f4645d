"""The SQLite server's limits: nothing runs for ever, fills the memory or floods the answer."""

from __future__ import annotations

import sqlite3

import pytest
from mcp import Client
from server_harness import ask_once, asker, query

from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.server import build_server

pytestmark = pytest.mark.anyio

FOREVER = "with recursive r(n) as (select 1 union all select n + 1 from r) "
SHORT = Limits(timeout_s=0.3)


async def test_a_query_without_end_is_stopped_and_the_server_lives(database: str) -> None:
    async with Client(build_server(database, limits=SHORT)) as client:
        text, is_error = await asker(client)("query", sql=FOREVER + "select count(*) from r")
        assert is_error and "longer than 0.3 s" in text
        assert await asker(client)("query", sql="select 1 as a") == ("a\n1", False)


async def test_a_write_that_is_stopped_leaves_nothing(database: str) -> None:
    async with Client(build_server(database, write=True, limits=SHORT)) as client:
        assert (await asker(client)("execute", sql=f"insert into orders(note) {FOREVER} select n from r"))[1]
        assert await asker(client)("query", sql="select count(*) as n from orders") == ("n\n2", False)


async def test_a_statement_that_looks_at_no_clock_is_killed(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`instr` of two long strings is one opcode: neither the progress handler nor an interrupt stops it."""
    monkeypatch.setattr("mcp_servers.sqlite.server.GRACE_S", 0.2)
    slow = "instr(hex(zeroblob(400000)), hex(zeroblob(200000)) || ?)"
    async with Client(build_server(database, limits=SHORT)) as client:
        sql = "select " + ", ".join([slow] * 60)
        text, is_error = await asker(client)("query", sql=sql, parameters=["1"] * 60)
        assert is_error and "was stopped" in text
    assert await query(database, "select 1 as a") == ("a\n1", False)


@pytest.mark.parametrize(
    "sql",
    [
        "select zeroblob(1000000000)",
        "select length(randomblob(1000000000))",
        "select hex(zeroblob(900000))",
        "select replace(hex(zeroblob(500000)), '0', '0000')",
        f"select group_concat(hex(randomblob(1000))) from ({FOREVER} select n from r limit 1000000)",
        f"select json_group_array(hex(randomblob(1000))) from ({FOREVER} select n from r limit 1000000)",
        f"select count(*) from ({FOREVER} select randomblob(900000) as b from r limit 100000) order by b",
        "select " + ", ".join(["zeroblob(1000000)"] * 101),
        "select " + "abs(" * 5_000 + "1" + ")" * 5_000,
        "select 1" + " union all select 1" * 5_000,
    ],
)
async def test_a_memory_bomb_is_an_error_and_the_server_lives(database: str, sql: str) -> None:
    async with Client(build_server(database, limits=Limits(timeout_s=1.0))) as client:
        assert (await asker(client)("query", sql=sql))[1]
        assert await asker(client)("query", sql="select 1 as a") == ("a\n1", False)


async def test_many_large_values_in_one_row_are_shown_in_words(database: str) -> None:
    text, is_error = await query(database, "select " + ", ".join(["zeroblob(1000000)"] * 50))
    assert not is_error and text.count("<blob of 1000000 bytes: 0000000000000000...>") == 50


async def test_rows_cells_and_bytes_are_limited(database: str) -> None:
    limits = Limits(max_rows=2, max_cell_chars=5, max_answer_bytes=200)
    rows = f"{FOREVER} select n from r limit 10"
    async with Client(build_server(database, limits=limits)) as client:
        result = await client.call_tool("query", {"sql": rows})
        assert result.structured_content == {"columns": ["n"], "rows": [[1], [2]], "truncated": True}
        assert await asker(client)("query", sql="select 'abcdefg' as a") == ("a\nabcde... (7 characters)", False)
        wide = "select " + ", ".join(["'abcdefg'"] * 20)
        assert await asker(client)("query", sql=wide) == ("(one row is too large; select fewer columns)", False)


async def test_a_value_cannot_look_like_another_row_or_break_json(database: str) -> None:
    sql = "select 'a' || char(10) || '2 | Eve' as x, 9e999 as inf, cast(x'ff41' as text) as bad"
    assert await query(database, sql) == ("x | inf | bad\na\\n2 | Eve | inf | \ufffdA", False)


async def test_a_large_value_fails_by_name_and_not_in_the_sample(database: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute("update users set photo = zeroblob(3000000) where id = 2")
    connection.commit()
    connection.close()
    text, is_error = await query(database, "select * from users")
    assert is_error and "length(column)" in text
    assert await query(database, "select length(photo) as n from users where id = 2") == ("n\n3000000", False)
    text, is_error = await ask_once(build_server(database), "describe_table", table="users")
    assert not is_error and "2 | Bob | <large value>" in text
