"""Selection of one document per cluster, with the number of documents that it represents.

The output is one number per document: 0 to drop it, else the number of documents that it represents, itself
included. A mixture may repeat a document that many sites copied (FineWeb-2's "re-hydration").
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
"""Pairs (minimum copies, repetitions), FineWeb-2's table; a text copied a thousand times is boilerplate."""


def write_copies(
    clusters: Path, documents_per_shard: Sequence[int], score_of_shard: Callable[[int], np.ndarray], out: Path
) -> int:
    """Write for each document the number that it represents, 0 to drop it; return the number of kept documents.

    Args:
        clusters: Output of `write_clusters`.
        documents_per_shard: Number of documents in each shard, as passed to `write_clusters`.
        score_of_shard: Returns a score for each document of a shard; called twice. The highest score is kept,
            among equals the earliest document. `lengths_of` keeps the longest document.
        out: A .npy file of uint32 in shard order, written atomically.

    Raises:
        UserError: A score is not a number, or the inputs do not match.
    """
    offsets = np.concatenate(([0], np.cumsum(documents_per_shard, dtype=np.int64)))
    roots = np.load(clusters, mmap_mode="r", allow_pickle=False)
    n = int(offsets[-1])
    if roots.shape != (n,):
        raise UserError(f"{clusters} covers {len(roots):,} documents, the shards hold {n:,}; write it again")
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
    """Return for each document of a shard the number that it represents, 0 to drop it."""
    begin = sum(documents_per_shard[:shard])
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[begin : begin + documents_per_shard[shard]])


def lengths_of(key_files: Sequence[Path]) -> Callable[[int], np.ndarray]:
    """Return a score function that keeps the longest document, based on the key files of signatures."""
    return lambda shard: KeyFile.open(key_files[shard]).lengths()


def rehydration_weights(copies: np.ndarray) -> np.ndarray:
    """Return the repetitions of each document from its number of copies (0 if dropped), by FineWeb-2's table."""
    bounds, weights = np.array(_REHYDRATION).T
    return np.concatenate(([0], weights))[np.searchsorted(bounds, copies, "right")]


def _cluster_roots(roots: np.ndarray) -> np.ndarray:
    """Return the sorted roots of clusters of two or more; takes memory for these and a byte per document."""
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
    """Yield cluster members in parts: documents, index of their cluster in `numbers`, and scores."""
    for shard in range(len(offsets) - 1):
        begin, end = int(offsets[shard]), int(offsets[shard + 1])
        scores = np.asarray(score_of_shard(shard), np.float64)
        if scores.shape != (end - begin,):
            raise UserError(
                f"shard {shard} has {end - begin:,} documents and {scores.size:,} scores; give one for each"
            )
        if np.isnan(scores).any():
            raise UserError(f"document {np.isnan(scores).argmax()} of shard {shard}: its score is not a number")
        for low in range(begin, end, _BLOCK):
            part = np.asarray(roots[low : min(low + _BLOCK, end)])
            inside = np.flatnonzero(_is_member(part, numbers))
            yield inside + low, np.searchsorted(numbers, part[inside]), scores[inside + low - begin]
