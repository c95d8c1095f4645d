"""Parser of untrusted GGUF files (specification: ggml's docs/gguf.md, versions 2 and 3).

Every count, length, offset and type is checked against the file's size before memory is allocated for it, and
tensors must not overlap. So memory use is bounded by the file's size. Values are read by plain reads instead of a
memory map, which would fail if the file shrinks meanwhile.

Metadata are read in blocks: 150,000 tokens and as many merges take 0.1 s, instead of 0.9 s with one read per
value.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 65_536
MAX_TENSORS = 65_536
"""Maximum number of tensors; DeepSeek-V3 has 1,100."""
MAX_METADATA_BYTES = 64 << 20
"""Maximum bytes of metadata; tokenizers with 262,144 tokens need 15 MB. As Python values, numbers and short texts
take about 8 times as much.
"""
BLOCK_BYTES = 1 << 20
"""Bytes of metadata per read."""
MAX_NAME_BYTES = 256
"""Maximum bytes of a tensor's name; llama.cpp allows 63."""
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 65_536
DEFAULT_ALIGNMENT = 32

STRING, ARRAY, BOOL, UINT32, INT32, FLOAT32 = 8, 9, 7, 4, 5, 6
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", INT32: "i", FLOAT32: "f", 10: "Q", 11: "q", 12: "d"}
"""Value types of the specification, as codes of `struct`."""
_LENGTH = struct.Struct("<Q")
F32, I32 = 0, 26
NUMBER_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
"""`enum ggml_type` of ggml.h: name, numbers per block, bytes per block."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Position and number type of a tensor in the file."""

    name: str
    shape: tuple[int, ...]
    """Outermost axis first, as in numpy and torch; the file uses the reverse order."""
    ggml_type: int
    start: int
    """Offset of the first byte in the file."""
    n_bytes: int

    @property
    def type_name(self) -> str:
        """Name of the number type, for example "Q4_K"."""
        return NUMBER_TYPES[self.ggml_type][0]


class GGUFFile:
    """An open GGUF file: its metadata, and its tensors on demand."""

    def __init__(self, file: BinaryIO, path: Path, without: Collection[str] = ()) -> None:
        """Read the metadata; string arrays named in `without` are skipped and are not in `fields`.

        Raises:
            UserError: The file is not GGUF, is truncated or inconsistent.
        """
        self.path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._block, self._block_at = b"", 0
        self._reading = "the head"
        self._at = 0
        self.kinds: dict[str, int | tuple[int, int]] = {}
        """Value type of each field; for an array, `ARRAY` and the type of its items."""
        self._n_tensors, n_keys = self._head()
        self.fields: dict[str, Any] = dict(self._pairs(n_keys, without))
        self._tensors_at = self._at

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Tensors by name, read at first access, because a reader of the tokenizer does not need them.

        Raises:
            UserError: The list is truncated or inconsistent.
        """
        self._at = self._tensors_at
        return self._tensors(self._n_tensors)

    def raw(self, name: str, rows: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, or of some rows of one with several axes.

        Args:
            name: Name of the tensor.
            rows: First row along the outermost axis, and the row after the last; None: all rows.

        Raises:
            UserError: The file has been truncated meanwhile.
        """
        tensor = self.tensors[name]
        start, n_bytes = tensor.start, tensor.n_bytes
        if rows is not None:  # rows of a tensor with several axes are whole blocks of numbers
            row_bytes = tensor.n_bytes // tensor.shape[0]
            start, n_bytes = start + rows[0] * row_bytes, (rows[1] - rows[0]) * row_bytes
        self._file.seek(start)
        data = np.fromfile(self._file, dtype=np.uint8, count=n_bytes)
        if data.size != n_bytes:
            raise self._error(f"it is cut off within {name}")
        return data

    def _error(self, what: str) -> UserError:
        where = f"{self.path} cannot be read as GGUF, in {self._reading}"
        return UserError(f"{where}: {what}; fetch or export it again")

    def _head(self) -> tuple[int, int]:
        if self._size < len(MAGIC) or self._take(len(MAGIC)) != MAGIC:
            raise self._error(f"it does not begin with {MAGIC!r}")
        version = self._number("I")
        if version not in VERSIONS:
            raise self._error(f"version {version} is not known (a big-endian file?); known: {VERSIONS}")
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise self._error(f"it declares {n_tensors:,} tensors and {n_keys:,} keys")
        return n_tensors, n_keys

    def _pairs(self, n_keys: int, without: Collection[str]) -> Iterator[tuple[str, Any]]:
        for number in range(n_keys):
            self._reading = f"key {number + 1} of {n_keys}"
            key = self._text()
            if key in self.kinds:
                raise self._error(f"key {key[:MAX_NAME_BYTES]!r} occurs twice")
            self._reading = f"the value of {key[:MAX_NAME_BYTES]!r}"
            kind = self._number("I")
            if kind != ARRAY:
                self.kinds[key] = kind
                yield key, self._text() if kind == STRING else self._array(kind, 1)[0]
                continue
            item_kind, n = self._number("I"), self._number("Q")
            self.kinds[key] = (ARRAY, item_kind)
            if item_kind != STRING:
                yield key, self._array(item_kind, n)
            elif key in without:
                self._pass_texts(n)
            else:
                yield key, self._texts(n)

    def _array(self, kind: int, n: int) -> list[Any]:
        if kind == BOOL:
            values = self._take(n)
            if any(value > 1 for value in values):
                raise self._error("a boolean is neither 0 nor 1")
            return [bool(value) for value in values]
        if kind not in _SCALARS:
            raise self._error(f"value type {kind} is not known, or an array within an array")
        code = _SCALARS[kind]
        return list(struct.unpack(f"<{n}{code}", self._take(n * struct.calcsize(code))))

    def _texts(self, n: int) -> list[str]:
        """Read a string array; lengths are parsed within a block, because a call for each string is slower."""
        self._need(8 * n)
        texts: list[str] = []
        length_at = _LENGTH.unpack_from
        while len(texts) < n:
            texts.append(self._text())
            block, at = self._block, self._at - self._block_at
            last = len(block) - 8
            try:
                for _ in range(n - len(texts)):
                    if at > last or (end := at + 8 + length_at(block, at)[0]) > len(block):
                        break
                    texts.append(block[at + 8 : end].decode("utf-8"))
                    at = end
            except UnicodeDecodeError as error:
                raise self._error(f"text {len(texts)} is not UTF-8 ({error.reason})") from error
            self._at = self._block_at + at
        return texts

    def _pass_texts(self, n: int) -> None:
        """Skip a string array, parsed as in `_texts`."""
        self._need(8 * n)
        length_at = _LENGTH.unpack_from
        while n > 0:
            self._take(self._number("Q"))
            block, at = self._block, self._at - self._block_at
            last, n = len(block) - 8, n - 1
            for _ in range(n):
                if at > last or (end := at + 8 + length_at(block, at)[0]) > len(block):
                    break
                at, n = end, n - 1
            self._at = self._block_at + at

    def _tensors(self, n_tensors: int) -> dict[str, StoredTensor]:
        infos = [self._tensor_info(number, n_tensors) for number in range(n_tensors)]
        self._reading = "the tensors"
        alignment = self.fields.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._error(f"general.alignment {alignment!r} is not a power of two in 8..{MAX_ALIGNMENT}")
        data = -(-self._at // alignment) * alignment
        tensors = [self._place(*info, data, alignment) for info in infos]
        end = data
        for tensor in sorted(tensors, key=lambda tensor: tensor.start):
            if tensor.start < end:
                raise self._error(f"tensor {tensor.name!r} overlaps another")
            end = tensor.start + tensor.n_bytes
        if end > self._size:
            raise self._error(f"it is cut off: its tensors end at byte {end:,}, the file at {self._size:,}")
        found = {tensor.name: tensor for tensor in tensors}
        if len(found) < len(tensors):
            raise self._error("a tensor's name occurs twice")
        return found

    def _tensor_info(self, number: int, n_tensors: int) -> tuple[str, tuple[int, ...], int, int]:
        self._reading = f"tensor {number + 1} of {n_tensors}"
        name = self._text(MAX_NAME_BYTES)
        n_dimensions = self._number("I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise self._error(f"tensor {name!r} has {n_dimensions} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(n_dimensions)]))
        return name, shape, self._number("I"), self._number("Q")

    def _place(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int, data: int, alignment: int
    ) -> StoredTensor:
        if kind not in NUMBER_TYPES:
            known = ", ".join(type_name for type_name, *_ in NUMBER_TYPES.values())
            raise self._error(f"tensor {name!r} has number type {kind}; known: {known}")
        _, block, block_bytes = NUMBER_TYPES[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise self._error(f"tensor {name!r} of shape {shape} does not consist of blocks of {block}")
        if offset % alignment:
            raise self._error(f"tensor {name!r} does not start at a multiple of {alignment}")
        return StoredTensor(name, shape, kind, data + offset, prod(shape) // block * block_bytes)

    def _text(self, limit: int | None = None) -> str:
        n = self._number("Q")
        if limit is not None and n > limit:
            raise self._error(f"a name of {n:,} bytes; at most {limit} are allowed")
        try:
            return self._take(n).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"a text is not UTF-8 ({error.reason})") from error

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]

    def _take(self, n: int) -> bytes:
        self._need(n)
        start = self._at - self._block_at
        if not 0 <= start <= len(self._block) - n:
            self._file.seek(self._at)
            self._block, self._block_at, start = self._file.read(max(n, BLOCK_BYTES)), self._at, 0
            if len(self._block) < n:
                raise self._error("it was truncated meanwhile")
        self._at += n
        return self._block[start : start + n]

    def _need(self, n: int) -> None:
        if n > self._size - self._at:
            raise self._error(f"it is cut off, or declares {n:,} bytes at byte {self._at:,} of {self._size:,}")
        if self._at + n > MAX_METADATA_BYTES:
            raise self._error(f"more than {MAX_METADATA_BYTES:,} bytes of metadata")


@contextmanager
def open_gguf(path: str | os.PathLike[str], without: Collection[str] = ()) -> Iterator[GGUFFile]:
    """Open a GGUF file for reading; string arrays named in `without` are skipped.

    Raises:
        UserError: The file does not exist, is not GGUF, is truncated or inconsistent.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a GGUF file")
    with path.open("rb") as file:
        yield GGUFFile(file, path, without)


def read_gguf_fields(path: str | os.PathLike[str], prefix: str = "") -> dict[str, Any]:
    """Return the metadata whose keys begin with `prefix`: numbers, booleans, strings and lists of these.

    Raises:
        UserError: The file does not exist, is not GGUF, is truncated or inconsistent.
    """
    with open_gguf(path) as file:
        return {key: value for key, value in file.fields.items() if key.startswith(prefix)}
