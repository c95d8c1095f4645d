"""The index of one folder, opened, kept up to date and searched: by the search server and by `agentkit.retrieval`.

Words are always indexed. With an embedding model, passages are embedded in the background after each refresh, and
a search ranks by words and by meaning; passages without a vector so far are found by their words.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.filesystem.policy import parse_path
from mcp_servers.filesystem.root import Root
from mcp_servers.gitignore.scope import FILE_NAMES
from mcp_servers.search.background import BackgroundRefresh, State
from mcp_servers.search.documents import DocumentReader
from mcp_servers.search.finding import Found, Place, find
from mcp_servers.search.index import PATH, Index, default_path, path_of
from mcp_servers.search.places import check_indexed, check_place, is_indexed
from mcp_servers.search.policy import Limits, Selection, own_files
from mcp_servers.search.queries import Query
from mcp_servers.search.reading import read_passage
from mcp_servers.search.refreshing import Refreshed, Refresher, Report
from mcp_servers.search.results import PassageText
from mcp_servers.search.status import PROBLEMS
from mcp_servers.search.vector_table import OtherEmbedder
from mcp_servers.search.word_ranking import ranked_by_word

if TYPE_CHECKING:
    from mcp_servers.search.fusion import Mode, Ranker
    from modelstack.inference.minilm import TextEmbedder


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """A whole passage that matches a query."""

    path: str
    page: int
    """Page of a PDF, from 1; 0 for other files."""
    first_line: int
    """First line, from 1, within the page of a PDF; 0 if only the file's name is indexed."""
    last_line: int
    heading: str
    text: str
    stamp: str
    """State of the file when it was indexed."""
    score: float


class FolderIndex:
    """A folder and its index. Safe to call from threads."""

    def __init__(
        self,
        root: Root,
        index: Index,
        selection: Selection,
        limits: Limits,
        embedder: TextEmbedder | None = None,
        other_embedder: OtherEmbedder = "refuse",
    ) -> None:
        """Index the files of `selection` below `root`; nothing is read yet.

        Raises:
            StartError: The index has vectors of another model, and `other_embedder` is "refuse".
        """
        self.root = root
        self.index = index
        self.limits = limits
        self.reader = DocumentReader(root, limits)
        self._refresh_reader = DocumentReader(root, limits)  # so that reading does not wait for a refresh
        self._refresher = Refresher(index, root, selection, self._refresh_reader, limits)
        self.background = BackgroundRefresh(self._refresh)
        self._ranker: Ranker | None = None
        self.embedding: BackgroundRefresh | None = None
        """The background work that embeds passages; None without an embedding model."""
        if embedder is not None:
            from mcp_servers.search.embedding import PassageEmbedder
            from mcp_servers.search.fusion import Ranker

            self._ranker = Ranker(embedder)
            passages = PassageEmbedder(index, embedder, other_embedder, limits)
            self.embedding = BackgroundRefresh(passages.embed)

    def find(self, query: Query, place: Place, page: int, state: State) -> tuple[Found, int]:
        """Return one page of hits, and the number of passages that were ranked by meaning.

        Raises:
            ToolFailure: The place is unknown, or the index cannot be read in time.
        """
        if self._ranker is None:
            with self.index.reading(self.limits.search_s) as connection:
                check_place(connection, place, is_growing=state.is_running)
                return find(connection, query, place, page, self.limits), 0
        from mcp_servers.search.fusion import page_of

        query_D = self._ranker.query_vector(query)
        with self.index.reading(self.limits.search_s) as connection:
            check_place(connection, place, is_growing=state.is_running)
            ranking = self._ranker.ranking(connection, query, query_D, place)
            return page_of(connection, query, ranking, page, self.limits), ranking.n_by_meaning

    def passages(self, query: Query, place: Place, count: int, mode: Mode, state: State) -> list[FoundPassage]:
        """Return the `count` best passages with their whole text.

        Raises:
            ToolFailure: As `find`, or `mode` needs an embedding model.
        """
        if mode == "lexical":
            with self.index.reading(self.limits.search_s) as connection:
                check_place(connection, place, is_growing=state.is_running)
                ranked = ranked_by_word(connection, query, place)
                return [_passage(connection, *each) for each in ranked[:count]]
        if self._ranker is None:
            raise ToolFailure(f"mode {mode!r} needs an embedding model, and this search has words alone.")
        query_D = self._ranker.query_vector(query)
        with self.index.reading(self.limits.search_s) as connection:
            check_place(connection, place, is_growing=state.is_running)
            ranking = self._ranker.ranking(connection, query, query_D, place, mode)
            return [_passage(connection, each.passage_id, each.score) for each in ranking.passages[:count]]

    def read(self, path: str, first_line: int, lines: int, page: int) -> PassageText:
        """Return lines of the current content of an indexed file.

        Raises:
            ToolFailure: The file is not indexed or cannot be read, or has no such line or page.
        """
        parts = parse_path(path)
        with self.index.reading(self.limits.search_s) as connection:
            is_known = is_indexed(connection, parts)
        state = self.background.ensure_one(0 if is_known else self.limits.wait_s)
        with self.index.reading(self.limits.search_s) as connection:
            check_indexed(connection, parts, is_growing=state.is_running)
        return read_passage(self.reader, parts, first_line, lines, page, self.limits)

    def has_files(self) -> bool:
        """Return whether the index lists a file."""
        with self.index.reading(self.limits.search_s) as connection:
            return connection.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None

    def contents(self) -> tuple[int, int, list[str]]:
        """Return the numbers of files and passages, and the first files with a problem."""
        with self.index.reading(self.limits.search_s) as connection:
            (n_files,) = connection.execute("SELECT count(*) FROM files").fetchone()
            (n_passages,) = connection.execute("SELECT count(*) FROM passages").fetchone()
            problems = connection.execute(
                f"SELECT {PATH}, problem {PROBLEMS} ORDER BY path LIMIT ?", (self.limits.problems_per_page,)
            ).fetchall()
        return n_files, n_passages, [f"{path_of(path)}: {problem}" for path, problem in problems]

    def close(self) -> None:
        """Stop the background work and the children."""
        self.background.stop()
        if self.embedding is not None:
            self.embedding.stop()
        self.reader.close()
        self._refresh_reader.close()

    def _refresh(self, report: Report) -> Refreshed:
        done = self._refresher.refresh(report)
        if self.embedding is not None:
            self.embedding.run_one(0)
        return done


def open_folder(
    folder: str,
    *,
    index: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    gitignore: bool = True,
    limits: Limits | None = None,
    embedder: TextEmbedder | None = None,
    other_embedder: OtherEmbedder = "refuse",
) -> FolderIndex:
    """Open the index of a folder, or create it; no file of the folder is read yet.

    Args:
        folder: Folder to index.
        index: Index file; None: a file in the user's cache.
        include: Globs of the files to index; empty: all.
        exclude: Globs of files and folders to exclude.
        gitignore: Whether to exclude entries named in `.gitignore` and `.ignore` files, too.
        limits: Limits of the index and of one call.
        embedder: Embedding model; None: search by words alone.
        other_embedder: What to do with an index that has vectors of another model.

    Raises:
        StartError: The folder or the index cannot be opened, a glob is invalid, or the vectors do not fit.
    """
    root = Root(folder)
    place = os.path.realpath(folder)
    subject = {"folder": place, "include": sorted(include), "exclude": sorted(exclude), "gitignore": gitignore}
    path = Path(index) if index is not None else default_path(subject)
    path = path.parent.resolve() / path.name
    if path.name in FILE_NAMES:  # the walk would read it as rules, and release its locks
        raise StartError(f"{path.name!r} is no name for an index. Name another --index.")
    try:
        selection = Selection(include, exclude, own_files(place, str(path)), gitignore=gitignore)
    except ToolFailure as failure:
        raise StartError(f"--include and --exclude: {failure}") from failure
    return FolderIndex(root, Index(path, subject), selection, limits or Limits(), embedder, other_embedder)


def _passage(connection: sqlite3.Connection, passage_id: int, score: float) -> FoundPassage:
    path, page, first, last, heading, text, stamp = connection.execute(
        f"SELECT {PATH}, page, first_line, last_line, heading, body, stamp FROM words "
        "JOIN passages ON passages.id = words.rowid JOIN files ON files.id = file_id WHERE words.rowid = ?",
        (passage_id,),
    ).fetchone()
    return FoundPassage(path_of(path), page, first, last, heading, text, stamp, score)
