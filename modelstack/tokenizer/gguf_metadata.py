"""The metadata of a GGUF file, read without trusting it (specification: ggml's docs/gguf.md).

Only wanted keys are kept; the others are walked over. Lengths in the file are checked against limits before
anything is read, so that a file of a few bytes cannot ask for a terabyte.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from modelstack.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 65_536
MAX_STRING_BYTES = 1 << 20
"""Chat templates are the longest strings, some 20 kB."""
MAX_ARRAY_ITEMS = 4_000_000
"""Merges are the longest lists, some 500,000."""
MAX_METADATA_BYTES = 256 << 20

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Value types of the specification, as codes of `struct`."""


def read_gguf_metadata(path: str | os.PathLike[str], wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the values of the wanted keys: numbers, booleans, texts and lists of these.

    Raises:
        UserError: the file is not there, no GGUF, cut off, or beyond a limit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not there; name a GGUF file")
    with path.open("rb") as file:
        try:
            return _Reader(file).metadata(wanted)
        except (struct.error, ValueError, OverflowError) as error:
            raise UserError(f"{path} cannot be read as GGUF: {error}") from error


class _Reader:
    """Walks through the head of one file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_METADATA_BYTES

    def metadata(self, wanted: Callable[[str], bool]) -> dict[str, Any]:
        if self._take(4) != MAGIC:
            raise ValueError(f"it does not begin with {MAGIC!r}")
        version = self._number("I")
        if version not in VERSIONS:
            raise ValueError(f"version {version} is not known (a big-endian file?); known are {VERSIONS}")
        self._number("Q")  # tensors, whose list comes behind the metadata
        n_keys = self._within(self._number("Q"), MAX_KEYS, "keys")
        values: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text()
            kind = self._number("I")
            if wanted(key):
                values[key] = self._value(kind)
            else:
                self._skip(kind)
        return values

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            item, n = self._number("I"), self._within(self._number("Q"), MAX_ARRAY_ITEMS, "items")
            if item == _STRING:
                return [self._text() for _ in range(n)]
            code = self._code(item)
            return list(struct.unpack(f"<{n}{code}", self._take(n * struct.calcsize(code))))
        return self._number(self._code(kind))

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._pass(self._number("Q"))
        elif kind == _ARRAY:
            item, n = self._number("I"), self._within(self._number("Q"), MAX_ARRAY_ITEMS, "items")
            if item == _STRING:
                for _ in range(n):
                    self._pass(self._number("Q"))
            else:
                self._pass(n * struct.calcsize(self._code(item)))
        else:
            self._pass(struct.calcsize(self._code(kind)))

    def _text(self) -> str:
        n = self._within(self._number("Q"), MAX_STRING_BYTES, "bytes in a text")
        return self._take(n).decode("utf-8", "replace")

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(f"value type {kind} is not known")
        return _SCALARS[kind]

    def _take(self, n: int) -> bytes:
        self._left -= n
        if self._left < 0:
            raise ValueError(f"more than {MAX_METADATA_BYTES:,} bytes of metadata")
        data = self._file.read(n)
        if len(data) != n:
            raise ValueError("it is cut off")
        return data

    def _pass(self, n: int) -> None:
        self._left -= n
        if self._left < 0:
            raise ValueError(f"more than {MAX_METADATA_BYTES:,} bytes of metadata")
        self._file.seek(n, io.SEEK_CUR)

    @staticmethod
    def _within(n: int, limit: int, what: str) -> int:
        if n > limit:
            raise ValueError(f"{n:,} {what}; at most {limit:,} are read")
        return n
