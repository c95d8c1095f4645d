"""Fixtures of the server tests."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

SCHEMA = """
create table users (id integer primary key, name text not null unique, photo blob);
create table orders (id integer primary key, user_id integer references users(id), note text);
insert into users values (1, 'Ann', x'00ff'), (2, 'Bob', null);
insert into orders values (1, 1, 'first'), (2, 1, 'second');
create view names as select name from users;
create view broken as select * from gone;
create virtual table pages using fts5(body);
insert into pages values ('hello world');
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    connection.close()
    return str(path)
