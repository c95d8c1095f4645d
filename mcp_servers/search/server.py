"""The search tools as a model sees them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.lowlevel.server import Server
from pydantic import Field

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import MAX_PATH_BYTES
from mcp_servers.search import status
from mcp_servers.search.background import State
from mcp_servers.search.folder_index import FolderIndex, open_folder
from mcp_servers.search.places import parse_place
from mcp_servers.search.policy import Limits
from mcp_servers.search.queries import MAX_QUERY_CHARS, parse_query
from mcp_servers.search.results import Freshness, IndexStatus, PassageText, RefreshResult, SearchResult
from mcp_servers.search.vector_table import OtherEmbedder
from mcp_servers.strict import ADDS, READS, strict_server, strict_tool

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder

NAME = "agentkit-search"
INSTRUCTIONS = (
    "Full-text search in the files of one folder. Call search with the words that the text would have, then "
    "read_passage with a hit's path and line."
)
HYBRID_INSTRUCTIONS = (
    "Search by words and by meaning in the files of one folder. Call search with a question or with the words "
    "that the text would have, then read_passage with a hit's path and line."
)
DEFAULT_LINES = 60
MAX_LINES = 1_000
MAX_PAGE = 100
MAX_DOCUMENT_PAGE = 100_000

Page = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Page of the answer.")]


class SearchTools:
    """The tools of one folder and its index."""

    def __init__(self, folder: FolderIndex) -> None:
        """Serve the files of a folder from its index."""
        self._folder = folder
        self._index = folder.index
        self._limits = folder.limits
        self._background = folder.background

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
        found, n_by_meaning = self._folder.find(asked, place, page, state)
        with self._index.reading(self._limits.search_s) as connection:
            return SearchResult(
                hits=[status.shown_hit(self._folder.root, hit) for hit in found.hits],
                total_passages=found.n_passages,
                total_files=found.n_files,
                has_all_words=found.has_all_words,
                passages_by_meaning=n_by_meaning,
                left_out_words=asked.n_left_out,
                page=page,
                has_more=found.has_more,
                index=self._freshness(connection, state),
            )

    def read_passage(
        self,
        path: Annotated[str, Field(max_length=MAX_PATH_BYTES, description="Path of a file, as search gives it.")],
        first_line: Annotated[int, Field(ge=1, description="First line to read.")] = 1,
        lines: Annotated[int, Field(ge=1, le=MAX_LINES, description="Number of lines.")] = DEFAULT_LINES,
        page: Annotated[int, Field(ge=0, le=MAX_DOCUMENT_PAGE, description="Page of a PDF; 0 for others.")] = 0,
    ) -> PassageText:
        """Read lines of a file that search found."""
        return self._folder.read(path, first_line, lines, page)

    def index_status(self, page: Page = 1) -> IndexStatus:
        """Say how fresh and complete the index is, and which files could not be read."""
        state = self._background.ensure_one(0)
        with self._index.reading(self._limits.search_s) as connection:
            return status.index_status(connection, state, self._embedding_state(), page, self._limits)

    def refresh(self) -> RefreshResult:
        """Read files that are new or changed since the last refresh."""
        done, state = self._background.run_one(self._limits.refresh_s)
        if state.failure and not state.is_running:
            raise ToolFailure(f"The index was not refreshed: {state.failure.rstrip('.')}.")
        with self._index.reading(self._limits.search_s) as connection:
            return status.refresh_result(done, self._freshness(connection, state), state)

    def close(self) -> None:
        """Stop the running refresh and the children."""
        self._folder.close()

    def _freshness(self, connection: sqlite3.Connection, state: State) -> Freshness:
        return status.freshness(connection, state, self._embedding_state())

    def _embedding_state(self) -> State | None:
        embedding = self._folder.embedding
        return None if embedding is None else embedding.state


def build_server(
    folder: str,
    *,
    index: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    gitignore: bool = True,
    limits: Limits | None = None,
    embedder: TextEmbedder | None = None,
    other_embedder: OtherEmbedder = "refuse",
) -> Server[Any]:
    """Return a server for `folder`; it can be passed to `mcp.Client` as it is. Its arguments are `open_folder`'s.

    Raises:
        StartError: As `open_folder`.
    """
    opened = open_folder(
        folder,
        index=index,
        include=include,
        exclude=exclude,
        gitignore=gitignore,
        limits=limits,
        embedder=embedder,
        other_embedder=other_embedder,
    )
    tools = SearchTools(opened)
    offered = [strict_tool(tool, READS) for tool in (tools.search, tools.read_passage, tools.index_status)]
    offered.append(strict_tool(tools.refresh, ADDS))
    instructions = INSTRUCTIONS if embedder is None else HYBRID_INSTRUCTIONS
    return strict_server(NAME, instructions=instructions, tools=offered, on_close=tools.close)
