"""Fixtures of the server tests."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

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


@pytest.fixture(scope="session", autouse=True)
def schemas_checked_once() -> Iterator[None]:
    """Let the clients of all tests check each output schema once: a check takes longer than most calls."""
    check, checked = Draft202012Validator.check_schema, set[str]()

    def check_once(schema: Any, *arguments: Any, **options: Any) -> None:
        text = json.dumps(schema, sort_keys=True)
        if text not in checked:
            check(schema, *arguments, **options)
            checked.add(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draft202012Validator, "check_schema", check_once)
        yield


def make_database(path: Path) -> str:
    """Make the database of a small shop; return its path."""
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    connection.close()
    return str(path)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return make_database(tmp_path / "shop.db")
