"""Reading files and folders through descriptors, in bounded memory.

A file is scanned in blocks: newlines are counted per block, and only blocks where a requested line begins or ends
are searched in detail. So reading line 5,000,000 of a large log needs a count, not a list of lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.ignoring import IgnoreFiles, leaves_out
from mcp_servers.filesystem.policy import MAX_DEPTH, Limits, PathParts, joined, shown
from mcp_servers.filesystem.results import Entry, FileInfo, Listing, TextWindow
from mcp_servers.filesystem.root import Kind, Root, kind_of, lstat, names_in, open_folder
from mcp_servers.gitignore.scope import NOTHING_IGNORED, Scope

BLOCK_BYTES = 1024 * 1024
# Same test as in git and grep: a NUL byte near the start means binary.
BINARY_PROBE_BYTES = 8 * 1024


@dataclass(frozen=True)
class Walked:
    """An entry found on a walk; the descriptor `parent` is valid until the next step of the walk."""

    parts: PathParts
    kind: Kind
    size_bytes: int
    parent: int
    is_ignored: bool


class Walk:
    """A depth-first walk in name order; `truncated` is set if a limit stopped it."""

    def __init__(
        self, limits: Limits, max_depth: int = MAX_DEPTH, ignore_files: IgnoreFiles | None = None
    ) -> None:
        """Prepare a walk of `max_depth` levels; folders that `ignore_files` exclude are not entered."""
        self._left = limits.max_walked
        self._max_depth = max_depth
        self._ignore_files = ignore_files
        self.truncated = False

    def below(
        self, folder: int, parts: PathParts, depth: int = 1, *, above: Scope = NOTHING_IGNORED
    ) -> Iterator[Walked]:
        """Yield every entry below the open `folder`, a folder before its contents; `above`: inherited rules."""
        scope = self._ignore_files.within(folder, parts, above) if self._ignore_files else above
        names = names_in(folder, parts, self._left + 1)
        if len(names) > self._left:
            self.truncated = True
            del names[self._left :]
        self._left -= len(names)
        for name in names:
            path = (*parts, name)
            status = lstat(folder, name)
            if status is None:
                continue
            kind = kind_of(status)
            is_ignored = self._ignore_files is not None and leaves_out(scope, name, is_folder=kind == "folder")
            yield Walked(path, kind, status.st_size if kind == "file" else 0, folder, is_ignored)
            if kind == "folder" and not is_ignored:
                yield from self._enter(folder, path, depth, scope.entered(name))

    def _enter(self, parent: int, parts: PathParts, depth: int, scope: Scope) -> Iterator[Walked]:
        if depth == self._max_depth or len(parts) == MAX_DEPTH:
            self.truncated = self.truncated or len(parts) == MAX_DEPTH
            return
        try:
            folder = open_folder(parent, parts)
        except ToolFailure:  # unreadable, or replaced since the listing: its contents are skipped
            return
        try:
            yield from self.below(folder, parts, depth + 1, above=scope)
        finally:
            os.close(folder)


def list_folder(root: Root, parts: PathParts, limits: Limits, depth: int) -> Listing:
    """List a folder `depth` levels deep."""
    entries: list[Entry] = []
    walk = Walk(limits, depth)
    with root.folder(parts) as folder:
        for found in walk.below(folder, parts):
            if len(entries) == limits.max_entries:
                walk.truncated = True
                break
            entries.append(Entry(path=joined(found.parts), kind=found.kind, size_bytes=found.size_bytes))
    return Listing(path=joined(parts), entries=entries, truncated=walk.truncated)


def file_info(root: Root, parts: PathParts, limits: Limits) -> FileInfo:
    """Describe a file, folder or link; for a link, the link itself and not its target."""
    with root.folder(parts[:-1]) as parent:
        name = parts[-1] if parts else "."
        status = lstat(parent, name)
    lines = entries = None
    if status is None or kind_of(status) == "file":
        with root.file(parts) as file:  # raises the explanation if the file is missing
            status = os.fstat(file.fileno())
            if status.st_size <= limits.max_scanned_bytes and not is_binary(file):
                lines = count_lines(file)
    elif kind_of(status) == "folder":
        with root.folder(parts) as folder:
            entries = len(names_in(folder, parts, limits.max_walked))
    modified = datetime.fromtimestamp(int(status.st_mtime), UTC).isoformat()
    return FileInfo(
        path=joined(parts),
        kind=kind_of(status),
        size_bytes=status.st_size,
        modified=modified,
        lines=lines,
        entries=entries,
    )


def read_window(root: Root, parts: PathParts, first: int, count: int, tail: int, limits: Limits) -> TextWindow:
    """Read `count` lines from line `first`, or the last `tail` lines if `tail` is not 0.

    Raises:
        ToolFailure: The file is binary or too large, or the window begins after its end.
    """
    with root.file(parts) as file:
        if os.fstat(file.fileno()).st_size > limits.max_scanned_bytes:
            raise ToolFailure(f"{shown(joined(parts))!r} is larger than {limits.max_scanned_bytes} bytes.")
        if is_binary(file):
            raise ToolFailure(f"{shown(joined(parts))!r} is a binary file. Use `file_info` for its size.")
        total = count_lines(file)
        if tail:
            first, count = max(1, total - tail + 1), tail
        if first > max(total, 1):
            raise ToolFailure(f"{shown(joined(parts))!r} has {total} lines; offset {first} is past the end.")
        data, cut = _lines(file, first, count, limits)
    last = min(first + _count(data) - 1, total) if data else 0
    return TextWindow(
        path=joined(parts),
        text=data.decode("utf-8", "replace"),
        first_line=first,
        last_line=last,
        total_lines=total,
        truncated=cut or last < total,
    )


def is_binary(file: BinaryIO) -> bool:
    """Return whether the file begins like a binary file."""
    file.seek(0)
    return b"\0" in file.read(BINARY_PROBE_BYTES)


def count_lines(file: BinaryIO) -> int:
    """Count lines, including a last line without a newline; stops at the file's size at the start."""
    lines, last = 0, b"\n"
    for block in _blocks(file):
        lines += block.count(b"\n")
        last = block[-1:]
    return lines + (last != b"\n")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    left = os.fstat(file.fileno()).st_size
    while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
        left -= len(block)
        yield block


def _lines(file: BinaryIO, first: int, count: int, limits: Limits) -> tuple[bytes, bool]:
    """Return the bytes of at most `count` lines, and whether `max_text_bytes` cut them."""
    window = bytearray()
    line = 1  # the line in which the block begins
    for block in _blocks(file):
        newlines = block.count(b"\n")
        if line + newlines >= first:
            start = _line_start(block, first - line)
            end = _line_start(block, first + count - line)
            window += block[start:end]
        line += newlines
        if line >= first + count or len(window) > limits.max_text_bytes:
            break
    return _fit(bytes(window), limits.max_text_bytes)


def _line_start(block: bytes, newlines: int) -> int:
    """Return the position after `newlines` newlines, or the block's end if it has fewer."""
    position = 0
    for _ in range(newlines):
        found = block.find(b"\n", position)
        if found < 0:
            return len(block)
        position = found + 1
    return position


def _fit(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Cut after the last whole line that fits; a first line longer than the limit is cut itself."""
    if len(data) <= max_bytes:
        return data, False
    cut = data.rfind(b"\n", 0, max_bytes) + 1
    return data[: cut or max_bytes], True


def _count(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n"))
