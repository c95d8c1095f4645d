"""Parser of WARC records (ISO 28500:2017, WARC 1.1) that recovers after broken ones.

A record is `WARC/1.x`, header lines, an empty line, a block of `Content-Length` bytes, and two line ends. A wrong
length is detected by the bytes after the block. Parsing resumes at the start of the next packed member, which the
content of a page cannot forge. Only if members do not correspond to records, it resumes at the next line that
begins with `WARC/1.`. FastWARC silently skips such places or stops there, so it serves as reference in tests only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelstack.data.reading.limits import Limits
from modelstack.data.reading.unpacking import Piece, is_packed, open_file, pieces

MAX_HEADER_BYTES = 1 << 16
_MARK = b"WARC/"
_NEXT_RECORD = b"\nWARC/1."
_RECORD_END = b"\r\n\r\n"
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_LINE_ENDS = re.compile(rb"[\r\n]+")


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """A record as read."""

    offset: int
    """Offset in the file: of the packed member, or of the record itself."""
    number: int
    """Number of the record in the file, from 1, faults included."""
    headers: dict[str, str]
    """Header fields by lower-case name."""
    block: bytes


@dataclass(frozen=True, slots=True)
class WarcFault:
    """A place without a readable record."""

    offset: int
    number: int
    reason: str
    record_id: str = ""
    detail: str = ""


def warc_records(path: Path, limits: Limits) -> Iterator[WarcRecord | WarcFault]:
    """Yield the records of a WARC file (plain, gzip or zstd).

    Raises:
        UserError: The file does not exist.
    """
    return _Parser(path, limits).records()


def header_fields(lines: Iterable[bytes]) -> dict[str, str]:
    """Return `name: value` lines by lower-case name; repeated values are joined by a comma.

    A line that starts with white space continues the previous one (RFC 9112, section 5.2).
    """
    fields: dict[str, list[str]] = {}
    values: list[str] | None = None
    for line in lines:
        text = line.decode("utf-8", "replace")
        if text[:1] in (" ", "\t") and values:
            values.append(" " + text.strip())
            continue
        name, colon, value = text.partition(":")
        if colon:
            values = fields.setdefault(name.strip().lower(), [])
            values += [", " if values else "", value.strip()]
    return {name: "".join(parts) for name, parts in fields.items()}


class _Segment:
    """Buffered bytes up to a point that no record crosses: start of a member, fault, or end of the file."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._pieces = pieces(path, limits)
        self.packed = is_packed(path)
        self._first_of_next: Piece | None = None
        self._member = 0
        self.number = 0
        self.buffer = bytearray()
        self.offset = 0
        """Offset of the buffer; for a packed file, offset of the member where it started."""
        self.closed = False
        """Whether no further data follows the buffer."""
        self.fault = ""
        """Reason for the end of the segment if it is an error."""

    def go_to_next(self) -> bool:
        piece = self._first_of_next or next(self._pieces, None)
        self._first_of_next = None
        if piece is None:
            return False
        self.number += 1
        self.buffer, self.offset, self._member = bytearray(piece.data), piece.offset, piece.offset
        self.fault, self.closed = piece.fault, bool(piece.fault)
        return True

    def have(self, n_bytes: int) -> bool:
        while len(self.buffer) < n_bytes and self._fill():
            pass
        return len(self.buffer) >= n_bytes

    def drop(self, n_bytes: int) -> None:
        del self.buffer[:n_bytes]
        if not self.packed:
            self.offset += n_bytes

    def skip(self, n_bytes: int) -> None:
        """Drop bytes, reading as necessary."""
        while n_bytes and self.have(1):
            n_dropped = min(n_bytes, len(self.buffer))
            self.drop(n_dropped)
            n_bytes -= n_dropped

    def skip_all(self) -> None:
        while self.have(1):
            self.drop(len(self.buffer))

    def skip_line_ends(self) -> None:
        while self.have(1):
            ends = _LINE_ENDS.match(self.buffer)
            self.drop(ends.end() if ends else 0)
            if self.buffer:
                return

    def skip_to_next_record(self) -> None:
        while self.have(len(_NEXT_RECORD)):
            found = self.buffer.find(_NEXT_RECORD)
            if found >= 0:
                self.drop(found + 1)
                return
            self.drop(len(self.buffer) - len(_NEXT_RECORD) + 1)
        self.skip_all()

    def ends_record(self, n_bytes: int) -> bool:
        """Whether the data at `n_bytes` after the buffer's start can follow a record."""
        self.have(n_bytes + len(_RECORD_END) + len(_MARK))
        return _follows_record(bytes(self.buffer[n_bytes : n_bytes + len(_RECORD_END) + len(_MARK)]))

    def _fill(self) -> bool:
        if self.closed:
            return False
        piece = next(self._pieces, None)
        if piece is None:
            self.closed = True
        elif piece.fault and piece.offset == self._member:
            self.closed, self.fault = True, piece.fault
        elif piece.fault or (piece.starts_member and piece.data.startswith(_MARK)):
            self.closed, self._first_of_next = True, piece
        else:
            self.buffer += piece.data
            self._member = piece.offset
        return not self.closed


class _Parser:
    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._max_bytes = limits.max_record_bytes
        self._segment = _Segment(path, limits)
        self._size = path.stat().st_size
        self._number = 0
        self._members_are_records = False
        """Whether records are found at member starts only: inside a member, a page may imitate a record."""

    def records(self) -> Iterator[WarcRecord | WarcFault]:
        segment = self._segment
        while segment.go_to_next():
            self._members_are_records = self._segment.packed and segment.number > 1
            segment.skip_line_ends()
            while segment.buffer:
                self._number += 1
                yield self._record()
                segment.skip_line_ends()
                if segment.buffer:
                    self._members_are_records = False
            if segment.fault:
                self._number += 1
                yield WarcFault(segment.offset, self._number, segment.fault)

    def _record(self) -> WarcRecord | WarcFault:
        segment, offset = self._segment, self._segment.offset
        if not segment.have(len(_MARK)) or not segment.buffer.startswith(_MARK):
            return self._lost("not_warc", 0)
        blank = _BLANK_LINE.search(segment.buffer)
        while blank is None and len(segment.buffer) < MAX_HEADER_BYTES and segment.have(len(segment.buffer) + 1):
            blank = _BLANK_LINE.search(segment.buffer)
        if blank is None or blank.end() > MAX_HEADER_BYTES:
            return self._lost("truncated" if segment.closed else "warc_header", len(_MARK))
        start = blank.end()
        headers = header_fields(_LINE_END.split(bytes(segment.buffer[: blank.start()]))[1:])
        length, record_id = headers.get("content-length", ""), headers.get("warc-record-id", "")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            return self._lost("content_length", start, record_id, f"Content-Length {length[:40]!r}")
        end = start + int(length)
        if int(length) > self._max_bytes:
            return self._too_large(start, end, record_id)
        if not segment.have(end):
            is_member = self._segment.packed and not segment.fault and self._members_are_records
            reason = "content_length" if is_member or _NEXT_RECORD in segment.buffer else "truncated"
            return self._lost(
                reason, start, record_id, f"{length} bytes declared, {len(segment.buffer) - start} found"
            )
        if not segment.ends_record(end):
            return self._lost("content_length", start, record_id, f"no record ends after {length} bytes")
        if segment.fault and len(segment.buffer) <= end + len(_RECORD_END):
            return self._lost(segment.fault, end, record_id)
        block = bytes(memoryview(segment.buffer)[start:end])
        segment.drop(end)
        return WarcRecord(offset, self._number, headers, block)

    def _too_large(self, start: int, end: int, record_id: str) -> WarcFault:
        """Skip a record too large for memory, provided that its length is correct."""
        segment, detail = self._segment, f"{end - start:,} bytes; at most {self._max_bytes:,} are read"
        if not self._segment.packed and not self._plain_file_ends_record(segment.offset + end):
            return self._lost("content_length", start, record_id, f"no record ends after {end - start:,} bytes")
        fault = WarcFault(segment.offset, self._number, "record_too_large", record_id, detail)
        segment.skip(end)
        if not segment.ends_record(0):
            self._lost("record_too_large", 0)
        segment.fault = ""
        return fault

    def _plain_file_ends_record(self, offset: int) -> bool:
        if offset > self._size:
            return False
        with open_file(self._path) as file:
            file.seek(offset)
            return _follows_record(file.read(len(_RECORD_END) + len(_MARK)))

    def _lost(self, reason: str, n_read: int, record_id: str = "", detail: str = "") -> WarcFault:
        """Drop `n_read` parsed bytes and move to the next possible start of a record."""
        segment, offset = self._segment, self._segment.offset
        segment.drop(n_read)
        if self._members_are_records:
            segment.skip_all()
        else:
            segment.skip_to_next_record()
        if segment.closed and not segment.buffer:
            reason, segment.fault = segment.fault or reason, ""
        return WarcFault(offset, self._number, reason, record_id, detail)


def _follows_record(data: bytes) -> bool:
    rest = data.lstrip(b"\r\n")
    return (
        data.startswith(_RECORD_END)
        or not rest
        or rest.startswith(_MARK)
        or (len(rest) < len(_MARK) and _MARK.startswith(rest))
    )
