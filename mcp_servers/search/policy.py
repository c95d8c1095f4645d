"""Selection of files for the index, and limits: pure rules without I/O or MCP."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import (
    PathParts,
    compile_glob,
    glob_matches,
    joined,
    parse_path,
    printable_bytes,
)
from mcp_servers.search.visible import visible

MIB = 1024 * 1024

Status = Literal["whole", "part", "binary", "too large", "failed", "left out"]
"""Extent to which a file is indexed: all of its text, some of it, or only its name."""
Form = Literal["text", "code", "markdown", "html", "pdf"]
"""Form of a file: decides how its text is extracted and what its headings are."""


@dataclass(frozen=True)
class Limits:
    """Limits of the index and of one call. Everything that exceeds a limit is counted and reported."""

    max_walked: int = 500_000
    """Entries that one refresh visits: about 10 s."""
    max_files: int = 50_000
    """Files in the index."""
    max_text_file_bytes: int = 4 * MIB
    """Size of the largest file of text, code or HTML; larger ones are logs and data, unfit for word search."""
    max_pdf_bytes: int = 24 * MIB
    """Size of the largest PDF: a copy in base64, one in JSON and the parsed one fit the child's memory."""
    max_pages: int = 2_000
    """Pages of one PDF."""
    max_passages: int = 4_000
    """Passages of one file."""
    max_vectors: int = 250_000
    """Vectors in the index: 12 MB of codes in memory, hours of embedding; passages beyond are found by words."""
    max_total_bytes: int = 512 * MIB
    """Bytes of text in the index; the index file is about twice as large."""
    max_path_bytes: int = 1_000
    """Bytes of the longest path: a page of hits stays below 32 KiB for any paths."""
    max_passage_lines: int = 40
    """Lines of one passage: a function or a few paragraphs."""
    max_passage_chars: int = 4_000
    """Characters of one passage, about 1,000 tokens; a longer line is several passages."""
    document_s: float = 120.0
    """Seconds for one PDF; the pages read by then are indexed."""
    piece_s: float = 5.0
    """Seconds after which a PDF's pages so far are returned, so that a refresh can report progress and stop."""
    child_s: float = 15.0
    """Seconds after which the child that parses HTML and PDF is killed."""
    batch_files: int = 200
    """Files in one transaction."""
    batch_bytes: int = 2 * MIB
    """Bytes of text in one transaction: bounds another server's wait for the lock to about a second."""
    hits_per_page: int = 10
    """Hits in one answer."""
    hits_per_file: int = 3
    """Hits of one file if several match: a long file does not hide the others."""
    snippet_lines: int = 4
    """Matching lines shown of a hit."""
    max_line_chars: int = 160
    """Characters shown of such a line."""
    max_answer_bytes: int = 32 * 1024
    """Bytes of text in one `read_passage`: about 8,000 tokens, a small model's context."""
    problems_per_page: int = 25
    """Files with a problem in one answer of `index_status`."""
    search_s: float = 5.0
    """Seconds for one search."""
    wait_s: float = 10.0
    """Seconds that a search waits for the first refresh; agentkit waits 30 s for a call."""
    refresh_s: float = 25.0
    """Seconds that `refresh` waits; the work continues afterwards."""


# Folders of packages and caches; names that begin with a dot (.git, .venv, .env) are skipped as well.
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})
# fmt: off
CODE_KINDS = frozenset([
    "c", "cc", "cpp", "cs", "cxx", "dart", "ex", "exs", "fs", "go", "h", "hpp", "hs", "java", "jl", "js", "jsx",
    "kt", "lua", "mjs", "ml", "mm", "nim", "php", "pl", "proto", "ps1", "py", "pyi", "pyx", "r", "rb", "rs",
    "scala", "sh", "sol", "sql", "swift", "ts", "tsx", "vb", "zig",
])
# fmt: on
MARKDOWN_KINDS = frozenset({"md", "markdown", "mdx", "qmd"})
HTML_KINDS = frozenset({"html", "htm", "xhtml"})
MAX_KIND_CHARS = 16

HIDDEN = "hidden files and folders, node_modules, __pycache__"
EXCLUDED = "files and folders that --exclude or --include leaves out"
OWN = "files of the index itself"
UNNAMEABLE = "names that are not UTF-8, hold control characters or are too long"


class Selection:
    """The launcher's choice of files, in addition to the fixed exclusions."""

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        own: Collection[PathParts] = (),
        *,
        gitignore: bool = True,
    ) -> None:
        """Select entries that match one of `include` (all, if it is empty) and none of `exclude`.

        A glob without a slash is compared with names. One with a slash is compared with whole paths, where `*`
        also matches slashes. A match of a folder includes its contents. The index's `own` files are never opened.
        With `gitignore`, the walk excludes entries named in `.gitignore` and `.ignore` files, even if `include`
        matches.

        Raises:
            ToolFailure: A glob is empty or too long.
        """
        self.gitignore = gitignore
        """True: the walk applies `.gitignore` and `.ignore` files."""
        self._own = own
        self._include = [_Glob(pattern) for pattern in include]
        self._exclude = [_Glob(pattern) for pattern in exclude]

    def reason_to_skip(self, parts: PathParts, *, is_folder: bool, max_path_bytes: int) -> str:
        """Return why an entry is not indexed, or an empty string; its parent folders have been checked before."""
        if parts[-1].startswith(".") or (is_folder and parts[-1] in SKIPPED_FOLDERS):
            return HIDDEN
        if parts in self._own:
            return OWN
        if not _can_be_named(parts, max_path_bytes):
            return UNNAMEABLE
        if any(glob.matches(parts) for glob in self._exclude):
            return EXCLUDED
        if is_folder or not self._include:
            return ""
        above = (parts[:depth] for depth in range(1, len(parts) + 1))
        return "" if any(glob.matches(path) for path in above for glob in self._include) else EXCLUDED


class _Glob:
    def __init__(self, pattern: str) -> None:
        self._pattern: re.Pattern[str] = compile_glob(pattern.removesuffix("/") or pattern)
        self._whole_path = "/" in pattern.removesuffix("/")

    def matches(self, parts: PathParts) -> bool:
        return glob_matches(self._pattern, parts, whole_path=self._whole_path)


def _can_be_named(parts: PathParts, max_path_bytes: int) -> bool:
    """Return whether a client can write this path, so that a hit can be read."""
    path = joined(parts)
    if len(path.encode()) > max_path_bytes or any(printable_bytes(name) != name for name in parts):
        return False
    try:
        return parse_path(path) == parts
    except ToolFailure:
        return False


def own_files(folder: str, index: str) -> frozenset[PathParts]:
    """Return the names of SQLite's files for the index, if it is in the folder; both paths are absolute.

    Reading them as files would, on closing, release the locks that this process holds on them.
    """
    parts = PurePath(os.path.relpath(index, folder)).parts
    if parts[0] == "..":
        return frozenset()
    return frozenset((*parts[:-1], parts[-1] + ending) for ending in ("", "-wal", "-shm", "-journal"))


def kind_of_name(name: str) -> str:
    """Return the lower-case extension without the dot and hidden characters; empty if there is none."""
    stem, dot, extension = name.rpartition(".")
    extension = visible(extension).lower()
    return extension if stem and dot and len(extension) <= MAX_KIND_CHARS else ""


def parse_kind(text: str) -> str:
    """Return the extension that a client writes as `py`, `.py` or `*.py`."""
    return visible(text).strip().lower().removeprefix("*").removeprefix(".")


def form_of(kind: str) -> Form:
    """Return the form of files with this extension."""
    if kind == "pdf":
        return "pdf"
    if kind in HTML_KINDS:
        return "html"
    if kind in MARKDOWN_KINDS:
        return "markdown"
    return "code" if kind in CODE_KINDS else "text"
