"""Recall of planted near-duplicates, compared with theory and with brute force.

Documents are made of words drawn by Zipf's law. Copies of some are planted, with words replaced until the Jaccard
similarity has the chosen value. The stages of near-duplicate search run on them from files to files; brute force
compares the sets of word runs of all documents that share a run. A pair of similarity s is found with probability
1 - (1 - s^hashes)^buckets, so the number of pairs found is binomial and has a known deviation.

    python -m tools.data.near_duplicate_recall
    python -m tools.data.near_duplicate_recall --pairs 2000 --seed 7
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from modelstack.data.dedup.minhash import MinHashConfig, write_signatures
from modelstack.data.dedup.pairs import pairs_of_bucket, read_pairs

SIMILARITIES = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
N_WORDS = 300
"""Words of a document."""
N_SHARDS = 3
MAX_DEVIATION = 4.0
"""Largest deviation of a level from theory, in standard deviations. By chance one table of ten levels in 1,600
exceeds it."""
_BACKGROUND = 0.3
"""Lower bound of the similarity of planted pairs; in theory one pair in a thousand below it is found."""


@dataclass(frozen=True, slots=True)
class Level:
    """Planted pairs of about equal similarity."""

    similarity: float
    """Mean over the pairs, by brute force."""
    n_pairs: int
    n_expected: float
    n_found: int
    deviation: float
    """Standard deviation of the number of pairs found, which is binomial."""

    @property
    def off_by(self) -> float:
        """Return the excess over the expected number in standard deviations, each at least half a pair."""
        return (self.n_found - self.n_expected) / max(self.deviation, 0.5)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a check."""

    levels: tuple[Level, ...]
    n_documents: int
    threshold: float
    """Similarity at which the curve is about steepest: (1/buckets)^(1/hashes)."""
    recall: float
    """Share of the pairs above the threshold (by brute force over all documents) that is found."""
    recall_by_theory: float
    precision: float
    """Share of the found pairs that is above the threshold."""
    precision_by_theory: float
    n_found: int
    n_background_found: int
    """Pairs found of documents that share almost nothing: errors of the program, not of the method."""

    @property
    def holds(self) -> bool:
        """Whether the results agree with theory, within chance."""
        return not self.n_background_found and all(abs(level.off_by) <= MAX_DEVIATION for level in self.levels)


def check(config: MinHashConfig, n_pairs: int, seed: int, folder: Path) -> Outcome:
    """Plant `n_pairs` pairs at each similarity, search for them and compare; `folder` takes the files."""
    numbers = np.random.RandomState(seed)
    texts: list[str] = []
    planted: list[list[tuple[int, int]]] = []
    for similarity in SIMILARITIES:
        planted.append([])
        for _ in range(n_pairs):
            words = _words(numbers, N_WORDS)
            texts += [" ".join(words), " ".join(_changed(words, similarity, config.n_words, numbers))]
            planted[-1].append((len(texts) - 2, len(texts) - 1))
    place = numbers.permutation(len(texts))
    shuffled = [""] * len(texts)
    for old, new in enumerate(place):
        shuffled[new] = texts[old]
    truth = similarities(shuffled, config.n_words)
    found = _found(shuffled, config, folder)
    levels = []
    for pairs in planted:
        names = [(min(place[a], place[b]), max(place[a], place[b])) for a, b in pairs]
        p = np.array([config.p_pair(truth[pair]) for pair in names])
        levels.append(
            Level(
                float(np.mean([truth[pair] for pair in names])),
                len(names),
                float(p.sum()),
                sum(pair in found for pair in names),
                math.sqrt(float((p * (1 - p)).sum())),
            )
        )
    threshold = (1 / config.n_buckets) ** (1 / config.n_hashes)
    p_of = {pair: config.p_pair(similarity) for pair, similarity in truth.items()}
    similar = {pair for pair, similarity in truth.items() if similarity >= threshold}
    p_similar = sum(p_of[pair] for pair in similar)
    return Outcome(
        levels=tuple(levels),
        n_documents=len(texts),
        threshold=threshold,
        recall=len(similar & found) / max(1, len(similar)),
        recall_by_theory=p_similar / max(1, len(similar)),
        precision=len(similar & found) / max(1, len(found)),
        precision_by_theory=p_similar / sum(p_of.values()),
        n_found=len(found),
        n_background_found=sum(truth.get(pair, 0.0) < _BACKGROUND for pair in found),
    )


def similarities(texts: Sequence[str], n_words: int) -> dict[tuple[int, int], float]:
    """Return the Jaccard similarity of all pairs of texts that share a word run, computed with sets."""
    sets = []
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        words = text.split()
        sets.append({tuple(words[i : i + n_words]) for i in range(len(words) - n_words + 1)})
        for run in sets[-1]:
            holders[run].append(number)
    shared: defaultdict[tuple[int, int], int] = defaultdict(int)
    for numbers in holders.values():
        for pair in combinations(numbers, 2):
            shared[pair] += 1
    return {(a, b): n / (len(sets[a]) + len(sets[b]) - n) for (a, b), n in shared.items()}


def _words(numbers: np.random.RandomState, n: int) -> list[str]:
    return [_word(number) for number in np.minimum(numbers.zipf(1.2, n), 10**6).tolist()]


def _word(number: int) -> str:
    """Return a distinct word for each number, in letters because simplified text has no digits."""
    letters = "w"
    while number:
        number, letter = divmod(number, 26)
        letters += chr(ord("a") + letter)
    return letters


def _changed(words: list[str], similarity: float, n_words: int, numbers: np.random.RandomState) -> list[str]:
    """Return words with some of them replaced, far apart, until the runs have about the similarity."""
    n_runs = len(words) - n_words + 1
    # A replaced word removes n_words runs from both texts: s = (n - k n_words) / (n + k n_words).
    n_replaced = n_runs * (1 - similarity) / (1 + similarity) / n_words
    n_replaced = int(n_replaced) + (numbers.random_sample() < n_replaced % 1)
    changed = list(words)
    if n_replaced:
        step = len(words) / n_replaced
        shift = numbers.randint(n_words, max(n_words + 1, int(step)))
        for i in range(n_replaced):
            changed[min(int(i * step) + shift, len(words) - n_words)] = "new" + _word(numbers.randint(10**9))
    return changed


def _found(texts: Sequence[str], config: MinHashConfig, folder: Path) -> set[tuple[int, int]]:
    bounds = [len(texts) * i // N_SHARDS for i in range(N_SHARDS + 1)]
    files = [folder / f"{i}.keys" for i in range(N_SHARDS)]
    for i, file in enumerate(files):
        write_signatures(texts[bounds[i] : bounds[i + 1]], file, config)
    found = set()
    for bucket in range(config.n_buckets):
        pairs_of_bucket(files, bucket, folder / "pairs")
        for part in read_pairs(folder / "pairs"):
            for first, other in part.tolist():
                found.add(tuple(bounds[name >> 32] + (name & 0xFFFFFFFF) for name in (first, other)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check, print the table, and return exit status 1 if theory does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500, help="pairs at each similarity")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--buckets", type=int, default=14)
    parser.add_argument("--hashes", type=int, default=8)
    parser.add_argument("--family", choices=("pairwise", "datatrove"), default="pairwise")
    options = parser.parse_args(arguments)
    config = MinHashConfig(n_buckets=options.buckets, n_hashes=options.hashes, family=options.family)
    with tempfile.TemporaryDirectory() as folder:
        outcome = check(config, options.pairs, options.seed, Path(folder))
    print(f"{outcome.n_documents:,} documents, {config.n_buckets} buckets of {config.n_hashes}, {config.family}")
    print(f"{'similarity':>10}{'pairs':>7}{'expected':>10}{'found':>7}{'recall':>8}{'theory':>8}{'off by':>9}")
    for level in outcome.levels:
        print(
            f"{level.similarity:10.3f}{level.n_pairs:7}{level.n_expected:10.1f}{level.n_found:7}"
            f"{level.n_found / level.n_pairs:8.3f}{level.n_expected / level.n_pairs:8.3f}{level.off_by:+7.2f} s"
        )
    print(
        f"pairs found: {outcome.n_found:,}, {outcome.n_background_found} of them share hardly a run; "
        f"above {outcome.threshold:.3f}: recall {outcome.recall:.3f} (theory {outcome.recall_by_theory:.3f}), "
        f"precision {outcome.precision:.3f} (theory {outcome.precision_by_theory:.3f})"
    )
    print("theory holds" if outcome.holds else f"BROKEN: a level is off by more than {MAX_DEVIATION} deviations")
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
