"""Files of sorted keys: what documents, lines or windows of a shard are recognised by, on disk.

A key is a 64-bit hash; a record is a key and the position, in its shard, of what has it. A file holds one or more
buckets (the same things under other keys) and is written in runs of about `RUN_BYTES`, so that a shard of any
size is sorted in bounded memory; whoever reads merges the runs of all files. All numbers are little-endian:

    "MSKEYS01"
    each run: for each bucket its keys (uint64), sorted, then their positions (uint32); each padded to 8 bytes
    the documents' lengths (uint32), where they are kept
    a JSON object that describes this, its size (uint64), "MSKEYS01"
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from pydantic import BaseModel, ValidationError

from modelstack.errors import UserError
from modelstack.files import replacing

RUN_BYTES = 64 << 20
"""Of records, sorted in memory at once, with as much again for sorting: 400,000 documents with 14 buckets."""
_RECORD_BYTES = 12
MAX_POSITIONS = 1 << 32
_MAGIC = b"MSKEYS01"
_MAX_FOOTER_BYTES = 64 << 20


class _Footer(BaseModel, frozen=True, extra="forbid"):
    settings: str
    n_buckets: int
    n_documents: int
    runs: tuple[tuple[int, int], ...]
    """Where each begins, and its records in each bucket."""
    lengths_at: int | None = None


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of keys that was opened: what it says of itself."""

    path: Path
    settings: str
    """How the keys were made; only files that agree can be compared."""
    n_buckets: int
    n_documents: int
    """Things of the shard, with or without keys; positions are below it."""
    runs: tuple[tuple[int, int], ...]
    lengths_at: int | None

    @classmethod
    def open(cls, path: Path) -> KeyFile:
        """Read what a file says of itself.

        Raises:
            UserError: It is no file of keys, or not whole.
            OSError: It cannot be read.
        """
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16))
            tail = file.read(16)
            n_footer = int.from_bytes(tail[:8], "little")
            if len(tail) < 16 or tail[8:] != _MAGIC or n_footer > min(size, _MAX_FOOTER_BYTES):
                raise UserError(f"{path} is no file of keys, or was cut; write it again")
            file.seek(size - 16 - n_footer)
            try:
                footer = _Footer.model_validate_json(file.read(n_footer))
            except ValidationError as error:
                raise UserError(f"{path}: what it says of itself cannot be read; write it again") from error
        ends = [offset + footer.n_buckets * _section_bytes(n) for offset, n in footer.runs]
        if max(ends, default=0) > size:
            raise UserError(f"{path} has {size:,} bytes and says more; write it again")
        return cls(path, **dict(footer))

    def keys(self, bucket: int, run: int) -> np.ndarray:
        """Return a run's sorted keys, mapped: for looking some of them up."""
        offset, n = self._place(bucket, run)
        return np.memmap(self.path, "<u8", "r", offset, (n,)) if n else np.empty(0, np.uint64)

    def records(self, bucket: int, run: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return keys (uint64) and positions (uint32) of a part of a run, read."""
        offset, n = self._place(bucket, run)
        count = end - begin
        return (
            np.fromfile(self.path, "<u8", count, offset=offset + 8 * begin),
            np.fromfile(self.path, "<u4", count, offset=offset + 8 * n + 4 * begin),
        )

    def lengths(self) -> np.ndarray:
        """Return the documents' lengths in characters, uint32.

        Raises:
            UserError: The file was written without.
        """
        if self.lengths_at is None:
            raise UserError(f"{self.path} holds no lengths of documents; give a score of your own")
        return np.fromfile(self.path, "<u4", self.n_documents, offset=self.lengths_at)

    def _place(self, bucket: int, run: int) -> tuple[int, int]:
        offset, n = self.runs[run]
        return offset + bucket * _section_bytes(n), n


def open_comparable(paths: Iterable[Path]) -> list[KeyFile]:
    """Open files of keys that are to be compared.

    Raises:
        UserError: One is none, or its keys were made differently.
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
    """Writes one file of keys; it appears when the block ends without an error."""

    def __init__(self, out: Path, settings: str, n_buckets: int, *, with_lengths: bool = False) -> None:
        """Write to `out`, keys that were made as `settings` says."""
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
        """Begin the file, under a temporary name."""
        self._file = self._replacing.__enter__().open("wb")
        self._file.write(_MAGIC)
        return self

    def add(self, keys: np.ndarray, positions: np.ndarray) -> None:
        """Add records: keys (n, buckets) and positions (n,).

        Raises:
            UserError: A position does not fit into 32 bits.
        """
        if len(positions) and int(positions.max()) >= MAX_POSITIONS:
            raise UserError(f"a shard holds more than {MAX_POSITIONS:,} things to compare; make smaller shards")
        self._keys.append(keys)
        self._positions.append(positions.astype("<u4"))
        self._n_waiting += len(positions)
        if self._n_waiting * _RECORD_BYTES * self._n_buckets >= RUN_BYTES:
            self._write_run()

    def count(self, n: int, lengths: Sequence[int] = ()) -> None:
        """Count things of the shard, those without keys too."""
        self.n_documents += n
        if self._lengths is not None:
            self._lengths.extend(min(length, 0xFFFFFFFF) for length in lengths)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the file in its place, or leave nothing."""
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


def _section_bytes(n: int) -> int:
    return (_RECORD_BYTES * n + 7) // 8 * 8
