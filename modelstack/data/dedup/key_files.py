"""Files of sorted keys that identify documents, lines or windows of a shard.

A key is a 64-bit hash. A record is a key with the position of its item in the shard. A file holds one or more
buckets (the same items under different keys). It is written in runs of about `RUN_BYTES`, so a shard of any size
is sorted in bounded memory. Readers merge the runs of all files. All numbers are little-endian:

    "MSKEYS01"
    each run: for each bucket its keys (uint64), sorted, then their positions (uint32); each padded to 8 bytes
    lengths of the documents (uint32), if stored
    footer as a JSON object, its size (uint64), "MSKEYS01"
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from modelstack.errors import UserError
from modelstack.files import replacing

RUN_BYTES = 64 << 20
"""Bytes of records sorted at once, plus the same for sorting: 400,000 documents with 14 buckets."""
_RECORD_BYTES = 12
MAX_POSITIONS = 1 << 32
_MAGIC = b"MSKEYS01"
_MAX_FOOTER_BYTES = 64 << 20
BLOCK = 1024
"""Items whose keys are computed together, enough for a vectorised numpy step."""
Item = TypeVar("Item")


class _Footer(BaseModel, frozen=True, extra="forbid"):
    settings: str
    n_buckets: int
    n_documents: int
    runs: tuple[tuple[int, int], ...]
    """Offset of each run and its number of records per bucket."""
    lengths_at: int | None = None


@dataclass(frozen=True, slots=True)
class KeyFile:
    """An open key file with the contents of its footer."""

    path: Path
    settings: str
    """Configuration of the keys; only files with equal settings are comparable."""
    n_buckets: int
    n_documents: int
    """Items of the shard, with or without keys; an upper bound of positions."""
    runs: tuple[tuple[int, int], ...]
    lengths_at: int | None

    @classmethod
    def open(cls, path: Path) -> KeyFile:
        """Read the footer of a file.

        Raises:
            UserError: The file is not a key file or is truncated.
            OSError: The file cannot be read.
        """
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16))
            tail = file.read(16)
            n_footer = int.from_bytes(tail[:8], "little")
            if len(tail) < 16 or tail[8:] != _MAGIC or n_footer > min(size, _MAX_FOOTER_BYTES):
                raise UserError(f"{path} is not a key file or is truncated; write it again")
            file.seek(size - 16 - n_footer)
            try:
                footer = _Footer.model_validate_json(file.read(n_footer))
            except ValidationError as error:
                raise UserError(f"{path}: its footer cannot be read; write it again") from error
        ends = [offset + footer.n_buckets * _section_bytes(n) for offset, n in footer.runs]
        if max(ends, default=0) > size:
            raise UserError(f"{path} has {size:,} bytes, its footer says more; write it again")
        return cls(path, **dict(footer))

    def keys(self, bucket: int, run: int) -> np.ndarray:
        """Return the sorted keys of a run, memory-mapped for lookups."""
        offset, n = self._place(bucket, run)
        return np.memmap(self.path, "<u8", "r", offset, (n,)) if n else np.empty(0, np.uint64)

    def records(self, bucket: int, run: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Read keys (uint64) and positions (uint32) of records `begin` to `end` of a run."""
        offset, n = self._place(bucket, run)
        count = end - begin
        return (
            np.fromfile(self.path, "<u8", count, offset=offset + 8 * begin),
            np.fromfile(self.path, "<u4", count, offset=offset + 8 * n + 4 * begin),
        )

    def lengths(self) -> np.ndarray:
        """Return the lengths of the documents in characters, uint32.

        Raises:
            UserError: The file was written without lengths.
        """
        if self.lengths_at is None:
            raise UserError(f"{self.path} holds no document lengths; pass another score")
        return np.fromfile(self.path, "<u4", self.n_documents, offset=self.lengths_at)

    def _place(self, bucket: int, run: int) -> tuple[int, int]:
        offset, n = self.runs[run]
        return offset + bucket * _section_bytes(n), n


def open_comparable(paths: Iterable[Path]) -> list[KeyFile]:
    """Open key files that are to be compared.

    Raises:
        UserError: A file is not a key file, or its keys were made with other settings.
    """
    files = [KeyFile.open(path) for path in paths]
    for file in files[1:]:
        if (file.settings, file.n_buckets) != (files[0].settings, files[0].n_buckets):
            raise UserError(
                f"{file.path} was written with {file.settings}, {files[0].path} with {files[0].settings}; "
                f"write both with the same configuration"
            )
    return files


class KeyWriter:
    """Context manager that writes a key file atomically: it appears only if the block ends without an error."""

    def __init__(self, out: Path, settings: str, n_buckets: int, *, with_lengths: bool = False) -> None:
        """Prepare writing to `out`; `settings` is the configuration of the keys."""
        self.n_documents = 0
        self._settings, self._n_buckets = settings, n_buckets
        self._replacing = replacing(out)
        self._lengths = array("I") if with_lengths else None
        self._keys: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._n_waiting = 0
        self._runs: list[tuple[int, int]] = []
        self._file: BinaryIO

    def __enter__(self) -> KeyWriter:
        """Create the file under a temporary name."""
        self._file = self._replacing.__enter__().open("wb")
        self._file.write(_MAGIC)
        return self

    def add(self, keys: np.ndarray, positions: np.ndarray) -> None:
        """Add records: keys (n, buckets) and positions (n,).

        Raises:
            UserError: A position does not fit into 32 bits.
        """
        if len(positions) and int(positions.max()) >= MAX_POSITIONS:
            raise UserError(f"a shard holds more than {MAX_POSITIONS:,} items to compare; make smaller shards")
        self._keys.append(keys)
        self._positions.append(positions.astype("<u4"))
        self._n_waiting += len(positions)
        if self._n_waiting * _RECORD_BYTES * self._n_buckets >= RUN_BYTES:
            self._write_run()

    def count(self, n: int, lengths: Sequence[int] = ()) -> None:
        """Count `n` further items of the shard, with or without keys."""
        self.n_documents += n
        if self._lengths is not None:
            self._lengths.extend(min(length, 0xFFFFFFFF) for length in lengths)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Move the file into place, or discard it after an error."""
        try:
            if error is None:
                self._finish()
        except BaseException as fault:
            self._file.close()
            self._replacing.__exit__(type(fault), fault, fault.__traceback__)
            raise
        self._file.close()
        self._replacing.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._n_waiting:
            self._write_run()
        lengths_at = None
        if self._lengths is not None:
            lengths_at = self._file.tell()
            self._file.write(np.array(self._lengths, "<u4").tobytes())
        footer = _Footer(
            settings=self._settings,
            n_buckets=self._n_buckets,
            n_documents=self.n_documents,
            runs=tuple(self._runs),
            lengths_at=lengths_at,
        )
        data = footer.model_dump_json().encode()
        self._file.write(data + len(data).to_bytes(8, "little") + _MAGIC)

    def _write_run(self) -> None:
        positions = np.concatenate(self._positions)
        keys = np.concatenate(self._keys)
        self._keys, self._positions, self._n_waiting = [], [], 0
        self._runs.append((self._file.tell(), len(positions)))
        for bucket in range(self._n_buckets):
            of_bucket = keys[:, bucket]
            order = np.argsort(of_bucket, kind="stable")
            section = of_bucket[order].astype("<u8").tobytes() + positions[order].tobytes()
            self._file.write(section.ljust(_section_bytes(len(positions)), b"\0"))


def blocks(items: Iterable[Item], size: int = BLOCK) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last one shorter if necessary."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


def _section_bytes(n: int) -> int:
    return (_RECORD_BYTES * n + 7) // 8 * 8
