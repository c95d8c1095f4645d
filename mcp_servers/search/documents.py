"""Reading one file as text: through the root's descriptors, with HTML and PDF parsed in the child.

The index and `read_passage` use the same functions, so the line numbers of a hit are valid for reading.
"""

from __future__ import annotations

import base64
import codecs
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import PathParts, joined, shown
from mcp_servers.filesystem.root import Root
from mcp_servers.search.policy import Form, Limits, Status, form_of, kind_of_name
from mcp_servers.search.visible import visible

WORKER = "mcp_servers.search.document_worker"
# Same test as in git and grep: a NUL byte near the start means binary.
BINARY_PROBE_BYTES = 8 * 1024
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MAX_SHOWN_PAGES = 5
# A small binary file may have no NUL byte, but more than one invalid character in ten.
MAX_WRONG_SHARE = 0.1

ReportPart = Callable[[float], None]
"""Receives the fraction of a document that has been read, 0.0 to 1.0; may raise to stop reading."""


@dataclass(frozen=True)
class Page:
    """A page of a PDF; any other file is page 0."""

    number: int
    lines: list[str]


@dataclass(frozen=True)
class Document:
    """Readable content of a file."""

    stamp: str
    form: Form
    status: Status = "whole"
    problem: str = ""
    pages: tuple[Page, ...] = ()
    n_pages: int = 0
    """Pages of the whole PDF; 0 if the file has no pages."""


def stamp_of(status: os.stat_result) -> str:
    """Return a stamp that changes with the file: size, modification time, inode."""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def ignore_part(part: float) -> None:
    """Discard the report."""


class DocumentReader:
    """Reads the files below a root, one HTML or PDF at a time."""

    def __init__(self, root: Root, limits: Limits) -> None:
        """Read below `root`; the child is started when it is first needed."""
        self._root = root
        self._limits = limits
        self._child = KillableChild(WORKER, packages=True)

    def close(self) -> None:
        """Stop the child."""
        self._child.close()

    def read(self, parts: PathParts, report: ReportPart = ignore_part) -> Document:
        """Read the current content of a file.

        Raises:
            ToolFailure: It is missing, a link, unreadable, or not a regular file.
        """
        document, data = self._opened(parts)
        if document.form != "pdf" or document.status != "whole":
            return self._without_pages(document, data)
        try:
            read = self._pdf(data, 1, self._limits.max_pages, report)
        except ToolFailure as failure:
            return replace(document, status="failed", problem=str(failure))
        return _described(document, read)

    def read_page(self, parts: PathParts, page: int) -> Document:
        """Read the current content of a file; of a PDF, only one page.

        Raises:
            ToolFailure: As `read`, or the PDF cannot be read or has fewer pages.
        """
        document, data = self._opened(parts)
        if document.form != "pdf" or document.status != "whole":
            return self._without_pages(document, data)
        read = self._pdf(data, page, page, ignore_part)
        if page > read.n_pages:
            raise ToolFailure(f"{shown(joined(parts))!r} has {read.n_pages} pages; page {page} is past the end.")
        if read.unread:
            raise ToolFailure(f"Page {page} of {shown(joined(parts))!r} cannot be read. Other pages may be.")
        return replace(document, pages=tuple(read.pages), n_pages=read.n_pages)

    def _opened(self, parts: PathParts) -> tuple[Document, bytes]:
        """Return the document without text, and its bytes; status "whole" means that they should be parsed."""
        form = form_of(kind_of_name(parts[-1]))
        limit = self._limits.max_pdf_bytes if form == "pdf" else self._limits.max_text_file_bytes
        with self._root.file(parts) as file:
            status = os.fstat(file.fileno())
            try:
                # If the file grows meanwhile, its stamp changes too, and the next refresh reads it again.
                data = file.read(limit + 1 if status.st_size <= limit else BINARY_PROBE_BYTES)
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise ToolFailure(f"{shown(joined(parts))!r} cannot be read: {reason}.") from error
        document = Document(stamp_of(status), form)
        if form != "pdf" and not data.startswith(UTF_16_MARKS) and b"\0" in data[:BINARY_PROBE_BYTES]:
            return replace(document, status="binary", problem="it is a binary file"), b""
        if status.st_size > limit or len(data) > limit:
            problem = f"it has {max(status.st_size, len(data))} bytes; at most {limit} are read"
            return replace(document, status="too large", problem=problem), b""
        return document, data

    def _without_pages(self, document: Document, data: bytes) -> Document:
        if document.status != "whole":
            return document
        return self._html(document, data) if document.form == "html" else _text(document, data)

    def _html(self, document: Document, data: bytes) -> Document:
        try:
            answer = self._ask({"do": "html", "data": _base64(data)})
        except ToolFailure as failure:
            return replace(document, status="failed", problem=str(failure))
        missing = answer["missing"]
        page = Page(0, lines_of(answer["text"]))
        return replace(document, status="part" if missing else "whole", problem=missing, pages=(page,))

    def _pdf(self, data: bytes, first: int, last: int, report: ReportPart) -> _PdfPages:
        """Read pages piece by piece until `last`, the end, or a limit.

        Raises:
            ToolFailure: No page can be read.
        """
        read = _PdfPages(n_pages=last)
        encoded = _base64(data)
        deadline = time.monotonic() + self._limits.document_s
        while first <= min(last, read.n_pages) and not read.stopped_because:
            request = {"do": "pdf", "data": encoded, "first": first, "last": last, "piece_s": self._limits.piece_s}
            try:
                answer = self._ask({**request, "max_chars": self._limits.max_text_file_bytes - read.n_chars})
            except ToolFailure as failure:
                if not read.pages:
                    raise
                read.stopped_because = str(failure)
                break
            read.add(first, answer)
            first = answer["next"]
            report(min(1.0, first / max(1, read.n_pages)))
            if first <= read.n_pages and read.n_chars >= self._limits.max_text_file_bytes:
                read.stopped_because = f"at most {self._limits.max_text_file_bytes} characters are read"
            elif first <= read.n_pages and time.monotonic() > deadline:
                read.stopped_because = f"at most {self._limits.document_s:g} s are spent on it"
        return read

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._child.call(request, self._limits.child_s)
        except ToolFailure as failure:
            self._child.close()  # a hostile file may have used up its memory
            raise ToolFailure(visible(str(failure))) from failure  # it may quote the file
        except ChildTimeout as error:
            raise ToolFailure(f"it takes more than {self._limits.child_s:g} s to read and was given up") from error
        except ChildCrash as error:
            raise ToolFailure("it makes its reader fail") from error


@dataclass
class _PdfPages:
    """Pages of a PDF read so far."""

    n_pages: int
    pages: list[Page] = field(default_factory=list[Page])
    unread: list[int] = field(default_factory=list[int])
    n_chars: int = 0
    stopped_because: str = ""

    def add(self, first: int, answer: dict[str, Any]) -> None:
        self.n_pages = answer["n_pages"]
        self.pages += [Page(first + n, lines_of(text)) for n, text in enumerate(answer["texts"])]
        self.unread += answer["unread"]
        self.n_chars += sum(map(len, answer["texts"]))


def _described(document: Document, read: _PdfPages) -> Document:
    """Return the document with the pages that were read and a description of those that were not."""
    document = replace(document, pages=tuple(read.pages), n_pages=read.n_pages)
    if not any(line.strip() for page in read.pages for line in page.lines):
        reason = "its pages cannot be read" if read.unread else "it holds no text; scanned pages are not read"
        return replace(document, status="failed", problem=read.stopped_because or reason)
    problems = list[str]()
    if len(read.pages) < read.n_pages:
        reason = f": {read.stopped_because}" if read.stopped_because else ""
        problems.append(f"only the first {len(read.pages)} of {read.n_pages} pages{reason}")
    if read.unread:
        more = ", ..." if len(read.unread) > MAX_SHOWN_PAGES else ""
        numbers = ", ".join(map(str, read.unread[:MAX_SHOWN_PAGES]))
        problems.append(f"pages that cannot be read: {numbers}{more}")
    return replace(document, status="part" if problems else "whole", problem="; ".join(problems))


def _text(document: Document, data: bytes) -> Document:
    text = data.decode("utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig", "replace")
    if text.count("\ufffd") > MAX_WRONG_SHARE * len(text):
        problem = "it is a binary file, or text in an encoding other than UTF-8 and UTF-16"
        return replace(document, status="binary", problem=problem)
    return replace(document, pages=(Page(0, lines_of(text)),))


def lines_of(text: str) -> list[str]:
    """Return the lines in displayable form; a last line without a line feed counts, as in editors."""
    return visible(text).removesuffix("\n").split("\n") if text else []


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
