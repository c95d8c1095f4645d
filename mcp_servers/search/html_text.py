"""Visible text of an HTML page in lines: headings as in Markdown, one line for each block.

lxml parses (it runs nothing, fetches nothing and expands no entities but HTML's own). All text is kept, menus too:
a search must find everything on the page, and words that occur on every page weigh little in the ranking.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxml.etree import _Element

_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg", "iframe", "object"})
_INVISIBLE_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
# fmt: off
_PARAGRAPHS = frozenset([
    *_HEADINGS, "article", "blockquote", "dl", "figure", "hr", "ol", "p", "pre", "section", "table", "title", "ul",
])
_LINES = frozenset([
    "address", "aside", "body", "br", "caption", "dd", "details", "div", "dt", "fieldset", "figcaption", "footer",
    "form", "head", "header", "html", "legend", "li", "main", "nav", "option", "summary", "tbody", "tfoot",
    "thead", "tr",
])
# fmt: on
_STARTS = {**_HEADINGS, "li": "- ", "td": " | ", "th": " | "}


def html_text(data: bytes) -> tuple[str, bool]:
    """Return the text, and whether it is complete: libxml2 stops at 256 levels of elements (xmlParserMaxDepth).

    Raises:
        LxmlError: The data are not HTML.
        LookupError: The page declares an unknown encoding.
        MemoryError: Parsing needs more memory than available.
    """
    import lxml.etree as etree

    if not data.strip():
        return "", True
    parser = etree.HTMLParser(
        encoding=_encoding(data), remove_comments=True, remove_pis=True, no_network=True, huge_tree=False
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        if error.code == etree.ErrorTypes.ERR_NO_MEMORY:  # lxml's own text for this is "unknown error"
            raise MemoryError from error
        raise
    if root is None:
        return "", True
    too_deep = etree.ErrorTypes.ERR_RESOURCE_LIMIT
    return _Writer().text_of(root), not any(entry.type == too_deep for entry in parser.error_log)


def _encoding(data: bytes) -> str | None:
    """Return UTF-8 if the bytes decode as it, which other encodings rarely do; None: as the page declares."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "utf-8"


class _Writer:
    """Collects the lines; white space is folded except in `pre`."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._pre_depth = 0

    def text_of(self, root: _Element) -> str:
        import lxml.etree as etree

        walk = etree.iterwalk(root, events=("start", "end"))
        for event, element in walk:
            if event == "start":
                if _is_unseen(element):
                    walk.skip_subtree()
                else:
                    self._start(element)
            else:
                self._end(element)
        self._end_line()
        return "\n".join(self._lines).strip("\n")

    def _start(self, element: _Element) -> None:
        tag = str(element.tag)
        if tag in _PARAGRAPHS or tag in _LINES:
            self._end_line(blank=tag in _PARAGRAPHS)
        self._pre_depth += tag == "pre"
        if tag in _STARTS and (self._line or tag not in ("td", "th")):
            self._line.append(_STARTS[tag])
        self._write(element.text)

    def _end(self, element: _Element) -> None:
        tag = str(element.tag)
        if not _is_unseen(element):
            if tag in _PARAGRAPHS or tag in _LINES:
                self._end_line(blank=tag in _PARAGRAPHS)
            self._pre_depth -= tag == "pre"
        self._write(element.tail)

    def _write(self, text: str | None) -> None:
        if not text:
            return
        if not self._pre_depth:
            self._line.append(text)
            return
        first, *others = text.split("\n")
        self._line.append(first)
        for line in others:
            self._lines.append("".join(self._line).rstrip())
            self._line = [line]

    def _end_line(self, *, blank: bool = False) -> None:
        text = "".join(self._line)
        self._line = []
        text = text.rstrip() if self._pre_depth else " ".join(text.split())
        if text:
            self._lines.append(text)
        if blank and self._lines and self._lines[-1]:
            self._lines.append("")


def _is_unseen(element: _Element) -> bool:
    if not isinstance(element.tag, str) or element.tag in _UNSEEN or element.get("hidden") is not None:
        return True
    style = element.get("style")
    return style is not None and _INVISIBLE_STYLE.search(style) is not None
