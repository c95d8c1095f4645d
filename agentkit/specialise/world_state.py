"""A folder as comparable data: contents of its files and of its databases.

Its content was written by tools for an untrusted model. So links are not followed, large files are represented by
their hash, and a database is opened read-only, with an untrusted schema and a limit on the steps of its
statements.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

LONGEST_TEXT = 1 << 16
"""Maximum bytes of a file compared as text; longer ones are compared by hash."""
MOST_FILES = 10_000
MOST_ROWS = 100_000
MOST_STEPS = 50_000_000
"""Steps of SQLite's virtual machine for one database; some seconds."""
_STEPS_PER_CHECK = 100_000
_MAGIC = b"SQLite format 3\x00"
_BESIDE_DATABASES = ("-wal", "-shm", "-journal")


class WorldUnreadable(ValueError):
    """The state after a policy's calls is too large to compare, or takes too long to read."""


def folder_state(root: Path, ignored: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return `files` by path, a text or `{"sha256", "bytes"}`, `tables` by database and name, and empty `folders`.

    Rows of a table are sorted, so two tables with the same rows are equal.

    Args:
        root: The folder.
        ignored: Names of folders in it that are skipped.

    Raises:
        WorldUnreadable: There is too much data.
        OSError: The folder does not exist.
    """
    files: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    folders: list[str] = []
    n_files = 0
    for folder, names, found in os.walk(root, onerror=_raise):
        here = Path(folder)
        names[:] = [name for name in names if name not in ignored]
        links = [name for name in names if (here / name).is_symlink()]
        if here != root and not (names or found):
            folders.append(here.relative_to(root).as_posix())
        for name in sorted((*found, *links)):
            n_files += 1
            if n_files > MOST_FILES:
                raise WorldUnreadable(f"more than {MOST_FILES} files")
            path = here / name
            known_as = path.relative_to(root).as_posix()
            if path.is_symlink():
                files[known_as] = {"link": os.readlink(path)}
            elif not path.is_file():
                files[known_as] = {"special": True}
            elif _is_database(path):
                tables[known_as] = _tables(path)
            elif not _belongs_to_database(path):
                files[known_as] = _content(path)
    return {"files": files, "folders": sorted(folders), "tables": tables}


def _raise(error: OSError) -> None:
    raise error


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _belongs_to_database(path: Path) -> bool:
    return any(
        path.name.endswith(ending) and path.with_name(path.name.removesuffix(ending)).is_file()
        for ending in _BESIDE_DATABASES
    )


def _content(path: Path) -> Any:
    content = path.read_bytes()
    if len(content) <= LONGEST_TEXT:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _decoded(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def _tables(path: Path) -> dict[str, Any]:
    steps = iter(range(MOST_STEPS // _STEPS_PER_CHECK))
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
        database.text_factory = _decoded
        database.set_progress_handler(lambda: next(steps, None) is None, _STEPS_PER_CHECK)
        try:
            database.execute("pragma trusted_schema = off")
            database.execute("pragma cell_size_check = on")
            names = database.execute("select name, sql from sqlite_master where type = 'table'").fetchall()
            return {name: _rows(database, name) for name, sql in names if not name.startswith("sqlite_") and sql}
        except sqlite3.Error as error:
            if next(steps, None) is None:
                raise WorldUnreadable(f"{path.name} takes too long to read") from error
            return {"unreadable": str(error)}


def _rows(database: sqlite3.Connection, table: str) -> list[list[Any]]:
    quoted = table.replace('"', '""')
    found = database.execute(f'select * from "{quoted}"').fetchmany(MOST_ROWS + 1)
    if len(found) > MOST_ROWS:
        raise WorldUnreadable(f"table {table!r} has more than {MOST_ROWS} rows")
    rows = [[value.hex() if isinstance(value, bytes) else value for value in row] for row in found]
    return sorted(rows, key=json.dumps)
