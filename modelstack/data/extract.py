"""The main text of a page: charset, HTML to text, and what of the page is dropped before there is a text.

resiliparse's main-content heuristics, as DataComp-LM chose them (Li et al. 2024, arXiv 2406.11794, section 4.2:
as good as trafilatura for the trained model, and 8 times as fast); trafilatura at its precise setting is what
FineWeb took (Penedo et al. 2024, arXiv 2406.17557, section 3.2). The charset is looked for where the HTML standard
says (section 13.2.3): byte order mark, HTTP, `<meta>`, then what the bytes look like.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.data.reading.html_shape import trap_in
from modelstack.data.reading.rights import note_rights_of_page
from modelstack.errors import UserError

MAX_TITLE_CHARACTERS = 300
PLAIN_TYPES = ("text/plain", "text/markdown")
_PAGE_LIKE = ("application/octet-stream", "application/xhtml+xml", "application/xml")
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
META_BYTES = 1024
"""Of a page, where a charset is looked for (HTML standard, section 13.2.3.2)."""
MAX_LOST_SHARE = 0.2
"""Of the letters beyond ASCII: text of a one-byte charset, read as UTF-8, loses nearly all of them."""
_META_CHARSET = re.compile(
    rb"""<meta\s[^<>]{0,400}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""", re.IGNORECASE
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff]")


class Extract(BaseModel, frozen=True, extra="forbid"):
    """Turns `content` into `text`; a document that came with a text stays as it is.

    Reasons: `content_type`, `http_status`, `too_large`, `parse_error`, `empty`.
    """

    kind: Literal["extract"] = "extract"
    engine: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """trafilatura is the more precise with comments and menus, and 24 times slower."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml", "text/plain")
    """As told by HTTP, or by the first bytes where it says nothing."""
    statuses: tuple[int, ...] = (200, 203)
    """Common Crawl's own choice is 200; 203 is that, changed by a proxy."""
    max_bytes: int = Field(default=4 << 20, ge=1)
    """Of content; text is no more than a few hundred kilobytes of a page."""
    main_content: bool = True
    """False: everything visible."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: The engine's package is not installed.
        """
        engine = _ENGINES[self.engine](self)

        def step(document: Document) -> str | None:
            if not document.content:
                return None if document.text.strip() else "empty"
            reason = _reason_not_to_read(document, self)
            reason = reason or _put_text(document, engine)
            document.content = b""
            return reason

        return step


def text_of_bytes(content: bytes, http_charset: str = "") -> tuple[str, str]:
    """Return a page's characters and the charset that gave them (Python's name).

    UTF-8 is taken before what the bytes look like, and before Latin-1 that was declared: chance makes no valid
    UTF-8 of other text, and servers declare Latin-1 for whatever they have. Bytes that are none in the charset are
    tried as Windows-1252, and replaced at last.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5  # pyright: ignore[reportMissingModuleSource]

    for mark, charset in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(charset, "replace"), charset
    charset = map_encoding_to_html5(http_charset, fallback_utf8=False) if http_charset else None
    if charset is None and (declared := _META_CHARSET.search(content[:META_BYTES])):
        charset = map_encoding_to_html5(declared[1].decode(), fallback_utf8=False)
        if charset and charset.startswith("utf-16"):
            charset = "utf-8"  # It could not be read as ASCII if that were true (the same section).
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
    """Return bytes as UTF-8 with a fault here and there, None if they are something else."""
    text = content.decode("utf-8", "replace")
    n_lost = text.count("\ufffd")
    if n_lost:  # Crawlers cut pages inside a character; scripts cut strings there.
        n_beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
        if n_lost > MAX_LOST_SHARE * n_beyond_ascii:
            return None
    return text


def _reason_not_to_read(document: Document, config: Extract) -> str | None:
    from resiliparse.parse.encoding import detect_mime  # pyright: ignore[reportMissingModuleSource]

    metadata = document.metadata
    if metadata.get("http_status", config.statuses[0]) not in config.statuses:
        return "http_status"
    start = document.content[:4096]
    looks = detect_mime(start)
    # A page in an old charset looks like no text at all.
    kind = metadata.get("content_type") or ("text/html" if start.lstrip().startswith(b"<") else looks)
    if kind not in config.content_types:
        return "content_type"
    if not looks.startswith("text/") and looks not in _PAGE_LIKE:
        return "content_type"  # A picture or a PDF that was sent as a page.
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
            # An engine fails on a page in ways of its own; a panic of compiled code is not even an Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            metadata["extract_error"] = str(error)[:200]
            return "parse_error"
        if title := " ".join(title.split())[:MAX_TITLE_CHARACTERS]:
            metadata["title"] = title
    # Controls and lone surrogates are no text, and JSON or a model's tokenizer may stumble over them.
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    document.text = text.encode("utf-8", "replace").decode().strip()
    return None if document.text else "empty"


def _resiliparse(config: Extract) -> Callable[[str], tuple[str, str]]:
    try:
        from resiliparse.extract.html2text import extract_plain_text  # pyright: ignore[reportMissingModuleSource]
        from resiliparse.parse.html import HTMLTree  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:
        raise UserError("step 'extract' needs resiliparse: pip install 'agentkit[data]'") from error

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
