"""Pairs of items with the same key: the first item, and each further one.

A pair file is raw little-endian uint64, two names per pair (see `merging`).
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
    """Write the pairs of one bucket to a file; return their number.

    Args:
        key_files: One file per shard; an item's name contains the index of its file here.
        bucket: Index of the bucket.
        out: Pair file, written atomically.
        earlier: Key files of earlier dumps; items that repeat them are paired with `EARLIER`.
        max_records: Maximum records in memory at once.

    Raises:
        UserError: A file is not a key file, or the files are not comparable.
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
    """Yield pairs (first, other) for each key shared by several items: arrays (n, 2), uint64.

    Raises:
        UserError: The bucket does not exist.
    """
    if files and not 0 <= bucket < files[0].n_buckets:
        raise UserError(f"bucket {bucket}: the files have buckets 0 to {files[0].n_buckets - 1}")
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
    """Yield the pairs of a file in parts, (n, 2) uint64.

    Raises:
        UserError: The file is not a pair file.
    """
    size = path.stat().st_size
    if size % 16:
        raise UserError(f"{path} has {size:,} bytes, not a multiple of the 16 bytes of a pair; write it again")
    for offset in range(0, size, 16 * _BLOCK):
        yield np.fromfile(path, "<u8", 2 * _BLOCK, offset=offset).reshape(-1, 2)
