"""The search tools as a model sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from mcp.server.lowlevel.server import Server
from pydantic import Field

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.filesystem.policy import MAX_PATH_BYTES, parse_path
from mcp_servers.filesystem.root import Root
from mcp_servers.gitignore.scope import FILE_NAMES
from mcp_servers.search import reading, status
from mcp_servers.search.background import BackgroundRefresh
from mcp_servers.search.documents import DocumentReader
from mcp_servers.search.finding import find
from mcp_servers.search.index import Index, default_path
from mcp_servers.search.places import check_indexed, check_place, is_indexed, parse_place
from mcp_servers.search.policy import Limits, Selection, own_files
from mcp_servers.search.queries import MAX_QUERY_CHARS, parse_query
from mcp_servers.search.refreshing import Refresher
from mcp_servers.search.results import IndexStatus, PassageText, RefreshResult, SearchResult
from mcp_servers.strict import ADDS, READS, strict_server, strict_tool

NAME = "agentkit-search"
INSTRUCTIONS = (
    "Full-text search in the files of one folder. Call search with the words that the text would have, then "
    "read_passage with a hit's path and line."
)
DEFAULT_LINES = 60
MAX_LINES = 1_000
MAX_PAGE = 100
MAX_DOCUMENT_PAGE = 100_000

Page = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Page of the answer.")]


class SearchTools:
    """The tools of one folder and its index."""

    def __init__(self, root: Root, index: Index, selection: Selection, limits: Limits) -> None:
        """Serve the files of `selection` below `root` from `index`."""
        self._root = root
        self._index = index
        self._limits = limits
        self._reader = DocumentReader(root, limits)
        self._refresh_reader = DocumentReader(root, limits)  # so that reading does not wait for a refresh
        refresher = Refresher(index, root, selection, self._refresh_reader, limits)
        self._background = BackgroundRefresh(refresher.refresh)

    def search(
        self,
        query: Annotated[
            str, Field(max_length=MAX_QUERY_CHARS, description='Words; "exact phrase"; -word leaves out.')
        ],
        path: Annotated[
            str, Field(max_length=MAX_PATH_BYTES, description="Only this folder or file; empty: all.")
        ] = "",
        kind: Annotated[str, Field(max_length=20, description="Only this extension, like 'md'; empty: all.")] = "",
        page: Page = 1,
    ) -> SearchResult:
        """Find passages of files by their words. Best first, with line numbers."""
        asked = parse_query(query)
        place = parse_place(path, kind)
        state = self._background.ensure_one(self._limits.wait_s)
        with self._index.reading(self._limits.search_s) as connection:
            check_place(connection, place, is_growing=state.is_running)
            found = find(connection, asked, place, page, self._limits)
            return SearchResult(
                hits=[status.shown_hit(self._root, hit) for hit in found.hits],
                total_passages=found.n_passages,
                total_files=found.n_files,
                has_all_words=found.has_all_words,
                left_out_words=asked.n_left_out,
                page=page,
                has_more=found.has_more,
                index=status.freshness(connection, state),
            )

    def read_passage(
        self,
        path: Annotated[str, Field(max_length=MAX_PATH_BYTES, description="Path of a file, as search gives it.")],
        first_line: Annotated[int, Field(ge=1, description="First line to read.")] = 1,
        lines: Annotated[int, Field(ge=1, le=MAX_LINES, description="Number of lines.")] = DEFAULT_LINES,
        page: Annotated[int, Field(ge=0, le=MAX_DOCUMENT_PAGE, description="Page of a PDF; 0 for others.")] = 0,
    ) -> PassageText:
        """Read lines of a file that search found."""
        parts = parse_path(path)
        with self._index.reading(self._limits.search_s) as connection:
            is_known = is_indexed(connection, parts)
        state = self._background.ensure_one(0 if is_known else self._limits.wait_s)
        with self._index.reading(self._limits.search_s) as connection:
            check_indexed(connection, parts, is_growing=state.is_running)
        return reading.read_passage(self._reader, parts, first_line, lines, page, self._limits)

    def index_status(self, page: Page = 1) -> IndexStatus:
        """Say how fresh and complete the index is, and which files could not be read."""
        state = self._background.ensure_one(0)
        with self._index.reading(self._limits.search_s) as connection:
            return status.index_status(connection, state, page, self._limits)

    def refresh(self) -> RefreshResult:
        """Read files that are new or changed since the last refresh."""
        done, state = self._background.run_one(self._limits.refresh_s)
        if state.failure and not state.is_running:
            raise ToolFailure(f"The index was not refreshed: {state.failure.rstrip('.')}.")
        with self._index.reading(self._limits.search_s) as connection:
            return status.refresh_result(connection, done, state)

    def close(self) -> None:
        """Stop the running refresh and the children."""
        self._background.stop()
        self._reader.close()
        self._refresh_reader.close()


def build_server(
    folder: str,
    *,
    index: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    gitignore: bool = True,
    limits: Limits | None = None,
) -> Server[Any]:
    """Return a server for `folder`; it can be passed to `mcp.Client` as it is.

    Args:
        folder: Folder to index.
        index: Index file; None: a file in the user's cache.
        include: Globs of the files to index; empty: all.
        exclude: Globs of files and folders to exclude.
        gitignore: Whether to exclude entries named in `.gitignore` and `.ignore` files, too.
        limits: Limits of the index and of one call.

    Raises:
        StartError: The folder or the index cannot be opened, or a glob is invalid.
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
    tools = SearchTools(root, Index(path, subject), selection, limits or Limits())
    offered = [strict_tool(tool, READS) for tool in (tools.search, tools.read_passage, tools.index_status)]
    offered.append(strict_tool(tools.refresh, ADDS))
    return strict_server(NAME, instructions=INSTRUCTIONS, tools=offered, on_close=tools.close)
