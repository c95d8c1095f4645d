"""A GGUF file taken apart without trusting it (specification: ggml's docs/gguf.md, versions 2 and 3).

Every count, length, offset and type is held against the file's size before anything is allocated for it, and no
two tensors may share bytes: what a file can ask for is bounded by what it brings. Values are read by plain reads,
not through a memory map, whose pages a file that shrinks meanwhile would take away under us.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
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
"""DeepSeek-V3 has 1,100."""
MAX_METADATA_BYTES = 256 << 20
"""Tokenizers with 262,144 tokens need 15 MB."""
MAX_NAME_BYTES = 256
"""llama.cpp allows tensor names of 63."""
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 65_536
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
"""Value types of the specification, as codes of `struct`."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies and how its numbers are written."""

    name: str
    shape: tuple[int, ...]
    """Outermost axis first, as numpy and torch have it; the file lists it the other way round."""
    ggml_type: int
    start: int
    """First byte in the file."""
    n_bytes: int


class GGUFFile:
    """An open GGUF file: its metadata, and its tensors on demand."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Read the metadata.

        Raises:
            UserError: The file is no GGUF, cut off or contradicts itself.
        """
        self.path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._n_tensors, n_keys = self._head()
        self.fields: dict[str, Any] = dict(self._pairs(n_keys))
        self._tensors_at = self._at

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors by name, read when first asked for: a tokenizer's reader does without them.

        Raises:
            UserError: The list is cut off or contradicts itself or the file.
        """
        self._file.seek(self._tensors_at)
        self._at = self._tensors_at
        return self._tensors(self._n_tensors)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's bytes.

        Raises:
            UserError: The file has become shorter meanwhile.
        """
        tensor = self.tensors[name]
        self._file.seek(tensor.start)
        data = np.fromfile(self._file, dtype=np.uint8, count=tensor.n_bytes)
        if data.size != tensor.n_bytes:
            raise self._error(f"it is cut off within {name}")
        return data

    def _error(self, what: str) -> UserError:
        return UserError(f"{self.path} cannot be read as GGUF: {what}; fetch or export it again")

    def _head(self) -> tuple[int, int]:
        if self._size < len(MAGIC) or self._take(len(MAGIC)) != MAGIC:
            raise self._error(f"it does not begin with {MAGIC!r}")
        version = self._number("I")
        if version not in VERSIONS:
            raise self._error(f"version {version} is not known (a big-endian file?); known are {VERSIONS}")
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise self._error(f"it claims {n_tensors:,} tensors and {n_keys:,} keys")
        return n_tensors, n_keys

    def _pairs(self, n_keys: int) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for _ in range(n_keys):
            key = self._text()
            if key in seen:
                raise self._error(f"key {key!r} occurs twice")
            seen.add(key)
            yield key, self._value(self._number("I"))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(self._number("I"), self._number("Q"))
        return self._array(kind, 1)[0]

    def _array(self, kind: int, n: int) -> list[Any]:
        if kind == _STRING:
            self._need(8 * n)
            return [self._text() for _ in range(n)]
        if kind == _BOOL:
            values = self._take(n)
            if any(value > 1 for value in values):
                raise self._error("a truth value is neither 0 nor 1")
            return [bool(value) for value in values]
        if kind not in _SCALARS:
            raise self._error(f"value type {kind} is not known, or an array within an array")
        code = _SCALARS[kind]
        return list(struct.unpack(f"<{n}{code}", self._take(n * struct.calcsize(code))))

    def _tensors(self, n_tensors: int) -> dict[str, StoredTensor]:
        infos = [self._tensor_info() for _ in range(n_tensors)]
        alignment = self.fields.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._error(f"general.alignment {alignment!r} is no power of two in 8..{MAX_ALIGNMENT}")
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

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text(MAX_NAME_BYTES)
        n_dimensions = self._number("I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise self._error(f"tensor {name!r} has {n_dimensions} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(n_dimensions)]))
        return name, shape, self._number("I"), self._number("Q")

    def _place(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int, data: int, alignment: int
    ) -> StoredTensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        sizes = {int(known): size for known, size in GGML_QUANT_SIZES.items()}
        if kind not in sizes:
            known = ", ".join(sorted(known.name for known in GGMLQuantizationType))
            raise self._error(f"tensor {name!r} has number type {kind}; known are {known}")
        block, block_bytes = sizes[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise self._error(f"tensor {name!r} of shape {shape} does not consist of blocks of {block}")
        if offset % alignment:
            raise self._error(f"tensor {name!r} does not lie on a multiple of {alignment}")
        return StoredTensor(name, shape, kind, data + offset, prod(shape) // block * block_bytes)

    def _text(self, limit: int | None = None) -> str:
        n = self._number("Q")
        if limit is not None and n > limit:
            raise self._error(f"a name of {n:,} bytes; at most {limit} make sense")
        try:
            return self._take(n).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"a text is not UTF-8 ({error.reason})") from error

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]

    def _take(self, n: int) -> bytes:
        self._need(n)
        self._at += n
        return self._file.read(n)

    def _need(self, n: int) -> None:
        if n > self._size - self._at:
            raise self._error(f"it is cut off, or claims {n:,} bytes at byte {self._at:,} of {self._size:,}")
        if self._at + n > MAX_METADATA_BYTES:
            raise self._error(f"more than {MAX_METADATA_BYTES:,} bytes of metadata")


@contextmanager
def open_gguf(path: str | os.PathLike[str]) -> Iterator[GGUFFile]:
    """Open a GGUF file for reading.

    Raises:
        UserError: The file is not there, is no GGUF, cut off or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not there; name a GGUF file")
    with path.open("rb") as file:
        yield GGUFFile(file, path)


def read_gguf_fields(path: str | os.PathLike[str], prefix: str = "") -> dict[str, Any]:
    """Return the metadata whose keys begin with `prefix`: numbers, truth values, texts and lists of these.

    Raises:
        UserError: The file is not there, is no GGUF, cut off or contradicts itself.
    """
    with open_gguf(path) as file:
        return {key: value for key, value in file.fields.items() if key.startswith(prefix)}
