"""Features of a text: hashed runs of one and two words, as in fastText, without a Python step per word.

Letters: F buckets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelstack.data.dedup.shingles import shingle_hashes
from modelstack.data.dedup.simplify import simplify

N_BUCKETS = 1 << 18
"""Number of 32-bit weights: 1 MB. fastText's default is two million."""
MAX_CHARS = 20_000
"""Leading characters of a text that are read."""
RUNS = (1, 2)


def features(text: str, n_buckets: int = N_BUCKETS) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the ascending buckets of a text and their values, a vector of length 1; both empty without words."""
    simplified = simplify(text[:MAX_CHARS])
    hashes = [part for n_words in RUNS for part in shingle_hashes(simplified, n_words)]
    if not hashes:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    buckets, counts = np.unique(np.concatenate(hashes) % np.uint64(n_buckets), return_counts=True)
    # The logarithm dampens frequent words: repetitions add little information.
    values = np.log1p(counts)
    return buckets.astype(np.int64), (values / np.linalg.norm(values)).astype(np.float32)
