"""Unpacking of gzip or zstd files, recognised by magic number, in pieces of bounded size.

Both formats are chains of members, and a WARC stores one record per member (WARC 1.1, annex D). Pieces therefore
mark where members begin. After a corrupt member, reading resumes at the next magic number, so one bad record does
not cost the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from modelstack.data.reading.limits import Limits
from modelstack.errors import UserError
from modelstack.zstd_files import Frame

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED = b"\x2a\x4d\x18"
"""Magic number of a skippable zstd frame after its first byte: a seek table or a dictionary."""
PIECE_BYTES = 1 << 18
RESUME_WINDOW = 1 << 16
"""Bytes before an error that are searched for the next member: a corrupt stream may be read past its end."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes, or the reason for their absence."""

    data: bytes
    offset: int
    """Offset in the file: of the member, or of the piece if the file is not packed."""
    starts_member: bool = False
    fault: str = ""
    """Reason for losing the rest of a member; a piece with a fault has no data."""


def pieces(path: Path, limits: Limits) -> Iterator[Piece]:
    """Yield the unpacked bytes of a file; data that cannot be unpacked yields a piece with a fault.

    Raises:
        UserError: The file does not exist.
    """
    with open_file(path) as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(GZIP_MAGIC):
            yield from _members(file, GZIP_MAGIC, _Gzip, limits)
        elif start.startswith(ZSTD_MAGIC):
            yield from _members(file, ZSTD_MAGIC, Frame, limits)
        else:
            offset = 0
            while data := file.read(PIECE_BYTES):
                yield Piece(data, offset)
                offset += len(data)


def is_packed(path: Path) -> bool:
    """Return whether a file is gzip or zstd."""
    with open_file(path) as file:
        start = file.read(4)
    return start.startswith((GZIP_MAGIC, ZSTD_MAGIC))


def open_file(path: Path) -> BinaryIO:
    """Open a file named by the recipe.

    Raises:
        UserError: The file does not exist or cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the input's path") from error


class _Gzip:
    """A gzip member; `unpack` yields pieces of bounded size and raises ValueError for invalid data."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)
        self.done = False
        self.rest = b""
        """Input that belongs to the next member."""

    def unpack(self, data: bytes) -> Iterator[bytes]:
        inflate = self._inflate
        try:
            while data and not inflate.eof:
                yield inflate.decompress(data, PIECE_BYTES)
                data = inflate.unconsumed_tail
        except zlib.error as error:
            raise ValueError(str(error)) from error
        self.done, self.rest = inflate.eof, inflate.unused_data


class _Input:
    """Buffered bytes of a file, with push-back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held = b""
        self.offset = 0
        """Offset of the next byte to read."""

    def read(self) -> bytes:
        data = self._held or self._file.read(PIECE_BYTES)
        self._held = b""
        self.offset += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        self._held = data + self._held
        self.offset -= len(data)

    def seek(self, offset: int) -> None:
        self._file.seek(offset)
        self._held = b""
        self.offset = offset

    def seek_next(self, magic: bytes) -> tuple[bool, bool]:
        """Move to the next magic number; return whether one was found, and whether data was skipped.

        Zero padding and zstd's skippable frames do not count as data.
        """
        kept, has_passed = b"", False
        while data := self.read():
            data = kept + data
            found = data.find(magic)
            passed = data[:found] if found >= 0 else data
            has_passed = has_passed or bool(passed.strip(b"\0") and passed[1:4] != _ZSTD_SKIPPED)
            if found >= 0:
                self.give_back(data[found:])
                return True, has_passed
            kept = data[1 - len(magic) :]
        return False, has_passed


def _members(file: BinaryIO, magic: bytes, kind: type[_Gzip] | type[Frame], limits: Limits) -> Iterator[Piece]:
    packed = _Input(file)
    fault = ""
    while True:
        is_found, has_passed = packed.seek_next(magic)
        if has_passed and not fault:
            yield Piece(b"", packed.offset, fault="not_packed")
        if not is_found:
            return
        start, before = packed.offset, packed.offset
        n_in = n_out = 0
        member, fault = kind(), ""
        while not (member.done or fault):
            before = packed.offset
            data = packed.read()
            n_in += len(data)
            if not data:
                fault = "truncated"
            try:
                for unpacked in member.unpack(data):
                    if unpacked:
                        yield Piece(unpacked, start, starts_member=not n_out)
                    n_out += len(unpacked)
                    if limits.expands_too_far(n_in, n_out):
                        fault = "expands_too_far"
                        break
            except ValueError:
                fault = "corrupt_packing"
        if fault:
            yield Piece(b"", start, fault=fault)
            packed.seek(max(start + len(magic), before - RESUME_WINDOW))
        else:
            packed.give_back(member.rest)
