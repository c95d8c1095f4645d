"""WARC files made here: sound ones, and ones with a record that is not."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path

from modelstack.data.documents import Broken, Document
from modelstack.data.reading import Limits, WarcInput, open_input


def http(body: bytes, fields: str = "", status: str = "200 OK") -> bytes:
    """Return an HTTP response."""
    return f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n{fields}\r\n".encode() + body


def record(number: int, block: bytes | None = None, length: int | None = None, kind: str = "response") -> bytes:
    """Return a record; `length` is what it says of itself."""
    block = http(f"<p>page {number}</p>".encode()) if block is None else block
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:test:{number}>\r\n"
        f"WARC-Target-URI: http://example.org/{number}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def warc(
    folder: Path,
    records: Iterable[bytes],
    pack: Callable[[bytes], bytes] = gzip.compress,
    one_member: bool = False,
) -> Path:
    """Write a WARC file, by default as crawlers do: a gzip member a record."""
    file = folder / "made.warc.gz"
    file.write_bytes(pack(b"".join(records)) if one_member else b"".join(map(pack, records)))
    return file


def read(file: Path, **limits: int) -> list[Document | Broken]:
    """Return all that a WARC file gives."""
    return list(open_input(WarcInput(path=file, limits=Limits(**limits))))


def outcome(items: Iterable[Document | Broken]) -> list[str]:
    """Return the last part of a document's id, the reason of a broken record."""
    return [item.reason if isinstance(item, Broken) else item.id.rpartition(":")[2] for item in items]
