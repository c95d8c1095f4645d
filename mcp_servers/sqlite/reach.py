"""Reach of the SQLite server's process."""

from __future__ import annotations

import sys
from pathlib import Path

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read the folder of DB, where SQLite keeps its logs too, and change it with "
    "--write or if DB has a write-ahead log; and that of --export. It may start Python and connect to nothing."
)
# https://sqlite.org/fileformat.html#file_format_version_numbers: 2 means a write-ahead log.
_VERSION_AT, _WITH_LOG = 18, 2


def reach(database: str, *, write: bool, export: str | None) -> Confinement:
    """Return the confinement of a server for the database file.

    Readers of a database with a write-ahead log need write access too: they record their read marks in a file
    beside it.
    """
    file = Path(database).resolve()
    folder = str(file.parent)
    changed = (folder,) if write or _has_log(file) else ()
    return Confinement(
        reads=(folder,),
        writes=(*changed, *((export,) if export is not None else ())),
        executes=(sys.executable,),
        has_temporary_folder=True,  # for large sorts
    )


def _has_log(file: Path) -> bool:
    if not file.is_file():  # the server reports it at its start
        return False
    try:
        with file.open("rb") as opened:
            header = opened.read(_VERSION_AT + 1)
    except OSError:
        return False
    return header[_VERSION_AT:] == bytes([_WITH_LOG])
