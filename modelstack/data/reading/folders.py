"""Inputs of one document per file: folders of saved HTML pages, and of source code."""

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
    """A folder of saved pages; each becomes a document with `content`."""

    kind: Literal["html"] = "html"
    suffixes: tuple[str, ...] = (".html", ".htm", ".xhtml")
    """Endings of the files that are read."""
    base_url: str = ""
    """Prefix of a page's path that forms its URL; "" for no URL."""
    files_in_shard: int = Field(default=1000, ge=1)
    """Files that one task reads."""


class CodeInput(Input, frozen=True):
    """A folder of source files; each becomes a document with `text` and its path in the metadata."""

    kind: Literal["code"] = "code"
    repository: str = ""
    """Repository name in the documents' metadata; default: the folder's name."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of the files to read; empty: all files."""
    skipped_folders: tuple[str, ...] = ("node_modules", "__pycache__", "vendor", "third_party")
    """Names of skipped folders, in addition to hidden ones: copies of third-party code."""
    max_file_bytes: int = Field(default=MEBIBYTE, ge=1)
    """Maximum bytes of a file.

    The Stack v2 excludes files over 10 MB, most of which are data; source files over 1 MiB are generated.
    """
    files_in_shard: int = Field(default=1000, ge=1)
    """Files that one task reads."""


def read_html(path: Path, config: HtmlInput) -> Iterator[Document | Broken]:
    """Yield the page in a file."""
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
    """Yield the code in a file; a file that is not UTF-8 text is Broken."""
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
