"""Child process that extracts text from HTML and PDF; it gets bytes and opens no files.

Both formats are untrusted. An element with 200,000 attributes keeps libxml2 2.14 busy for minutes; a PDF's objects
may refer to each other in circles, and its streams may unpack to gigabytes. The parent kills this process at the
deadline, and its memory limit ends unbounded growth.
"""

from __future__ import annotations

import base64
import importlib
import io
import logging
import time
from typing import Any

from mcp_servers.child import answer_requests
from mcp_servers.distribution import install_command
from mcp_servers.failures import ToolFailure
from mcp_servers.search.html_text import html_text

MAX_REASON_CHARS = 200


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer `{"do": "html" or "pdf", "data": base64, "max_chars": n, ...}`.

    Raises:
        ToolFailure: The document cannot be read; the text is the reason.
    """
    action = {"html": html, "pdf": pdf}[request["do"]]
    try:
        return action(base64.b64decode(request["data"]), request)
    except MemoryError as error:
        raise ToolFailure("it needs too much memory") from error


def html(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    """Return the text of a page, and the reason if some of it is missing."""
    _require("lxml")
    from lxml.etree import LxmlError

    try:
        text, is_complete = html_text(data)
    except (LxmlError, LookupError) as error:
        raise ToolFailure(f"it is no HTML that can be read: {_in_words(error)}") from error
    return {"text": text, "missing": "" if is_complete else "what is nested too deeply is left out"}


def pdf(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    """Return the text of pages `first` to `last`; stops after `piece_s` seconds, but reads at least one page."""
    _require("pypdf")
    deadline = time.monotonic() + request["piece_s"]
    try:
        reader = _opened_pdf(data)
        n_pages = len(reader.pages)
    except ToolFailure:
        raise
    except Exception as error:  # damaged files make pypdf raise arbitrary exceptions
        raise ToolFailure(f"it is no PDF that can be read: {_in_words(error)}") from error
    number, texts, unread, n_chars = request["first"], list[str](), list[int](), 0
    while number <= min(request["last"], n_pages) and n_chars < request["max_chars"]:
        try:
            text = reader.pages[number - 1].extract_text()[: request["max_chars"]]
        except MemoryError:
            raise
        except Exception:  # as above; other pages may be readable, and the parent reports the unread ones
            text = ""
            unread.append(number)
        texts.append(text)
        n_chars += len(text)
        number += 1
        if time.monotonic() > deadline:
            break
    return {"texts": texts, "next": number, "n_pages": n_pages, "unread": unread}


def _opened_pdf(data: bytes) -> Any:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ToolFailure("it is encrypted with a password")
    return reader


def _require(package: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ToolFailure(f"{error.name} is missing: {install_command('servers')}") from error


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARS]


def main() -> None:
    """Answer the parent's requests."""
    logging.disable()  # silences pypdf's warnings about damaged files; the answers report what matters
    answer_requests(handle)
