"""Finding files by name and lines by text, with a time limit.

The walk and the reading stay in this process, which enforces the descriptor rules; only regular expressions run in
the child. Plain text needs no child: `str.find` is linear.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import MAX_SUGGESTIONS, ToolFailure
from mcp_servers.filesystem.ignoring import IgnoreFiles
from mcp_servers.filesystem.policy import (
    Limits,
    PathParts,
    compile_glob,
    glob_matches,
    joined,
    printable_bytes,
    shown,
)
from mcp_servers.filesystem.reading import Walk, Walked, is_binary
from mcp_servers.filesystem.results import Entry, FoundNames, TextMatch, TextMatches
from mcp_servers.filesystem.root import Root, kind_of, lstat, open_file
from mcp_servers.gitignore.scope import NOTHING_IGNORED

REGEX_WORKER = "mcp_servers.filesystem.regex_worker"
# Shorter texts stand in many names by chance.
MIN_NAME_CHARS = 3

# (text, limit) -> numbers of the matching lines, from 1
LineFinder = Callable[[str, int], list[int]]


@dataclass(frozen=True)
class TextQuery:
    """Arguments of `search_text`."""

    text: str
    regex: bool
    ignore_case: bool
    name: str
    ignored: bool


def search_names(root: Root, parts: PathParts, pattern: str, limits: Limits) -> FoundNames:
    """List entries below a folder whose name (or path, if the pattern has a slash) matches."""
    glob = compile_glob(pattern)
    entries: list[Entry] = []
    walk = Walk(limits)
    deadline = time.monotonic() + limits.search_timeout_s
    with root.folder(parts) as folder:
        for found in walk.below(folder, parts):
            if len(entries) == limits.max_entries or time.monotonic() > deadline:
                walk.truncated = True
                break
            if _is_named(found, glob, pattern):
                entries.append(Entry(path=joined(found.parts), kind=found.kind, size_bytes=found.size_bytes))
    return FoundNames(path=joined(parts), entries=entries, truncated=walk.truncated)


def search_text(
    root: Root, parts: PathParts, query: TextQuery, limits: Limits, child: KillableChild
) -> TextMatches:
    """Find lines in the text files below a folder, or in one file.

    Entries excluded by `.gitignore` and `.ignore` files and git's own folder are skipped, but the folder or file
    at `parts` itself is always searched. If nothing matches exactly, a second search ignores case.

    Raises:
        ToolFailure: The query is empty, not a regular expression, or too slow.
    """
    if not query.text:
        raise ToolFailure("The text to search for is empty.")
    deadline = time.monotonic() + limits.search_timeout_s
    found = _searched(root, parts, query, limits, child, deadline)
    if found.matches or found.truncated or query.ignore_case or query.text.lower() == query.text.upper():
        return found
    otherwise = _searched(root, parts, replace(query, ignore_case=True), limits, child, deadline)
    return otherwise.model_copy(update={"case_ignored": True}) if otherwise.matches else found


def _searched(
    root: Root, parts: PathParts, query: TextQuery, limits: Limits, child: KillableChild, deadline: float
) -> TextMatches:
    """Return the lines that match a query in its own case mode."""
    ignore_files = None if query.ignored else IgnoreFiles()
    search = _Search(query, _line_finder(query, child, deadline), limits, ignore_files)
    if _is_file(root, parts):
        with root.folder(parts[:-1]) as parent:
            search.visit(parent, parts)
        return search.result(truncated=False)
    glob = compile_glob(query.name)
    walk = Walk(limits, ignore_files=ignore_files)
    above = ignore_files.above(root, parts) if ignore_files else NOTHING_IGNORED
    with root.folder(parts) as folder:
        for found in walk.below(folder, parts, above=above):
            if search.is_full or time.monotonic() > deadline:
                walk.truncated = True
                break
            if found.is_ignored:
                search.leave_out()
                continue
            search.note_name(found.parts)
            if found.kind == "file" and _is_named(found, glob, query.name):
                search.visit_walked(found)
    return search.result(truncated=walk.truncated)


class _Search:
    """Matches and counts of one search."""

    def __init__(
        self, query: TextQuery, find_lines: LineFinder, limits: Limits, ignore_files: IgnoreFiles | None
    ) -> None:
        self._in_names = query.text.casefold() if not query.regex and len(query.text) >= MIN_NAME_CHARS else None
        self._named: list[str] = []
        self._find_lines = find_lines
        self._limits = limits
        self._ignore_files = ignore_files
        self._matches: list[TextMatch] = []
        self._searched = 0
        self._skipped = 0
        self._ignored = 0

    @property
    def is_full(self) -> bool:
        return len(self._matches) >= self._limits.max_matches

    def leave_out(self) -> None:
        self._ignored += 1

    def note_name(self, parts: PathParts) -> None:
        """Remember a path whose last name contains the text; told if no line does."""
        is_named_so = self._in_names is not None and self._in_names in parts[-1].casefold()
        if is_named_so and len(self._named) < MAX_SUGGESTIONS:
            self._named.append(joined(parts))

    def visit_walked(self, found: Walked) -> None:
        try:
            self.visit(found.parent, found.parts)
        except _Unreadable:
            self._skipped += 1

    def visit(self, parent: int, parts: PathParts) -> None:
        text = self._read(parent, parts)
        if text is None:
            self._skipped += 1
            return
        self._searched += 1
        numbers = self._find_lines(text, self._limits.max_matches - len(self._matches))
        lines = text.split("\n") if numbers else []
        for number in numbers:
            line = _cut(lines[number - 1].rstrip("\r"), self._limits.max_line_chars)
            self._matches.append(TextMatch(path=joined(parts), line=number, text=line))

    def result(self, *, truncated: bool) -> TextMatches:
        return TextMatches(
            matches=self._matches,
            searched_files=self._searched,
            skipped_files=self._skipped,
            ignored_entries=self._ignored,
            unusable_ignore_files=self._ignore_files.n_unusable if self._ignore_files else 0,
            truncated=truncated or self.is_full,
            named=[] if self._matches else self._named,
        )

    def _read(self, parent: int, parts: PathParts) -> str | None:
        limit = self._limits.max_searched_bytes
        try:
            with open_file(parent, parts) as file:
                if os.fstat(file.fileno()).st_size > limit or is_binary(file):
                    return None
                file.seek(0)
                return file.read(limit).decode("utf-8", "replace")
        except ToolFailure as failure:
            raise _Unreadable(str(failure)) from failure


class _Unreadable(ToolFailure):
    """A file that cannot be opened: skipped on a walk, reported if the caller named it."""


def _line_finder(query: TextQuery, child: KillableChild, deadline: float) -> LineFinder:
    if not query.regex:
        return lambda text, limit: _plain_lines(text, query, limit)

    def find(text: str, limit: int) -> list[int]:
        request = {"pattern": query.text, "ignore_case": query.ignore_case, "text": text, "limit": limit}
        try:
            return child.call(request, max(0.0, deadline - time.monotonic()))
        except (ChildTimeout, ChildCrash) as error:
            raise ToolFailure(
                f"The pattern {shown(query.text)!r} took too long and was stopped. Avoid nested repeats like "
                "(a+)+, search a smaller folder, or use regex=false."
            ) from error

    return find


def _plain_lines(text: str, query: TextQuery, limit: int) -> list[int]:
    wanted = query.text.casefold() if query.ignore_case else query.text
    found: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if len(found) == limit:
            break
        if wanted in (line.casefold() if query.ignore_case else line):
            found.append(number)
    return found


def _cut(line: str, most: int) -> str:
    """Return a line of at most `most` characters; a cut line ends in an ellipsis."""
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _is_file(root: Root, parts: PathParts) -> bool:
    if not parts:
        return False
    with root.folder(parts[:-1]) as parent:
        status = lstat(parent, parts[-1])
    return status is not None and kind_of(status) != "folder"


def _is_named(found: Walked, glob: re.Pattern[str], pattern: str) -> bool:
    return glob_matches(glob, tuple(map(printable_bytes, found.parts)), whole_path="/" in pattern)
