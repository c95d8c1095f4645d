"""Queries to the index: matching passages, their order, and the lines to show."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mcp_servers.search.index import PATH, path_of
from mcp_servers.search.policy import Limits, Status
from mcp_servers.search.queries import Query, matching_all, matching_any, plain_words
from mcp_servers.search.visible import visible

# Control characters mark matches, since indexed text has none. The marked text is read as bytes, which bypasses
# the filter of hidden characters, and filtered line by line later.
MATCH_BEGINS, MATCH_ENDS = "\x02", "\x03"
_MATCH = re.compile(f"{MATCH_BEGINS}([^{MATCH_ENDS}]*){MATCH_ENDS}")
_MARKS = re.compile(f"[{MATCH_BEGINS}{MATCH_ENDS}]")
BODY_COLUMN = 2
# Minimum number of lines shown, if the passage has them: one matching line alone says little.
MIN_SNIPPET_LINES = 2

# CROSS JOIN fixes the order: FTS5 finds and ranks, the others are looked up by key
# (https://sqlite.org/optoverview.html).
BELOW_PATH = "(:path = '' OR files.path = :path OR substr(files.path, 1, length(:path) + 1) = :path || '/')"
FROM_MATCHES = f"""
FROM words CROSS JOIN passages ON passages.id = words.rowid CROSS JOIN files ON files.id = passages.file_id
WHERE words MATCH :match AND (:kind = '' OR files.kind = :kind) AND {BELOW_PATH}
"""


@dataclass(frozen=True)
class Place:
    """Restriction of a search: below a path (empty: everywhere), in files with an extension (empty: any)."""

    path: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a passage in displayable form."""

    number: int
    text: str


@dataclass(frozen=True)
class Hit:
    """A matching passage."""

    path: str
    stamp: str
    status: Status
    problem: str
    page: int
    first_line: int
    last_line: int
    heading: str
    score: float
    lines: list[Line]


@dataclass(frozen=True)
class Found:
    """A page of hits."""

    hits: list[Hit]
    n_passages: int
    n_files: int
    has_all_words: bool
    """True if the passages have all words of the query; otherwise no passage does, and these have some."""
    has_more: bool


def find(connection: sqlite3.Connection, query: Query, place: Place, page: int, limits: Limits) -> Found:
    """Return one page of the best passages; a few of each file at most, if several files match."""
    for has_all_words in (True, False):
        match = (matching_all if has_all_words else matching_any)(query)
        asked = {"match": match, "kind": place.kind, "path": place.path}
        n_passages, n_files = connection.execute(
            f"SELECT count(*), count(DISTINCT files.id) {FROM_MATCHES}", asked
        ).fetchone()
        if n_passages:
            break
    first = (page - 1) * limits.hits_per_page
    per_file = limits.hits_per_file if n_files > 1 else n_passages
    best = list(_best(connection, asked, first + limits.hits_per_page + 1, per_file))
    shown = best[first : first + limits.hits_per_page]
    words = plain_words(query)
    hits = [hit_of(connection, rowid, -rank, match, words, limits) for rowid, rank in shown]
    return Found(hits, n_passages, n_files, has_all_words, len(best) > first + len(shown))


def _best(
    connection: sqlite3.Connection, asked: dict[str, str], count: int, per_file: int
) -> Iterator[tuple[int, float]]:
    """Yield at most `count` passages and their ranks, best first."""
    n_of_file = Counter[int]()
    n_found = 0
    for rowid, rank, file_id in connection.execute(
        f"SELECT words.rowid, words.rank, files.id {FROM_MATCHES} ORDER BY words.rank", asked
    ):
        n_of_file[file_id] += 1
        if n_of_file[file_id] <= per_file:
            yield rowid, rank
            n_found += 1
            if n_found == count:
                return


def hit_of(
    connection: sqlite3.Connection,
    rowid: int,
    score: float,
    match: str,
    words: Sequence[str],
    limits: Limits,
    nearest_line: int = 0,
) -> Hit:
    """Return a passage with the lines to show.

    Args:
        connection: A connection that reads the index.
        rowid: Number of the passage.
        score: Its score.
        match: FTS5 expression whose matches are shown.
        words: Words to search for if nothing matches.
        limits: Limits on what is shown.
        nearest_line: Offset of the line to show first if nothing matches.
    """
    asked = {"begin": MATCH_BEGINS, "end": MATCH_ENDS, "match": match, "rowid": rowid}
    highlighted = f"CAST(highlight(words, {BODY_COLUMN}, :begin, :end) AS BLOB)"
    row = connection.execute(f"{_select(highlighted)} AND words MATCH :match", asked).fetchone()
    skipped = nearest_line if row is None else 0
    if row is None:
        row = connection.execute(_select("CAST(body AS BLOB)"), asked).fetchone()
    path, stamp, status, problem, page, first, last, heading, marked = row
    text = "\n".join(marked.decode("utf-8", "replace").split("\n")[skipped:])
    lines = snippet(text, first + skipped, words, limits) if first else []
    return Hit(path_of(path), stamp, status, problem, page, first, last, heading, score, lines)


def _select(text: str) -> str:
    return (
        f"SELECT {PATH}, stamp, status, problem, page, first_line, last_line, heading, {text} "
        "FROM words CROSS JOIN passages ON passages.id = words.rowid CROSS JOIN files ON files.id = file_id "
        "WHERE words.rowid = :rowid"
    )


def snippet(marked: str, first_line: int, words: Sequence[str], limits: Limits) -> list[Line]:
    """Return the best matching lines, with their numbers.

    Args:
        marked: The passage, with its matches between marks; without marks if only path, heading or parts match.
        first_line: Number of its first line.
        words: Lower-case words to search for if nothing is marked.
        limits: Limits on the number of lines and their length.
    """
    lines = marked.split("\n")
    worth = [len({match.casefold() for match in _MATCH.findall(line)}) for line in lines]
    if not any(worth):
        worth = [sum(word in line.casefold() for word in words) for line in lines]
    by_worth = sorted(range(len(lines)), key=lambda index: (-worth[index], index))
    chosen = {index for index in by_worth[: limits.snippet_lines] if worth[index]}
    after = (max(chosen) if chosen else -1) + 1
    for index in range(after, len(lines)):
        if len(chosen) >= MIN_SNIPPET_LINES:
            break
        if lines[index].strip():
            chosen.add(index)
    return [
        Line(first_line + index, excerpt(lines[index], words, limits.max_line_chars)) for index in sorted(chosen)
    ]


def excerpt(marked: str, words: Sequence[str], max_chars: int) -> str:
    """Return a line without marks and hidden characters, cut around its first match if it is too long."""
    line = visible(_MARKS.sub("", marked)).rstrip()
    if len(line) <= max_chars:
        return line
    before, mark, _ = marked.partition(MATCH_BEGINS)
    position = len(visible(before))
    if not mark:
        folded = line.lower()
        position = min((at for word in words if (at := folded.find(word)) >= 0), default=0)
    start = max(0, min(position - max_chars // 3, len(line) - max_chars))
    text = line[start : start + max_chars]
    return f"{'... ' if start else ''}{text}{' ...' if start + max_chars < len(line) else ''}"
