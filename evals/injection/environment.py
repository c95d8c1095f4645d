"""Environment of a case: a temporary folder, the real servers on it, and the final state.

The filesystem and SQLite servers run as child processes with `--write`, as an application would run them. The
final state is read from disk, not through the servers. It is untrusted, because a model may have written anything:
files and rows are read up to a bound, and SQLite's work is bounded too.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Literal

from agentkit.mcp import MCPToolset
from agentkit.tools.toolset import Toolset
from evals.injection.conditions import Cell
from evals.injection.defences import Defence
from evals.injection.extra_server import build_extra_server
from evals.injection.world import World

MAX_FILES = 500
MAX_FILE_BYTES = 100_000
MAX_TABLES = 50
MAX_ROWS = 500
MAX_CELL_CHARS = 2_000
MAX_SQLITE_STEPS = 20_000_000
"""Maximum virtual machine steps for reading the tables, about 2 s; generated columns may contain expensive
expressions."""
_STEPS_PER_CHECK = 10_000
_TRASH = ".trash"
"""Folder to which the filesystem server moves deleted files."""


class Workshop:
    """A folder and a database, with the servers on them."""

    def __init__(self, folder: Path, defence: Defence) -> None:
        """Use `folder`, which must be empty; nothing starts before `servers` are connected."""
        trust = trust_under(defence)
        self.root = folder / "files"
        self.database = folder / "workshop.db"
        self.root.mkdir()
        self.database.touch()
        self.servers: tuple[Toolset, ...] = (
            MCPToolset.stdio(
                "python",
                "-m",
                "mcp_servers.filesystem",
                self.root,
                "--write",
                id="filesystem",
                trust=trust,
                pins=None,
            ),
            MCPToolset.stdio(
                "python", "-m", "mcp_servers.sqlite", self.database, "--write", id="sqlite", trust=trust, pins=None
            ),
        )

    def fill(self, world: World) -> None:
        """Replace the current content by the initial state; the servers may be running."""
        for entry in self.root.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for path, text in world.files.items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        self.database.unlink()
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # a temporary file: it need not survive a power failure
            connection.execute("BEGIN")  # a single transaction: otherwise every CREATE is written to disk alone
            for statement in world.schema:
                connection.execute(statement)
            for table, rows in world.rows.items():
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            for statement in world.triggers:
                connection.execute(statement)

    def observe(self) -> dict[str, Any]:
        """Return `files` (path to text) and `tables` (name to rows), within the bounds of this module."""
        return {"files": dict(_files(self.root)), "tables": _tables(self.database)}


@asynccontextmanager
async def connected(toolsets: Sequence[Toolset]) -> AsyncIterator[None]:
    """Keep the toolsets connected; their servers have ended on exit.

    Raises:
        MCPConnectionError: a server cannot be started.
    """
    async with AsyncExitStack() as stack:
        for toolset in toolsets:
            await stack.enter_async_context(toolset)
        yield


def extra_toolset(world: World, defence: Defence) -> Toolset:
    """Return the tools of the third server."""
    return MCPToolset(build_extra_server(world.extra), id="currency", trust=trust_under(defence))


def trust_under(defence: Defence) -> Literal["trusted", "untrusted"]:
    """Return the client's trust in the servers; it keeps hidden characters in results of trusted ones."""
    return "untrusted" if defence.strips_hidden else "trusted"


def _files(root: Path) -> Iterator[tuple[str, str]]:
    n_files = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if (folder, name) != (str(root), _TRASH))
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                continue
            n_files += 1
            if n_files > MAX_FILES:
                return
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
            relative = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
            yield relative, text


def _tables(database: Path) -> Mapping[str, list[dict[str, Cell]]]:
    """Return the rows by table; a file that is no longer a database has none.

    Raises:
        sqlite3.OperationalError: the list of tables cannot be read in time.
    """
    steps_left = MAX_SQLITE_STEPS // _STEPS_PER_CHECK

    def spend() -> bool:
        nonlocal steps_left
        steps_left -= 1
        return steps_left < 0

    tables: dict[str, list[dict[str, Cell]]] = {}
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        connection.set_progress_handler(spend, _STEPS_PER_CHECK)
        try:
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
                "ORDER BY name LIMIT ?",
                (MAX_TABLES,),
            ).fetchall()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            return {}
        for (name,) in names:
            quoted = '"' + name.replace('"', '""') + '"'
            try:
                cursor = connection.execute(f"SELECT * FROM {quoted} LIMIT {MAX_ROWS}")
                columns = [column[0] for column in cursor.description]
                tables[name] = [dict(zip(columns, map(_cell, row), strict=True)) for row in cursor]
            except sqlite3.Error as error:
                # An unreadable table is reported as a row instead of being dropped; no goal asks for such a row.
                tables[name] = [{"unreadable": str(error)}]
    return tables


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, int | float):
        return value
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text[:MAX_CELL_CHARS]
