"""Checks of the paths and extensions that a client names, against the index, with suggestions.

Only files that the index lists can be read. So files excluded by the launcher, and hidden files with secrets,
cannot be read either.
"""

from __future__ import annotations

import sqlite3

from mcp_servers.failures import MAX_COMPARED_NAMES, MAX_SUGGESTIONS, ToolFailure, did_you_mean, suggestion
from mcp_servers.filesystem.policy import PathParts, joined, parse_path, shown
from mcp_servers.search.finding import BELOW_PATH, Place
from mcp_servers.search.index import PATH, path_of
from mcp_servers.search.policy import parse_kind

MAX_SHOWN_KINDS = 20


def parse_place(path: str, kind: str) -> Place:
    """Parse the arguments that narrow a search; `.` and an empty path mean the whole folder.

    Raises:
        ToolFailure: The path is invalid.
    """
    parts = parse_path(path) if path else ()
    return Place(joined(parts) if parts else "", parse_kind(kind))


def check_place(connection: sqlite3.Connection, place: Place, *, is_growing: bool) -> None:
    """Refuse a path or an extension that no indexed file has.

    Raises:
        ToolFailure: No indexed file matches; the text suggests alternatives.
    """
    asked = {"path": place.path}
    if place.path and not connection.execute(f"SELECT 1 FROM files WHERE {BELOW_PATH} LIMIT 1", asked).fetchone():
        hint = _paths_like(connection, place.path) or " Use path='' to search everywhere."
        raise ToolFailure(f"No indexed file is {shown(place.path)!r} or below it.{hint}{_growing(is_growing)}")
    kinds = dict(connection.execute("SELECT kind, count(*) FROM files GROUP BY kind ORDER BY 2 DESC"))
    if place.kind and place.kind not in kinds:
        known = [shown(kind) for kind in kinds if kind]
        hint = suggestion(place.kind, known) or f" There are: {', '.join(known[:MAX_SHOWN_KINDS]) or 'none'}."
        raise ToolFailure(f"No indexed file has the extension {shown(place.kind)!r}.{hint}{_growing(is_growing)}")


def is_indexed(connection: sqlite3.Connection, parts: PathParts) -> bool:
    """Return whether the index lists this file."""
    return connection.execute("SELECT 1 FROM files WHERE path = ?", (joined(parts),)).fetchone() is not None


def check_indexed(connection: sqlite3.Connection, parts: PathParts, *, is_growing: bool) -> None:
    """Refuse a file that the index does not list.

    Raises:
        ToolFailure: The file is not listed; the text suggests alternatives.
    """
    path = joined(parts)
    if not is_indexed(connection, parts):
        hint = _paths_like(connection, path) or " search finds files by their names too."
        raise ToolFailure(f"{shown(path)!r} is not in the index.{hint}{_growing(is_growing)}")


def _paths_like(connection: sqlite3.Connection, path: str) -> str:
    """Suggest files with the same name elsewhere, or with a similar path."""
    ending = "/" + path.rpartition("/")[2]
    same_name = connection.execute(
        f"SELECT {PATH} FROM files WHERE substr('/' || path, -length(:ending)) = :ending "
        "ORDER BY path LIMIT :count",
        {"ending": ending, "count": MAX_SUGGESTIONS},
    ).fetchall()
    if same_name:
        return did_you_mean([shown(path_of(row[0])) for row in same_name])
    rows = connection.execute(f"SELECT {PATH} FROM files ORDER BY path LIMIT ?", (MAX_COMPARED_NAMES,))
    return suggestion(path, (shown(path_of(row[0])) for row in rows))


def _growing(is_growing: bool) -> str:
    return " The index is being refreshed; it may come." if is_growing else ""
