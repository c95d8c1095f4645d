"""Reading a window of the current file, to look around a hit."""

from __future__ import annotations

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import PathParts, joined, shown
from mcp_servers.search.documents import DocumentReader
from mcp_servers.search.policy import Limits, form_of, kind_of_name
from mcp_servers.search.results import PassageText


def read_passage(
    reader: DocumentReader, parts: PathParts, first: int, count: int, page: int, limits: Limits
) -> PassageText:
    """Read `count` lines from line `first`; of a PDF, lines of one page (0: the first page).

    Raises:
        ToolFailure: The file cannot be read, has no such line or page, or is not a PDF but `page` is given.
    """
    path = shown(joined(parts))
    is_pdf = form_of(kind_of_name(parts[-1])) == "pdf"
    if page and not is_pdf:
        raise ToolFailure(f"{path!r} has no pages; only a PDF has. Use page=0.")
    page = max(page, 1) if is_pdf else 0
    document = reader.read_page(parts, page)
    if not document.pages:
        raise ToolFailure(f"{path!r} cannot be read: {document.problem}.")
    lines = document.pages[0].lines
    if first > max(1, len(lines)):
        where = f"Page {page} of {path!r}" if is_pdf else repr(path)
        raise ToolFailure(f"{where} has {len(lines)} lines; first_line {first} is past the end.")
    window, was_cut = _fitting(lines[first - 1 : first - 1 + count], limits.max_answer_bytes)
    return PassageText(
        path=joined(parts),
        page=page,
        n_pages=document.n_pages,
        text="\n".join(window),
        first_line=first if window else 0,
        last_line=first + len(window) - 1 if window else 0,
        total_lines=len(lines),
        line_was_cut=was_cut,
    )


def _fitting(lines: list[str], max_bytes: int) -> tuple[list[str], bool]:
    """Return the first lines that fit, and whether the only line had to be cut."""
    size = 0
    for number, line in enumerate(lines):
        size += len(line.encode()) + 1
        if size > max_bytes:
            if number:
                return lines[:number], False
            return [line.encode()[:max_bytes].decode("utf-8", "ignore")], True
    return lines, False
