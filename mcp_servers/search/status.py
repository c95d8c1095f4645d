"""Age and completeness of the index, and whether a hit is still valid."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import parse_path
from mcp_servers.filesystem.root import Root, lstat
from mcp_servers.search.background import State
from mcp_servers.search.documents import stamp_of
from mcp_servers.search.facts import fact
from mcp_servers.search.finding import Hit
from mcp_servers.search.index import PATH, path_of
from mcp_servers.search.policy import Limits
from mcp_servers.search.refreshing import Refreshed
from mcp_servers.search.results import (
    Freshness,
    IndexStatus,
    KindCount,
    LeftOut,
    Problem,
    RefreshResult,
    SearchHit,
    SnippetLine,
)
from mcp_servers.search.vector_table import EMBEDDER

MAX_SHOWN_KINDS = 20
PROBLEMS = "FROM files WHERE status NOT IN ('whole', 'binary')"


def freshness(connection: sqlite3.Connection, state: State, embedding: State | None = None) -> Freshness:
    """Return the age of the index, and whether this server is refreshing it or embeds its passages."""
    refreshed = float(fact(connection, "refreshed") or 0)
    (incomplete,) = connection.execute(f"SELECT count(*) {PROBLEMS}").fetchone()
    return Freshness(
        refreshed=datetime.fromtimestamp(int(refreshed), UTC).isoformat() if refreshed else "",
        age_s=max(0, int(time.time() - refreshed)) if refreshed else 0,
        is_running=state.is_running,
        done_files=int(state.done),
        total_files=state.total,
        failure=state.failure,
        incomplete_files=incomplete,
        embedding_done=int(embedding.done) if embedding is not None and embedding.is_running else 0,
        embedding_total=embedding.total if embedding is not None and embedding.is_running else 0,
        embedding_failure=embedding.failure if embedding is not None else "",
    )


def index_status(
    connection: sqlite3.Connection, state: State, embedding: State | None, page: int, limits: Limits
) -> IndexStatus:
    """Return the contents of the index, with one page of the files that have a problem."""
    files, binary, text_bytes = connection.execute(
        "SELECT count(*), coalesce(sum(status = 'binary'), 0), coalesce(sum(text_bytes), 0) FROM files"
    ).fetchone()
    (passages,) = connection.execute("SELECT count(*) FROM passages").fetchone()
    (embedded,) = connection.execute("SELECT count(DISTINCT passage_id) FROM vectors").fetchone()
    kinds = connection.execute(
        "SELECT kind, count(*) FROM files GROUP BY kind ORDER BY 2 DESC, 1 LIMIT ?", (MAX_SHOWN_KINDS,)
    )
    problems = connection.execute(
        f"SELECT {PATH}, status, problem {PROBLEMS} ORDER BY path LIMIT ? OFFSET ?",
        (limits.problems_per_page + 1, (page - 1) * limits.problems_per_page),
    ).fetchall()
    left_out = json.loads(fact(connection, "left_out") or "{}")
    return IndexStatus(
        index=freshness(connection, state, embedding),
        files=files,
        passages=passages,
        embedded_passages=embedded,
        embedding_model=fact(connection, EMBEDDER),
        text_bytes=text_bytes,
        binary_files=binary,
        kinds=[KindCount(kind=kind, files=count) for kind, count in kinds],
        left_out=[LeftOut(reason=reason, entries=count) for reason, count in sorted(left_out.items())],
        problems=[
            Problem(path=path_of(path), status=status, problem=problem)
            for path, status, problem in problems[: limits.problems_per_page]
        ],
        page=page,
        has_more=len(problems) > limits.problems_per_page,
    )


def refresh_result(done: Refreshed, index: Freshness, state: State) -> RefreshResult:
    """Return the result of a refresh, and whether it is still running."""
    return RefreshResult(
        is_done=not state.is_running,
        read_files=done.n_read,
        removed_files=done.n_removed,
        index=index,
    )


def shown_hit(root: Root, hit: Hit) -> SearchHit:
    """Return a hit with a note if its file has changed since."""
    return SearchHit(
        path=hit.path,
        page=hit.page,
        first_line=hit.first_line,
        last_line=hit.last_line,
        heading=hit.heading,
        score=round(hit.score, 2),
        lines=[SnippetLine(line=line.number, text=line.text) for line in hit.lines],
        note="; ".join(filter(None, (_name_only(hit), change_note(root, hit.path, hit.stamp)))),
    )


def _name_only(hit: Hit) -> str:
    if hit.first_line:
        return ""
    return f"only its name is indexed: {hit.problem}" if hit.problem else "it has no text"


def change_note(root: Root, path: str, stamp: str) -> str:
    """Compare a file with its indexed state: one lstat spares the model a wrong line number."""
    parts = parse_path(path)
    try:
        with root.folder(parts[:-1]) as parent:
            now = lstat(parent, parts[-1])
    except ToolFailure:  # a parent folder is missing, or is now a link
        now = None
    if now is None:
        return "deleted since it was indexed; call refresh"
    return "" if stamp_of(now) == stamp else "changed since it was indexed; call refresh"
