"""Folders of files, a document a file: saved HTML pages, and code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from modelstack.data.documents import Broken, Document
from modelstack.data.reading.input_files import Input, name_in, read_whole
from modelstack.data.reading.limits import MEBIBYTE
from modelstack.data.reading.rights import note_rights_of_page


class HtmlInput(Input, frozen=True):
    """A folder of saved pages; each is a document with `content`."""

    kind: Literal["html"] = "html"
    suffixes: tuple[str, ...] = (".html", ".htm", ".xhtml")
    base_url: str = ""
    """What a page's path is put behind to be its URL; "" for no URL."""
    files_in_shard: int = Field(default=1000, ge=1)


class CodeInput(Input, frozen=True):
    """A folder of source files; each is a document with `text`, and its path in the metadata."""

    kind: Literal["code"] = "code"
    repository: str = ""
    """Name that documents carry; by default the folder's."""
    suffixes: tuple[str, ...] = ()
    """Of files that are read; none given: all."""
    skipped_folders: tuple[str, ...] = ("node_modules", "__pycache__", "vendor", "third_party")
    """Names, beside hidden ones: copies of other people's code."""
    max_file_bytes: int = Field(default=MEBIBYTE, ge=1)
    """The Stack v2 leaves out files over 10 MB, most of it data; a source file past 1 MiB is generated."""
    files_in_shard: int = Field(default=1000, ge=1)


def read_html(path: Path, config: HtmlInput) -> Iterator[Document | Broken]:
    """Return the page in a file."""
    name = name_in(config.path, path)
    content = _content(path, name, config.limits.max_record_bytes)
    if isinstance(content, Broken):
        yield content
        return
    metadata: dict[str, Any] = {"path": name, "content_type": "text/html"}
    note_rights_of_page(metadata, content.decode("latin-1"))
    url = config.base_url.rstrip("/") + "/" + name if config.base_url else ""
    yield Document(name, "", content, config.source_name, config.license, url, metadata)


def read_code(path: Path, config: CodeInput) -> Iterator[Document | Broken]:
    """Return the code in a file; what is not UTF-8 text is broken."""
    name = name_in(config.path, path)
    content = _content(path, name, config.max_file_bytes)
    if isinstance(content, Broken):
        yield content
        return
    if b"\0" in content:
        yield Broken(name, "binary")
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Broken(name, "invalid_utf8", str(error))
        return
    repository = config.repository or config.path.name
    metadata = {"path": name, "repository": repository, "extension": Path(name).suffix.lower()}
    yield Document(name, text, b"", config.source_name, config.license, "", metadata)


def _content(path: Path, name: str, max_bytes: int) -> bytes | Broken:
    try:
        content = read_whole(path, max_bytes)
    except OSError as error:
        return Broken(name, "unreadable", str(error))
    return Broken(name, "record_too_large", f"more than {max_bytes:,} bytes") if content is None else content
