"""Clusters of documents that are copies of each other, directly or through others: union-find in numpy.

One number per document is stored: its parent. Pairs are read in parts, and all pairs of a part are joined at once:
the larger of two roots is attached to the smallest root that it meets, until no pair has two roots. A cluster's
root is thus its first document, and the order of the pairs does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelstack.data.dedup.merging import EARLIER
from modelstack.data.dedup.pairs import read_pairs
from modelstack.errors import UserError
from modelstack.files import replacing

_BLOCK = 1 << 18
_POSITION = np.uint64(0xFFFFFFFF)


def write_clusters(pair_files: Sequence[Path], documents_per_shard: Sequence[int], out: Path) -> int:
    """Write the cluster of each document; return the number of documents that are not the first of their cluster.

    Args:
        pair_files: Pair files of all buckets.
        documents_per_shard: Number of documents in each shard, in the order of the key files.
        out: A .npy file, written atomically. It holds for each document, in shard order, the number of the first
            document of its cluster (its own number if it is alone). The largest value of the type marks a cluster
            that repeats an earlier dump.

    Raises:
        UserError: A pair names a document that does not exist.
    """
    offsets = np.concatenate(([0], np.cumsum(documents_per_shard, dtype=np.int64)))
    n = int(offsets[-1])
    dtype = np.dtype("<u4" if n < 0xFFFFFFFF else "<u8")
    parents = np.arange(n, dtype=dtype)
    repeats_earlier = np.zeros(n, bool)
    for path in pair_files:
        for pairs in read_pairs(path):
            is_earlier = pairs[:, 0] == EARLIER
            repeats_earlier[_numbers(pairs[is_earlier, 1], offsets, path)] = True
            new = pairs[~is_earlier]
            join(parents, _numbers(new[:, 0], offsets, path), _numbers(new[:, 1], offsets, path))
    for begin in range(0, n, _BLOCK):
        parents[begin : begin + _BLOCK] = roots_of(parents, np.arange(begin, min(begin + _BLOCK, n)))
    repeats_earlier[parents[repeats_earlier]] = True  # the whole cluster does, and it is asked by its root
    n_others = 0
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": (n,)})
        for begin in range(0, n, _BLOCK):
            roots = parents[begin : begin + _BLOCK].copy()
            n_others += int((roots != np.arange(begin, begin + len(roots))).sum())
            roots[repeats_earlier[roots]] = np.iinfo(dtype).max
            file.write(roots.tobytes())
    return n_others


def join(parents: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Put documents a[i] and b[i] into one cluster, for all i."""
    a, b = roots_of(parents, a), roots_of(parents, b)
    while len(a):
        apart = a != b
        low, high = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
        np.minimum.at(parents, high, low)
        a, b = roots_of(parents, low), roots_of(parents, high)


def roots_of(parents: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the first document of each document's cluster, and shorten the chains on the way."""
    found = documents
    while True:
        above = parents[found]
        top = parents[above]
        if (top == above).all():
            parents[documents] = top
            return top
        # Path halving: this shortens the chain for this walk and later ones.
        parents[found] = top
        found = top


def _numbers(names: np.ndarray, offsets: np.ndarray, path: Path) -> np.ndarray:
    shards, positions = (names >> np.uint64(32)).astype(np.int64), (names & _POSITION).astype(np.int64)
    if len(names):
        if int(shards.max()) >= len(offsets) - 1:
            raise UserError(f"{path} names shard {shards.max()}, but {len(offsets) - 1} shards were counted")
        wrong = positions >= offsets[shards + 1] - offsets[shards]
        if wrong.any():
            shard, position = shards[wrong][0], positions[wrong][0]
            raise UserError(f"{path} names document {position} of shard {shard}, which has fewer; count it again")
    return offsets[shards] + positions
