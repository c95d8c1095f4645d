"""Pairs of things with the same key: the first that has it, and each other.

A file of pairs is raw little-endian uint64, two names a pair (see `merging`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from modelstack.data.dedup.key_files import KeyFile, open_comparable
from modelstack.data.dedup.merging import EARLIER, MAX_RECORDS, merged
from modelstack.errors import UserError
from modelstack.files import replacing

_BLOCK = 1 << 17
"""Pairs read at once: 2 MB."""


def pairs_of_bucket(
    key_files: Sequence[Path],
    bucket: int,
    out: Path,
    *,
    earlier: Sequence[Path] = (),
    max_records: int = MAX_RECORDS,
) -> int:
    """Write the pairs of one bucket; return how many there are.

    Args:
        key_files: One a shard; a thing is named by its file's place here.
        bucket: Of them.
        out: Appears whole or not at all.
        earlier: Key files of dumps before: what repeats them is paired with `EARLIER`.
        max_records: In memory at once.

    Raises:
        UserError: A file is no key file, or they do not belong together.
    """
    files = open_comparable([*key_files, *earlier])
    n = 0
    with replacing(out) as temporary, temporary.open("wb") as file:
        for pairs in pairs_among(files[: len(key_files)], bucket, files[len(key_files) :], max_records):
            n += len(pairs)
            file.write(pairs.astype("<u8").tobytes())
    return n


def pairs_among(
    files: Sequence[KeyFile], bucket: int, earlier: Sequence[KeyFile] = (), max_records: int = MAX_RECORDS
) -> Iterator[np.ndarray]:
    """Return (first, other) of each key that more than one thing has: parts of (n, 2), uint64.

    Raises:
        UserError: There is no such bucket.
    """
    if files and not 0 <= bucket < files[0].n_buckets:
        raise UserError(f"bucket {bucket}: the files have {files[0].n_buckets}, counted from 0")
    last_key: np.uint64 | None = None
    last_first = EARLIER
    for keys, names in merged(files, bucket, earlier, max_records):
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        firsts = names[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
        if last_key is not None and keys[0] == last_key:
            firsts[keys == last_key] = last_first
            is_first[0] = False
        last_key, last_first = keys[-1], firsts[-1]
        is_other = ~is_first & (names != EARLIER)
        if is_other.any():
            yield np.stack([firsts[is_other], names[is_other]], axis=1)


def read_pairs(path: Path) -> Iterator[np.ndarray]:
    """Return the pairs of a file, some at a time, (n, 2) uint64.

    Raises:
        UserError: It is no file of pairs.
    """
    size = path.stat().st_size
    if size % 16:
        raise UserError(f"{path} has {size:,} bytes; a file of pairs has 16 a pair. Write it again")
    for offset in range(0, size, 16 * _BLOCK):
        yield np.fromfile(path, "<u8", 2 * _BLOCK, offset=offset).reshape(-1, 2)
