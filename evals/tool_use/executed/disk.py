"""Writes a task's initial world to disk, and reads the world after the run.

Files left by an agent are untrusted: links are not followed, large files are not read, and an unreadable database
is reported instead of raising an exception.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from evals.tool_use.executed.task import Start
from evals.tool_use.executed.world import World, read_database

DATABASE = "data.db"
"""Database file; in the served folder if a task has both servers."""
DEFAULT_MODIFIED = "2026-01-05T09:00:00+00:00"
"""Modification time of all entries without their own, so that `file_info` returns the same on every run."""
TRASH = ".trash"
"""Folder of the filesystem server for deleted files; its names are random, so it is excluded from the final
state."""
MAX_FILE_BYTES = 1024 * 1024
"""A hundred times the largest file of a task; a larger file is represented by its size."""
MAX_ENTRIES = 10_000


def build(start: Start, folder: Path) -> None:
    """Create a task's files and database in an empty folder."""
    for path, text in start.files.items():
        target = folder / path
        if path.endswith("/"):
            target.mkdir(parents=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode())
    if start.sql:
        with closing(sqlite3.connect(folder / DATABASE)) as connection:
            # A single transaction: syncing after every statement would dominate the time of this function.
            connection.executescript(f"BEGIN;\n{start.sql}\nCOMMIT;")
    # Last, because creating entries in a folder changes the folder's modification time.
    for entry in (folder, *folder.rglob("*")):
        named = start.modified.get(entry.relative_to(folder).as_posix(), DEFAULT_MODIFIED)
        modified = datetime.fromisoformat(named).timestamp()
        os.utime(entry, (modified, modified))


def observe(start: Start, folder: Path) -> World:
    """Return the current state of the folder and the database."""
    tree = _tree(folder, without=DATABASE if start.sql else None)
    if not start.sql:
        return World(tree)
    try:
        uri = f"file:{quote(str(folder / DATABASE))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return World(tree, *read_database(connection))
    except sqlite3.Error as error:
        return World(tree, problem=f"the database cannot be read: {error}")


def _tree(folder: Path, *, without: str | None) -> dict[str, str]:
    tree: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        if relative == Path("."):
            folders[:] = [name for name in folders if name != TRASH]
            files = [name for name in files if name != without]
        tree |= {f"{_shown(relative / name)}/": "" for name in folders}
        tree |= {_shown(relative / name): _content(Path(parent) / name) for name in files}
        if len(tree) > MAX_ENTRIES:
            tree["(more than can be shown)"] = ""
            break
    return tree


def _content(path: Path) -> str:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return "<not a file>"
    if status.st_size > MAX_FILE_BYTES:
        return f"<{status.st_size} bytes>"
    return path.read_bytes().decode("utf-8", "backslashreplace")


def _shown(path: Path) -> str:
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
