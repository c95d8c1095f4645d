"""Merging of many sorted key files in bounded memory.

Keys are hashes and thus evenly distributed. A range of keys is read from all files at once and sorted by numpy. A
range with too many records is halved until it fits, down to a single key, whose records are then returned file by
file. Such a key may belong to a page that was published a million times.

The name of an item is a number: the index of its file in the upper 32 bits, its position in the lower 32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from modelstack.data.dedup.key_files import KeyFile

MAX_RECORDS = 1 << 20
"""Maximum records in memory at once: about 50 MB, sorting included."""
EARLIER = np.uint64((1 << 64) - 1)
"""Name shared by all items in files of earlier dumps."""
_KEYS_END = 1 << 64


def names_of(shard: int, positions: np.ndarray) -> np.ndarray:
    """Return the names of the items at the given positions of a shard, uint64."""
    return positions.astype(np.uint64) | np.uint64(shard << 32)


def merged(
    files: Sequence[KeyFile], bucket: int, earlier: Sequence[KeyFile] = (), max_records: int = MAX_RECORDS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield keys and names in key order, at most `max_records` at a time; items of earlier dumps come first.

    Records of one key are in one part unless there are more than `max_records` of them.
    """
    runs = [(None, file, run) for file in earlier for run in range(len(file.runs))]
    runs += [(shard, file, run) for shard, file in enumerate(files) for run in range(len(file.runs))]
    keys = [file.keys(bucket, run) for _, file, run in runs]

    def read(i: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        shard, file, run = runs[i]
        found, positions = file.records(bucket, run, begin, end)
        return found, np.full(len(found), EARLIER) if shard is None else names_of(shard, positions)

    sizes = np.array([len(each) for each in keys], np.int64)
    waiting = [(0, _KEYS_END, np.zeros_like(sizes), sizes)]
    while waiting:
        low, high, begins, ends = waiting.pop()
        n = int((ends - begins).sum())
        if n == 0:
            continue
        if n <= max_records:
            yield _sorted([read(int(i), int(begins[i]), int(ends[i])) for i in np.flatnonzero(ends > begins)])
        elif high - low == 1:
            for i in np.flatnonzero(ends > begins):
                for begin in range(int(begins[i]), int(ends[i]), max_records):
                    yield read(int(i), begin, min(begin + max_records, int(ends[i])))
        else:
            middle = (low + high) // 2
            places = np.array(
                [
                    begin + np.searchsorted(each[begin:end], np.uint64(middle))
                    for each, begin, end in zip(keys, begins, ends, strict=True)
                ],
                np.int64,
            )
            waiting += [(middle, high, places, ends), (low, middle, begins, places)]


def _sorted(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([part[0] for part in parts])
    names = np.concatenate([part[1] for part in parts])
    # Stable, because files are ordered by name and their positions are too.
    order = np.argsort(keys, kind="stable")
    return keys[order], names[order]
