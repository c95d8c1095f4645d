"""The decision: of each cluster the best document stays, and is said to stand for so many.

What is written is one number a document: 0 to drop it, else how many documents of the corpus it stands for, itself
among them. A mixture may show a document more often that many sites copied (FineWeb-2's "re-hydration").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from modelstack.data.dedup.key_files import KeyFile
from modelstack.errors import UserError
from modelstack.files import replacing

_BLOCK = 1 << 18
_REHYDRATION = ((1, 1), (2, 2), (3, 3), (5, 5), (100, 8), (1000, 1))
"""From so many copies on, how often: FineWeb-2's table. What is copied a thousand times is boilerplate."""


def write_copies(
    clusters: Path, documents_per_shard: Sequence[int], score_of_shard: Callable[[int], np.ndarray], out: Path
) -> int:
    """Write for each document how many it stands for, 0 to drop it; return how many are kept.

    Args:
        clusters: What `write_clusters` wrote.
        documents_per_shard: As it was given them.
        score_of_shard: A number for each document of a shard, called twice; the highest stays, of equals the
            earliest. `lengths_of` keeps the longest.
        out: A .npy file of uint32, documents of the first shard first. Appears whole or not at all.

    Raises:
        UserError: A score is no number, or the parts do not fit each other.
    """
    offsets = np.concatenate(([0], np.cumsum(documents_per_shard, dtype=np.int64)))
    roots = np.load(clusters, mmap_mode="r", allow_pickle=False)
    n = int(offsets[-1])
    if roots.shape != (n,):
        raise UserError(f"{clusters} is of {len(roots):,} documents, the shards hold {n:,}; make it again")
    numbers = _cluster_roots(roots)
    best = np.full(len(numbers), -np.inf)
    winner = np.full(len(numbers), n, np.int64)
    sizes = np.zeros(len(numbers), np.uint32)
    for _, cluster, score in _members(roots, numbers, offsets, score_of_shard):
        np.maximum.at(best, cluster, score)
        np.add.at(sizes, cluster, np.uint32(1))
    for document, cluster, score in _members(roots, numbers, offsets, score_of_shard):
        is_best = score == best[cluster]
        np.minimum.at(winner, cluster[is_best], document[is_best])
    n_kept = 0
    by_document = np.argsort(winner)
    winner, sizes = winner[by_document], sizes[by_document]
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u4", "fortran_order": False, "shape": (n,)})
        for begin in range(0, n, _BLOCK):
            part = np.asarray(roots[begin : begin + _BLOCK])
            copies = (~_is_member(part, numbers) & (part != np.iinfo(roots.dtype).max)).astype("<u4")
            first, last = np.searchsorted(winner, (begin, begin + len(part)))
            copies[winner[first:last] - begin] = sizes[first:last]
            n_kept += int(np.count_nonzero(copies))
            file.write(copies.tobytes())
    return n_kept


def read_copies(path: Path, documents_per_shard: Sequence[int], shard: int) -> np.ndarray:
    """Return for each document of a shard how many it stands for, 0 to drop it."""
    begin = sum(documents_per_shard[:shard])
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[begin : begin + documents_per_shard[shard]])


def lengths_of(key_files: Sequence[Path]) -> Callable[[int], np.ndarray]:
    """Return the score by which the longest document stays, of the files that signatures were written to."""
    return lambda shard: KeyFile.open(key_files[shard]).lengths()


def rehydration_weights(copies: np.ndarray) -> np.ndarray:
    """Return how often to show each document that stands for so many, by FineWeb-2's table; 0 for dropped ones."""
    bounds, weights = np.array(_REHYDRATION).T
    return np.concatenate(([0], weights))[np.searchsorted(bounds, copies, "right")]


def _cluster_roots(roots: np.ndarray) -> np.ndarray:
    """Return the roots of clusters of two and more, sorted: memory is for these, and a byte a document."""
    has_others = np.zeros(len(roots), bool)
    for begin in range(0, len(roots), _BLOCK):
        part = np.asarray(roots[begin : begin + _BLOCK])
        is_other = (part != np.arange(begin, begin + len(part))) & (part != np.iinfo(roots.dtype).max)
        has_others[part[is_other]] = True
    return np.flatnonzero(has_others)


def _is_member(part: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    if not len(numbers):
        return np.zeros(len(part), bool)
    return numbers[np.minimum(np.searchsorted(numbers, part), len(numbers) - 1)] == part


def _members(
    roots: np.ndarray, numbers: np.ndarray, offsets: np.ndarray, score_of_shard: Callable[[int], np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the documents of clusters, their cluster's place in `numbers` and their score, a part at a time."""
    for shard in range(len(offsets) - 1):
        begin, end = int(offsets[shard]), int(offsets[shard + 1])
        scores = np.asarray(score_of_shard(shard), np.float64)
        if scores.shape != (end - begin,):
            raise UserError(
                f"shard {shard} has {end - begin:,} documents and {scores.size:,} scores; give one each"
            )
        if np.isnan(scores).any():
            raise UserError(f"document {np.isnan(scores).argmax()} of shard {shard}: its score is not a number")
        for low in range(begin, end, _BLOCK):
            part = np.asarray(roots[low : min(low + _BLOCK, end)])
            inside = np.flatnonzero(_is_member(part, numbers))
            yield inside + low, np.searchsorted(numbers, part[inside]), scores[inside + low - begin]
