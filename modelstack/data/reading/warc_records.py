"""Records of a WARC file, with what is between broken ones (ISO 28500:2017, WARC 1.1).

A record is `WARC/1.x`, header lines, an empty line, a block of `Content-Length` bytes, two line ends. A length
that is false is found out by what follows the block. The next record is then looked for at the start of the next
packed member, which no page can forge from inside; only where records do not have members of their own, at the
next line that begins with `WARC/1.`. FastWARC passes over such places without a word, or ends there, and so is
the reference in tests only.
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
    """A record as it was read."""

    offset: int
    """In the file: of its packed member, or its own."""
    number: int
    """Of the record in the file, from 1; with faults counted."""
    headers: dict[str, str]
    """By name in lower case."""
    block: bytes


@dataclass(frozen=True, slots=True)
class WarcFault:
    """A place that holds no record that could be read."""

    offset: int
    number: int
    reason: str
    record_id: str = ""
    detail: str = ""


def warc_records(path: Path, limits: Limits) -> Iterator[WarcRecord | WarcFault]:
    """Return the records of a WARC file, plain, gzip or zstd.

    Raises:
        UserError: There is no such file.
    """
    return _Parser(path, limits).records()


def header_fields(lines: Iterable[bytes]) -> dict[str, str]:
    """Return `name: value` lines by name in lower case; a name's second value is put behind a comma.

    A line that begins with white space goes on with the one before it (RFC 9112, section 5.2).
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
    """Bytes up to a place behind which no record reaches: a member's start, a fault, the file's end."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._pieces = pieces(path, limits)
        self.packed = is_packed(path)
        self._first_of_next: Piece | None = None
        self._member = 0
        self.number = 0
        self.buffer = bytearray()
        self.offset = 0
        """Of the buffer; where the file is packed, of the member it began with."""
        self.closed = False
        """There is no more than what is in the buffer."""
        self.fault = ""
        """What closed it, where that was no good end."""

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
        """Drop what need not be in the buffer yet."""
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
        """Whether what comes so far behind the buffer's start can follow a record."""
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
        """No record is looked for inside a member: what looks like one may be a page's."""

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
                reason, start, record_id, f"{length} bytes said, {len(segment.buffer) - start} there"
            )
        if not segment.ends_record(end):
            return self._lost("content_length", start, record_id, f"no record ends after {length} bytes")
        if segment.fault and len(segment.buffer) <= end + len(_RECORD_END):
            return self._lost(segment.fault, end, record_id)
        block = bytes(memoryview(segment.buffer)[start:end])
        segment.drop(end)
        return WarcRecord(offset, self._number, headers, block)

    def _too_large(self, start: int, end: int, record_id: str) -> WarcFault:
        """Pass a record that is not taken into memory, if its length is true."""
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
        """Go to where the next record may begin, after so many bytes that were understood."""
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
