"""Query plans: what `explain` says, and that nothing it is given is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from server_harness import ask_once, asker
from test_sqlite import WRITES

from mcp_servers.sqlite.plans import access_of, plan_steps, without_explain
from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.server import build_server


@pytest.mark.anyio
async def test_a_plan_says_what_is_scanned_and_what_an_index_finds(database: str) -> None:
    join = "select * from users u join orders o on o.user_id = u.id where u.name = ? order by o.note"
    async with Client(build_server(database)) as client:
        ask = asker(client)
        assert await ask("explain", sql="select * from users") == ("reads every row of: users\nSCAN users", False)
        assert await ask("explain", sql=join, parameters=["Ann"]) == (
            "reads every row of: o\nfinds rows by an index or key in: u\n"
            "SEARCH u USING INDEX sqlite_autoindex_users_1 (name=?)\nSCAN o\nUSE TEMP B-TREE FOR ORDER BY",
            False,
        )
        unindexed = "select * from orders a, orders b where a.note = b.note"
        text, _ = await ask("explain", sql=unindexed)
        assert "has no index and builds one each time for: b" in text
        either = "select * from users where id = 1 or name = 'Ann'"
        text, _ = await ask("explain", sql=either)
        assert "\n  INDEX 1\n    SEARCH users" in text
        assert await ask("explain", sql="select 1") == ("SCAN CONSTANT ROW", False)
        result = await client.call_tool("explain", {"sql": join, "parameters": ["Ann"]})
        assert result.structured_content is not None
        assert result.structured_content["scanned"] == ["o"] and result.structured_content["searched"] == ["u"]


@pytest.mark.anyio
@pytest.mark.parametrize("write", [False, True])
async def test_nothing_that_is_explained_is_run(database: str, write: bool) -> None:
    before, folder = Path(database).read_bytes(), Path(database).parent
    async with Client(build_server(database, write=write)) as client:
        ask = asker(client)
        for sql in WRITES:
            text, is_error = await ask("explain", sql=sql.format(folder=folder))
            # What SQLite authorizes only when it runs (the ATTACH in a VACUUM, a pragma as a table) has a plan.
            assert is_error or write or sql.startswith(("vacuum", "select * from pragma_")), sql
            assert str(folder) not in text
    assert Path(database).read_bytes() == before
    assert os.listdir(folder) == ["shop.db"]


@pytest.mark.anyio
async def test_a_change_is_explained_only_where_changes_are_offered(database: str) -> None:
    sql = "update users set photo = null where id = 1"
    text, is_error = await ask_once(build_server(database), "explain", sql=sql)
    assert is_error and "only reading is possible" in text
    assert await ask_once(build_server(database, write=True), "explain", sql=sql) == (
        "finds rows by an index or key in: users\nSEARCH users USING INTEGER PRIMARY KEY (rowid=?)",
        False,
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("", "sql is empty"),
        ("explain query plan  ", "sql is empty"),
        ("select * from usr", "Did you mean 'users'?"),
        ("select 1; select 2", "one statement"),
        ("select ?", "bindings"),
        ("pragma writable_schema = 1", "not allowed"),
    ],
)
async def test_a_wrong_statement_is_explained_as_for_a_query(database: str, sql: str, hint: str) -> None:
    text, is_error = await ask_once(build_server(database), "explain", sql=sql)
    assert is_error and hint in text


@pytest.mark.anyio
async def test_a_long_plan_is_cut(database: str) -> None:
    limits = Limits(max_plan_steps=3)
    sql = " union all ".join(["select id from users"] * 10)
    text, is_error = await ask_once(build_server(database, limits=limits), "explain", sql=sql)
    assert not is_error and text.endswith("(more steps not shown)") and text.count("\n") == 4


@pytest.mark.parametrize("sql", ["explain select 1", " EXPLAIN  query PLAN select 1", "select 1"])
def test_explain_before_a_statement_is_taken_off(sql: str) -> None:
    assert without_explain(sql) == "select 1"


@pytest.mark.parametrize(
    ("detail", "scanned", "searched"),
    [
        ("SCAN TABLE users AS u", ["u"], []),  # before SQLite 3.36
        ("SEARCH TABLE users USING INTEGER PRIMARY KEY (rowid=?)", [], ["users"]),
        ("SCAN users USING COVERING INDEX i", ["users"], []),
        ("SCAN we ird\nname", ["we ird\nname"], []),
        ("SCAN 2 CONSTANT ROWS", [], []),
        ("SCAN 2-ROW VALUES CLAUSE", [], []),
        ("SCAN (subquery-1)", [], []),
        ("SCAN pages VIRTUAL TABLE INDEX 0:M1", [], []),
        ("USE TEMP B-TREE FOR ORDER BY", [], []),
    ],
)
def test_the_words_of_a_plan_are_understood(detail: str, scanned: list[str], searched: list[str]) -> None:
    access = access_of(plan_steps([(1, 0, 0, detail)]))
    assert (access.scanned, access.searched) == (scanned, searched)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.just(0), st.text(max_size=20))))
def test_any_rows_make_a_tree(rows: list[tuple[int, int, int, str]]) -> None:
    steps = plan_steps(rows)
    assert [step.detail for step in steps] == [row[3] for row in rows]
    assert all(0 <= step.depth <= number for number, step in enumerate(steps))
    access_of(steps)
