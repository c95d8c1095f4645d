"""The SQLite server: what reads, what writes, and what must not write."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from server_harness import Ask, ask_once, asker, query

from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.server import build_server
from tests.mcp_servers.conftest import make_database

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that no test changes."""
    return make_database(tmp_path_factory.mktemp("kept") / "shop.db")


@pytest.fixture(scope="module")
async def read_only(kept: str) -> AsyncIterator[Ask]:
    """Serve a database to statements that must not change it."""
    async with Client(build_server(kept)) as client:
        yield asker(client)


@pytest.fixture(scope="module")
async def writing(kept: str) -> AsyncIterator[Ask]:
    """Serve a writable database to statements that the server must refuse."""
    async with Client(build_server(kept, write=True)) as client:
        yield asker(client)


async def test_the_schema_is_told_in_few_words(database: str) -> None:
    async with Client(build_server(database)) as client:
        ask = asker(client)
        assert await ask("list_tables") == (
            "broken() view\nnames(name) view\norders(id, user_id, note)\npages(body)\nusers(id, name, photo)",
            False,
        )
        assert await ask("describe_table", table="Users") == (
            "table users\nid INTEGER primary key\nname TEXT not null\nphoto BLOB\nunique: name\nsample rows:\n"
            "id | name | photo\n1 | Ann | <blob of 2 bytes: 00ff>\n2 | Bob | NULL",
            False,
        )
        assert "references users.id" in (await ask("describe_table", table="orders", sample_rows=0))[0]
        text, is_error = await ask("describe_table", table="user")
        assert is_error and text == "There is no table 'user'. Did you mean 'users'?"


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            "SELECT * FROM recipes_2026",
            "There is no table 'recipes_2026'. The tables are 'broken', 'names', 'orders', 'pages', 'users'.",
        ),
        (
            "SELECT baking_time FROM users",
            "There is no column 'baking_time'. The columns are names.name, orders.id, orders.user_id, "
            "orders.note, pages.body, users.id, users.name, users.photo.",
        ),
        (
            "INSERT INTO users (id, address) VALUES (8, 'Oslo')",
            "The table 'users' has no column 'address'. The columns are id, name, photo.",
        ),
    ],
)
async def test_a_statement_with_a_wrong_name_is_answered_with_the_names(writing: Ask, sql: str, told: str) -> None:
    assert await writing("execute", sql=sql) == (told, True)


async def test_the_names_in_an_error_are_bounded(database: str) -> None:
    async with Client(build_server(database, write=True)) as client:
        ask = asker(client)
        for number in range(40):
            await ask("execute", sql=f"CREATE TABLE t{number} (x)")
        assert await ask("execute", sql="SELECT * FROM recipes_2026") == (
            "There is no table 'recipes_2026'. Use list_tables.",
            True,
        )


async def test_queries_with_parameters(database: str) -> None:
    assert await query(database, "select id from users where name = ?", "Ann") == ("id\n1", False)
    assert await query(database, "select ? as a, ? as b, ? as c", 1, 1.5, None) == (
        "a | b | c\n1 | 1.5 | NULL",
        False,
    )
    assert await query(database, "select body from pages where pages match ?", "hello") == (
        "body\nhello world",
        False,
    )
    assert await query(database, "select * from users where id = 9") == ("no rows", False)


@pytest.mark.parametrize(
    ("sql", "parameters", "hint"),
    [
        ("select nam from users", [], "Did you mean 'name'?"),
        ("select photo from orders", [], "The column is of 'users': join it."),
        ("select orders.photo from orders", [], "The column is of 'users': join it."),
        ("select * from usr", [], "Did you mean 'users'?"),
        ("select ?", [], "Incorrect number of bindings"),
        ("select 1", [2], "Incorrect number of bindings"),
        ("select :a", [], "binding"),
        ("selec 1", [], "syntax error"),
        ("  ", [], "sql is empty"),
        ("select 1; select 2", [], "one statement"),
        ("select ?", [2**63], "64-bit"),
        ("select json('{')", [], "malformed JSON"),
    ],
)
async def test_a_wrong_statement_is_answered_with_what_to_do(
    read_only: Ask, sql: str, parameters: list[Any], hint: str
) -> None:
    text, is_error = await read_only("query", sql=sql, parameters=parameters)
    assert is_error and hint in text


WRITES = [
    "insert into users(name) values ('x')",
    "update users set name = 'x'",
    "delete from users",
    "replace into users values (1, 'x', null)",
    "with x as (select 'x' as name) insert into users(name) select name from x",
    "insert into users(name) values ('x') returning id",
    "insert into pages(pages) values ('rebuild')",
    "insert into pages_data values (99, x'00')",
    "create table t(a)",
    "create table if not exists users(a)",
    "create table t as select * from users",
    "create temp table t(a)",
    "create temp view t as select 1",
    "create temp trigger t after insert on users begin select 1; end",
    "create trigger t after insert on users begin delete from users; end",
    "create view t as select 1",
    "create index t on users(name)",
    "create virtual table t using fts5(a)",
    "drop table users",
    "drop view names",
    "alter table users rename to u",
    "alter table users add column z",
    "reindex",
    "analyze",
    "vacuum",
    "vacuum into '{folder}/copy.db'",
    "attach '{folder}/other.db' as other",
    "attach ':memory:' as other",
    "attach 'file:{folder}/other.db?mode=rwc' as other",
    "detach main",
    "begin",
    "begin immediate",
    "commit",
    "rollback",
    "savepoint s",
    "pragma writable_schema = 1",
    "pragma writable_schema(1)",
    "PRAGMA main.Writable_Schema = on",
    "pragma query_only = 0",
    "pragma user_version = 7",
    "pragma journal_mode = wal",
    "pragma journal_mode = delete",
    "pragma temp_store_directory = '{folder}'",
    "pragma hard_heap_limit = 0",
    "pragma trusted_schema = 1",
    "pragma foreign_keys = 0",
    "pragma wal_checkpoint",
    "pragma optimize",
    "pragma incremental_vacuum",
    "pragma database_list",
    "select * from pragma_database_list",
    "update sqlite_master set sql = ''",
    "update sqlite_sequence set seq = 0",
    "select load_extension('libc.so.6')",
    "select LOAD_EXTENSION('libc.so.6', 'x')",
    "select fts3_tokenizer('simple')",
    "select fts3_tokenizer('simple', x'4141414141414141')",
    "select readfile('/etc/passwd')",
    "select writefile('{folder}/out', 'x')",
    "select edit('x', 'sh')",
    "select * from sqlite_dbpage",
    "update sqlite_dbpage set data = zeroblob(4096) where pgno = 1",
    "explain delete from users",
    "select 1; delete from users",
    "/* select */ delete from users",
    ".shell touch {folder}/out",
    "with x as (delete from users returning *) select * from x",
]


@pytest.mark.parametrize("sql", WRITES)
async def test_a_read_only_server_changes_nothing_whatever_is_asked(kept: str, read_only: Ask, sql: str) -> None:
    before, folder = Path(kept).read_bytes(), Path(kept).parent
    text, is_error = await read_only("query", sql=sql.format(folder=folder), parameters=[])
    assert is_error, text
    assert Path(kept).read_bytes() == before
    assert os.listdir(folder) == ["shop.db"]
    assert str(folder) not in text


async def test_the_file_is_read_only_even_if_the_authorizer_allowed_all(database: str) -> None:
    """Defence in depth: `mode=ro` and `query_only` hold without the policy."""
    from mcp_servers.sqlite.worker import open_database

    with open_database(database, False, Limits(heap_bytes=0)) as connection:
        for sql in ("delete from users", "create table t(a)", "pragma user_version = 7"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                connection.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "vacuum into '{folder}/copy.db'",
        "vacuum",
        "attach '{folder}/other.db' as other",
        "pragma writable_schema = 1",
        "pragma journal_mode = off",
        "update sqlite_master set sql = ''",
        "delete from sqlite_master",
        "select load_extension('x')",
        "insert into users(name) values (load_extension('x'))",
        "create temp table t(a)",
        "create table temp.t(a)",
        "create virtual table t using fts3(a)",
        "create virtual table t using dbstat",
        "create virtual table t using sqlite_dbpage",
        "update sqlite_dbpage set data = zeroblob(4096) where pgno = 1",
        "commit",
        "rollback",
        "savepoint s",
        "delete from users; drop table orders",
        "insert into users(name) values ('Ann')",
        "insert into orders(user_id) values (99)",
    ],
)
async def test_a_writing_server_still_denies_what_leaves_the_data(kept: str, writing: Ask, sql: str) -> None:
    folder = Path(kept).parent
    text, is_error = await writing("execute", sql=sql.format(folder=folder))
    assert is_error, text
    assert os.listdir(folder) == ["shop.db"]
    connection = sqlite3.connect(kept)
    assert connection.execute("select count(*) from users").fetchone() == (2,)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_writing(database: str) -> None:
    async with Client(build_server(database, write=True)) as client:
        ask = asker(client)
        insert = "insert into users(name) values (?) returning id, name"
        assert await ask("execute", sql=insert, parameters=["Cid"]) == (
            "done: 1 row changed\nid | name\n3 | Cid",
            False,
        )
        assert await ask("execute", sql="update users set photo = null") == ("done: 3 rows changed", False)
        assert await ask("execute", sql="create table t(a)") == ("done: 0 rows changed", False)
        assert not (await ask("execute", sql="create virtual table f using fts5(a)"))[1]
        assert await ask("execute", sql="alter table t add column b") == ("done: 0 rows changed", False)
        assert await ask("execute", sql="drop table f") == ("done: 0 rows changed", False)
        assert (await ask("query", sql="delete from users"))[1]
        assert await ask("query", sql="select count(*) as n from users") == ("n\n3", False)


async def test_a_trigger_may_do_no_more_than_a_statement(database: str) -> None:
    """SQLite authorizes a trigger's body when it fires, and again under the policy of that connection."""
    trigger = "create trigger t after insert on users begin select load_extension('x'); end"
    async with Client(build_server(database, write=True)) as client:
        assert not (await asker(client)("execute", sql=trigger))[1]
        text, is_error = await asker(client)("execute", sql="insert into users(name) values ('Cid')")
        assert is_error and "load_extension" in text
        assert await asker(client)("query", sql="select count(*) as n from users") == ("n\n2", False)


async def test_a_database_in_wal_mode_can_be_read(database: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute("pragma journal_mode = wal")
    connection.execute("insert into users(name) values ('Cid')")
    connection.commit()
    assert await query(database, "select count(*) as n from users") == ("n\n3", False)
    connection.close()


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
async def test_a_file_that_is_no_database_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.db").write_bytes(content)
    async with Client(build_server(str(tmp_path / "bad.db"))) as client:
        assert (await asker(client)("list_tables"))[1]
        assert (await asker(client)("query", sql="select * from sqlite_master"))[1]


async def test_a_file_name_is_not_read_as_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=rwc#%41.db"
    sqlite3.connect(str(path)).close()
    path.touch()
    assert await query(str(path), "select 1 as a") == ("a\n1", False)
    assert os.listdir(tmp_path) == [path.name]


async def test_quoted_table_names_are_described(database: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute("""create table "we""ird; drop table users" ("select" integer, "a b" text)""")
    connection.close()
    text, is_error = await ask_once(build_server(database), "describe_table", table='we"ird; drop table users')
    assert not is_error and "select INTEGER\na b TEXT" in text
