"""Parser of the HTTP response in a WARC record: status, header fields and decoded body.

RFC 9112 (chunked transfer coding) and RFC 9110, section 8.4 (content codings). Crawlers often decode a body but
keep the header field (as warcio's documentation reports). A body that is not in the declared coding is therefore
used as it is.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

import zstandard

from mcp_servers.distribution import install_command
from modelstack.data.reading.limits import Limits
from modelstack.data.reading.unpacking import GZIP_MAGIC, ZSTD_MAGIC
from modelstack.data.reading.warc_records import MAX_HEADER_BYTES, header_fields
from modelstack.errors import UserError
from modelstack.zstd_files import MAX_WINDOW, STEP_BYTES

MAX_CODINGS = 3
"""Maximum nested content codings; servers use one."""
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})\b")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")


class BadMessage(ValueError):
    """The message cannot be read; the text is the reason for dropping it."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response with its decoded body."""

    status: int
    fields: dict[str, str]
    """Header fields by lower-case name."""
    body: bytes


def http_response(block: bytes, limits: Limits) -> HttpResponse:
    """Return the response in the block of a WARC record.

    Raises:
        BadMessage: The block is not a response, or its body cannot be decoded within the limits.
    """
    status = _STATUS_LINE.match(block)
    if status is None:
        raise BadMessage("not_http")
    blank = _BLANK_LINE.search(block, 0, MAX_HEADER_BYTES)
    if blank is None and len(block) > MAX_HEADER_BYTES:
        raise BadMessage("http_header")
    head, body = (block, b"") if blank is None else (block[: blank.start()], block[blank.end() :])
    fields = header_fields(_LINE_END.split(head)[1:])
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body = _dechunked(body)
    codings = [name.strip().lower() for name in fields.get("content-encoding", "").split(",")]
    codings = [name for name in codings if name not in ("", "identity", "none")]
    if len(codings) > MAX_CODINGS:
        raise BadMessage("content_encoding")
    for coding in reversed(codings if body else ()):
        body = _decoded(body, coding, limits)
    return HttpResponse(int(status[1]), fields, body)


def _dechunked(body: bytes) -> bytes:
    parts, place = [], 0
    while size := _CHUNK_SIZE.match(body, place):
        n_bytes = int(size[1], 16)
        parts.append(body[size.end() : size.end() + n_bytes])
        place = size.end() + n_bytes
        if body[place : place + 2] == b"\r\n":
            place += 2
        if not n_bytes:
            return b"".join(parts)
    if not parts:
        return body  # The crawler already decoded it.
    if place >= len(body):
        return b"".join(parts)  # Truncated between chunks or in the last one: return what exists.
    raise BadMessage("chunked_body")


def _decoded(body: bytes, coding: str, limits: Limits) -> bytes:
    if coding in ("gzip", "x-gzip"):
        return _inflated(body, 31, limits) if body.startswith(GZIP_MAGIC) else body
    if coding == "deflate":
        # Some servers send raw deflate without a zlib header; browsers accept both.
        return _inflated(body, 15 if body[:1] and body[0] & 15 == 8 else -15, limits)
    if coding == "zstd":
        return _unzstd(body, limits) if body.startswith(ZSTD_MAGIC) else body
    if coding == "br":
        return _unbrotli(body, limits)
    raise BadMessage("content_encoding")


def _inflated(body: bytes, window_bits: int, limits: Limits) -> bytes:
    inflate = zlib.decompressobj(wbits=window_bits)
    try:
        unpacked = inflate.decompress(body, limits.max_record_bytes + 1)
    except zlib.error as error:
        if window_bits < 31 and _is_text(body):
            return body
        raise BadMessage("content_encoding") from error
    _check(len(body), len(unpacked), limits)
    if not inflate.eof:
        raise BadMessage("content_encoding")
    return unpacked


def _unzstd(body: bytes, limits: Limits) -> bytes:
    unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    parts, n_bytes = [], 0
    try:
        for i in range(0, len(body), STEP_BYTES):
            if unpack.eof:
                break
            parts.append(unpack.decompress(body[i : i + STEP_BYTES]))
            n_bytes += len(parts[-1])
            _check(i + STEP_BYTES, n_bytes, limits)
    except zstandard.ZstdError as error:
        raise BadMessage("content_encoding") from error
    if not unpack.eof:
        raise BadMessage("content_encoding")
    return b"".join(parts)


def _unbrotli(body: bytes, limits: Limits) -> bytes:
    try:
        from fastwarc.stream_io import BrotliReader  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:
        raise UserError(f"a page packed with Brotli needs fastwarc: {install_command('data')}") from error

    try:
        unpacked = BrotliReader(io.BytesIO(body)).read(limits.max_record_bytes + 1)
    except (OSError, ValueError) as error:
        if _is_text(body):
            return body
        raise BadMessage("content_encoding") from error
    _check(len(body), len(unpacked), limits)
    return unpacked


def _check(n_packed: int, n_unpacked: int, limits: Limits) -> None:
    if n_unpacked > limits.max_record_bytes:
        raise BadMessage("record_too_large")
    if limits.expands_too_far(n_packed, n_unpacked):
        raise BadMessage("expands_too_far")


def _is_text(body: bytes) -> bool:
    start = body[:200].lstrip()
    return start.startswith(b"<") or (start.isascii() and b"\0" not in start)
