"""Walk over the folder: its current files, and the entries left out, counted by reason.

Links are not followed and folders are opened by descriptor, as everywhere below a `Root`. Skipped folders (`.git`,
`node_modules`) are not entered, which saves most of the work.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.ignoring import IgnoreFiles
from mcp_servers.filesystem.policy import MAX_DEPTH, PathParts
from mcp_servers.filesystem.root import Root, kind_of, lstat, names_in, open_folder
from mcp_servers.gitignore.rules import MAX_FILE_BYTES, MAX_RULES
from mcp_servers.gitignore.scope import NOTHING_IGNORED, Scope
from mcp_servers.search.documents import stamp_of
from mcp_servers.search.policy import Limits, Selection

LINKS = "links"
OTHER = "devices, pipes and sockets"
UNREADABLE = "files and folders that cannot be opened"
TOO_DEEP = f"folders below {MAX_DEPTH} levels"
# Takes below half a second, with the longest names and the most rules.
ENTRIES_PER_REPORT = 100
IGNORED = "files and folders that .gitignore or .ignore leaves out"
UNUSABLE = (
    ".gitignore or .ignore files that cannot be used: links, unreadable, not UTF-8, "
    f"or beyond {MAX_FILE_BYTES} bytes, {MAX_RULES} rules or what one path may have"
)


@dataclass(frozen=True)
class FoundFile:
    """A regular file to index, with its stamp at the time of the walk."""

    parts: PathParts
    stamp: str


@dataclass
class Walk:
    """Result of a walk."""

    files: list[FoundFile] = field(default_factory=list[FoundFile])
    """Files in path order."""
    left_out: Counter[str] = field(default_factory=Counter[str])
    """Number of entries left out, by reason."""


def walk(root: Root, selection: Selection, limits: Limits, report: Callable[[], None]) -> Walk:
    """Find the files to index; `report` is called regularly, and may raise to end the walk."""
    walker = _Walker(selection, limits, report)
    with root.folder(()) as folder:
        walker.enter(folder, (), NOTHING_IGNORED)
    if walker.ignore_files.n_unusable:
        walker.found.left_out[UNUSABLE] = walker.ignore_files.n_unusable
    return walker.found


class _Walker:
    def __init__(self, selection: Selection, limits: Limits, report: Callable[[], None]) -> None:
        self._selection = selection
        self._limits = limits
        self._report = report
        self._n_left = limits.max_walked
        self.found = Walk()
        self.ignore_files = IgnoreFiles()

    def enter(self, folder: int, parts: PathParts, scope: Scope) -> None:
        if self._selection.gitignore:
            scope = self.ignore_files.within(folder, parts, scope)
        names = names_in(folder, parts, self._n_left + 1)
        if len(names) > self._n_left:
            self._leave_out(f"folders with entries beyond the first {self._limits.max_walked}")
            del names[self._n_left :]
        self._n_left -= len(names)
        for number, name in enumerate(names):
            if number % ENTRIES_PER_REPORT == 0:
                self._report()
            self._visit(folder, (*parts, name), scope)

    def _visit(self, parent: int, parts: PathParts, scope: Scope) -> None:
        try:
            status = lstat(parent, parts[-1])
        except OSError:  # the folder may be listed but not entered
            self._leave_out(UNREADABLE)
            return
        if status is None:  # deleted since it was listed
            return
        kind = kind_of(status)
        reason = self._selection.reason_to_skip(
            parts, is_folder=kind == "folder", max_path_bytes=self._limits.max_path_bytes
        )
        if reason:
            self._leave_out(reason)
        elif scope.ignores(parts[-1], is_folder=kind == "folder"):
            self._leave_out(IGNORED)
        elif kind == "folder":
            self._enter_folder(parent, parts, scope.entered(parts[-1]))
        elif kind != "file":
            self._leave_out(LINKS if kind == "link" else OTHER)
        elif len(self.found.files) == self._limits.max_files:
            self._leave_out(f"files beyond the first {self._limits.max_files}")
        else:
            self.found.files.append(FoundFile(parts, stamp_of(status)))

    def _enter_folder(self, parent: int, parts: PathParts, scope: Scope) -> None:
        if len(parts) == MAX_DEPTH:
            self._leave_out(TOO_DEEP)
            return
        try:
            folder = open_folder(parent, parts)
        except ToolFailure:  # unreadable, or replaced since it was listed
            self._leave_out(UNREADABLE)
            return
        try:
            self.enter(folder, parts, scope)
        finally:
            os.close(folder)

    def _leave_out(self, reason: str) -> None:
        self.found.left_out[reason] += 1
