"""Step `extract`: finds the charset of a page, rejects unsuitable pages and converts HTML to its main text.

The main-content heuristics are resiliparse's, as chosen by DataComp-LM (Li et al. 2024, arXiv 2406.11794, section
4.2: equal to trafilatura for the trained model, and 8 times faster). FineWeb used trafilatura in its precise
setting (Penedo et al. 2024, arXiv 2406.17557, section 3.2). The charset is determined in the order of the HTML
standard (section 13.2.3): byte order mark, HTTP header, `<meta>`, detection from the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

from mcp_servers.distribution import install_command
from modelstack.data.documents import Document, Step
from modelstack.data.reading.html_shape import trap_in
from modelstack.data.reading.rights import note_rights_of_page
from modelstack.errors import UserError

MAX_TITLE_CHARACTERS = 300
PLAIN_TYPES = ("text/plain", "text/markdown")
_PAGE_LIKE = ("application/octet-stream", "application/xhtml+xml", "application/xml")
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
META_BYTES = 1024
"""Number of leading bytes searched for a declared charset (HTML standard, section 13.2.3.2)."""
MAX_LOST_SHARE = 0.2
"""Maximum share of undecodable letters among those beyond ASCII.

Text in a one-byte charset, read as UTF-8, loses nearly all of them.
"""
_META_CHARSET = re.compile(
    rb"""<meta\s[^<>]{0,400}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""", re.IGNORECASE
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff]")


class Extract(BaseModel, frozen=True, extra="forbid"):
    """Converts `content` into `text`; a document that already has a text is unchanged.

    Reasons: `content_type`, `http_status`, `too_large`, `parse_error`, `empty`.
    """

    kind: Literal["extract"] = "extract"
    engine: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """HTML-to-text engine. trafilatura excludes comments and menus more precisely and is 24 times slower."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml", "text/plain")
    """Accepted content types, from the HTTP header, or detected from the first bytes when the header has none."""
    statuses: tuple[int, ...] = (200, 203)
    """Accepted HTTP status codes. Common Crawl keeps 200; 203 is the same response, modified by a proxy."""
    max_bytes: int = Field(default=4 << 20, ge=1)
    """Maximum bytes of content; the text of a page seldom exceeds a few hundred kilobytes."""
    main_content: bool = True
    """Whether to extract the main content only; False: all visible text."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: The engine's package is not installed.
        """
        engine = _ENGINES[self.engine](self)

        def step(document: Document) -> str | None:
            if not document.content:
                return None if document.text.strip() else "empty"
            reason = _reason_to_reject(document, self)
            reason = reason or _put_text(document, engine)
            document.content = b""
            return reason

        return step


def text_of_bytes(content: bytes, http_charset: str = "") -> tuple[str, str]:
    """Return the text of a page and the charset that decoded it (Python's name).

    UTF-8 is tried before detection, and before a declared Latin-1: text in other charsets is almost never valid
    UTF-8, and servers declare Latin-1 for any content. Bytes invalid in the charset are decoded as Windows-1252,
    and at last with replacement characters.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5  # pyright: ignore[reportMissingModuleSource]

    for mark, charset in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(charset, "replace"), charset
    charset = map_encoding_to_html5(http_charset, fallback_utf8=False) if http_charset else None
    if charset is None and (declared := _META_CHARSET.search(content[:META_BYTES])):
        charset = map_encoding_to_html5(declared[1].decode(), fallback_utf8=False)
        if charset and charset.startswith("utf-16"):
            charset = "utf-8"  # A UTF-16 page could not have been searched for `<meta>` as ASCII (same section).
    if charset in (None, "utf-8", "cp1252"):
        if (text := _as_utf8(content)) is not None:
            return text, "utf-8"
        charset = charset if charset == "cp1252" else detect_encoding(content)
    for tried in (charset or "cp1252", "cp1252"):
        try:
            return content.decode(tried), tried
        except (UnicodeDecodeError, LookupError):
            continue
    return bytes_to_str(content, charset or "utf-8", "replace", fallback_encodings=()), charset or "utf-8"


def _as_utf8(content: bytes) -> str | None:
    """Return bytes decoded as UTF-8 with few replacements; None if too many letters are lost."""
    text = content.decode("utf-8", "replace")
    n_lost = text.count("\ufffd")
    if n_lost:  # Crawlers truncate pages inside a character; scripts truncate strings likewise.
        n_beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
        if n_lost > MAX_LOST_SHARE * n_beyond_ascii:
            return None
    return text


def _reason_to_reject(document: Document, config: Extract) -> str | None:
    from resiliparse.parse.encoding import detect_mime  # pyright: ignore[reportMissingModuleSource]

    metadata = document.metadata
    if metadata.get("http_status", config.statuses[0]) not in config.statuses:
        return "http_status"
    start = document.content[:4096]
    looks = detect_mime(start)
    # Detection classifies a page in an old charset as binary.
    kind = metadata.get("content_type") or ("text/html" if start.lstrip().startswith(b"<") else looks)
    if kind not in config.content_types:
        return "content_type"
    if not looks.startswith("text/") and looks not in _PAGE_LIKE:
        return "content_type"  # A picture or PDF served as HTML.
    return "too_large" if len(document.content) > config.max_bytes else None


def _put_text(document: Document, engine: Callable[[str], tuple[str, str]]) -> str | None:
    metadata = document.metadata
    page, metadata["charset"] = text_of_bytes(document.content, metadata.get("http_charset", ""))
    if metadata.get("content_type", "") in PLAIN_TYPES:
        text = page
    else:
        note_rights_of_page(metadata, page)
        if trap := trap_in(page):
            metadata["extract_error"] = trap
            return "parse_error"
        try:
            text, title = engine(page)
        except BaseException as error:
            # Engines fail in their own ways; a panic of compiled code is not even an Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            metadata["extract_error"] = str(error)[:200]
            return "parse_error"
        if title := " ".join(title.split())[:MAX_TITLE_CHARACTERS]:
            metadata["title"] = title
    # Control characters and lone surrogates can break JSON or a tokenizer.
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    document.text = text.encode("utf-8", "replace").decode().strip()
    return None if document.text else "empty"


def _resiliparse(config: Extract) -> Callable[[str], tuple[str, str]]:
    try:
        from resiliparse.extract.html2text import extract_plain_text  # pyright: ignore[reportMissingModuleSource]
        from resiliparse.parse.html import HTMLTree  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:
        raise UserError(f"step 'extract' needs resiliparse: {install_command('data')}") from error

    def extract(page: str) -> tuple[str, str]:
        tree = HTMLTree.parse(page)
        return extract_plain_text(tree, main_content=config.main_content), tree.title or ""

    return extract


def _trafilatura(config: Extract) -> Callable[[str], tuple[str, str]]:
    try:
        import trafilatura
    except ImportError as error:
        raise UserError(
            "step 'extract' with engine 'trafilatura' needs trafilatura: pip install trafilatura; "
            'or take engine = "resiliparse"'
        ) from error

    def extract(page: str) -> tuple[str, str]:
        found: Any = trafilatura.bare_extraction(
            page, favor_precision=config.main_content, include_comments=False, deduplicate=True, with_metadata=True
        )
        return (found.text or "", found.title or "") if found is not None else ("", "")

    return extract


_ENGINES = {"resiliparse": _resiliparse, "trafilatura": _trafilatura}
