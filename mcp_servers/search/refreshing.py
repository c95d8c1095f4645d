"""Updating the index: only changed files are read, in batches of one transaction each.

A file counts as unchanged if its size, modification time and inode are. A file modified within two seconds before
it was read may change again without a new time on a coarse clock, so the next refresh reads it once more (git
calls this racily clean).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.filesystem.policy import joined
from mcp_servers.filesystem.root import Root
from mcp_servers.search.documents import Document, DocumentReader
from mcp_servers.search.facts import set_fact
from mcp_servers.search.index import PATH, Index, IndexedFile, path_of, put_file, remove_file
from mcp_servers.search.passages import NAME_ONLY, Passage, passages_of
from mcp_servers.search.policy import Limits, Selection, Status, kind_of_name
from mcp_servers.search.walking import FoundFile, walk

# Coarsest clock of common file systems: FAT has a resolution of two seconds.
COARSEST_CLOCK_NS = 2_000_000_000
REMOVED_IN_ONE_BATCH = 1_000

Report = Callable[[float, int], None]
"""Receives the number of files done and the total (0 while they are counted); may raise to end the refresh."""


@dataclass(frozen=True)
class Refreshed:
    """Numbers of files that refreshes read and removed."""

    n_read: int = 0
    n_removed: int = 0

    def and_then(self, other: Refreshed) -> Refreshed:
        """Return the sum of two counts."""
        return Refreshed(self.n_read + other.n_read, self.n_removed + other.n_removed)

    def since(self, earlier: Refreshed) -> Refreshed:
        """Return the count since `earlier`."""
        return Refreshed(self.n_read - earlier.n_read, self.n_removed - earlier.n_removed)


class Refresher:
    """Keeps one index up to date with one folder."""

    def __init__(
        self, index: Index, root: Root, selection: Selection, reader: DocumentReader, limits: Limits
    ) -> None:
        """Use `reader`, which must not be used elsewhere meanwhile."""
        self._index = index
        self._root = root
        self._selection = selection
        self._reader = reader
        self._limits = limits

    def refresh(self, report: Report) -> Refreshed:
        """Read new and changed files, and remove deleted ones.

        Raises:
            ToolFailure: The folder or the index cannot be used.
            sqlite3.Error: The index cannot be written.
        """
        try:
            self._index.prepare()
        except StartError as error:
            raise ToolFailure("The index file cannot be used any more; the server has to be restarted.") from error
        found = walk(self._root, self._selection, self._limits, lambda: report(0, 0))
        with self._index.reading(float("inf")) as connection:
            rows = connection.execute(f"SELECT {PATH}, iif(is_settled, stamp, '') FROM files")
            known = {path_of(path): stamp for path, stamp in rows}
        now = {joined(file.parts): file for file in found.files}
        gone = [path for path in known if path not in now]
        changed = [file for path, file in now.items() if known.get(path) != file.stamp]
        self._remove(gone)
        try:
            self._read(changed, report)
        finally:
            self._reader.close()  # the next refresh may be hours away
        with self._index.writing() as connection:
            set_fact(connection, "refreshed", repr(time.time()))
            set_fact(connection, "left_out", json.dumps(found.left_out))
        return Refreshed(len(changed), len(gone))

    def _remove(self, paths: list[str]) -> None:
        for start in range(0, len(paths), REMOVED_IN_ONE_BATCH):
            with self._index.writing() as connection:
                for path in paths[start : start + REMOVED_IN_ONE_BATCH]:
                    remove_file(connection, path)

    def _read(self, changed: list[FoundFile], report: Report) -> None:
        with self._index.reading(float("inf")) as connection:
            rows = connection.execute(f"SELECT {PATH}, text_bytes FROM files")
            sizes = {path_of(path): n_bytes for path, n_bytes in rows}
        n_bytes = sum(sizes.values())
        batch, n_batch_bytes = list[IndexedFile](), 0
        for n_done, found in enumerate(changed):
            report(n_done, len(changed))
            n_bytes -= sizes.get(joined(found.parts), 0)
            if n_bytes >= self._limits.max_total_bytes:
                file = self._left_out(found)
            else:
                file = self._indexed(found, lambda part, n=n_done: report(n + part, len(changed)))
            batch.append(file)
            n_bytes += file.text_bytes
            n_batch_bytes += file.text_bytes
            if len(batch) >= self._limits.batch_files or n_batch_bytes >= self._limits.batch_bytes:
                self._put(batch)
                batch, n_batch_bytes = [], 0
        self._put(batch)
        report(len(changed), len(changed))

    def _put(self, batch: list[IndexedFile]) -> None:
        with self._index.writing() as connection:
            for file in batch:
                put_file(connection, file)

    def _left_out(self, found: FoundFile) -> IndexedFile:
        problem = f"the index holds at most {self._limits.max_total_bytes} bytes of text"
        return _named_only(found, "left out", problem)

    def _indexed(self, found: FoundFile, report: Callable[[float], None]) -> IndexedFile:
        began_ns = time.time_ns()
        try:
            document = self._reader.read(found.parts, report)
        except ToolFailure as failure:  # missing, or not readable by this user: the next refresh tries again
            return _named_only(found, "failed", str(failure))
        passages, n_left_out = _first(_passages(document, self._limits), self._limits.max_passages)
        status, problem = document.status, document.problem
        if n_left_out:
            status = "part"
            problem = "; ".join(filter(None, (problem, f"only the first {self._limits.max_passages} passages")))
        return IndexedFile(
            path=joined(found.parts),
            kind=kind_of_name(found.parts[-1]),
            stamp=document.stamp,
            is_settled=abs(began_ns - int(document.stamp.split(":")[1])) > COARSEST_CLOCK_NS,
            status=status,
            problem=problem,
            passages=passages or [NAME_ONLY],
        )


def _named_only(found: FoundFile, status: Status, problem: str) -> IndexedFile:
    path = joined(found.parts)
    return IndexedFile(path, kind_of_name(path), found.stamp, False, status, problem, [NAME_ONLY])


def _passages(document: Document, limits: Limits) -> Iterator[Passage]:
    for page in document.pages:
        yield from passages_of(
            page.lines,
            document.form,
            page=page.number,
            max_lines=limits.max_passage_lines,
            max_chars=limits.max_passage_chars,
        )


def _first(passages: Iterable[Passage], count: int) -> tuple[list[Passage], int]:
    """Return the first `count` passages, and the number of others."""
    kept = list[Passage]()
    n_more = 0
    for passage in passages:
        if len(kept) < count:
            kept.append(passage)
        else:
            n_more += 1
    return kept, n_more
