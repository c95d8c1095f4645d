"""Removal of paragraphs and documents already seen, with a Bloom filter (DCLM's BFF).

One pass without files: a bit table of fixed size, in which each text is looked up and then inserted (Li et al.
2024, arXiv 2406.11794; `process_line_oldboth` of their tool). A paragraph is removed if more than 0.8 of its runs
of 13 words were seen, a document if more than 0.8 of all its runs were. Once the expected number of runs is
inserted, the false positive rate is the configured one (0.01). Words are split at white space; BFF splits at
Unicode word boundaries.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from modelstack.data.dedup.shingles import mixed, shingle_hashes
from modelstack.data.dedup.simplify import words_apart
from modelstack.errors import UserError


class BloomConfig(BaseModel, frozen=True, extra="forbid"):
    """Repeated paragraphs and documents, detected by word runs (DCLM, arXiv 2406.11794)."""

    kind: Literal["bloom"] = "bloom"
    n_words: int = Field(default=13, ge=1)
    """Words per run; a shorter paragraph has no run and is kept."""
    threshold: float = Field(default=0.8, ge=0, lt=1)
    """Share of seen runs above which a paragraph or document is removed."""
    false_positive_rate: float = Field(default=0.01, gt=0, lt=1)
    n_expected_runs: int = Field(ge=1)
    """Expected number of runs, about one per word of the corpus; 1.2 bytes of memory each at a rate of 0.01."""

    @property
    def n_bits(self) -> int:
        """Size of the table in bits: n ln(1/p) / (ln 2)^2, rounded up to whole bytes."""
        bits = math.ceil(self.n_expected_runs * math.log(1 / self.false_positive_rate) / math.log(2) ** 2)
        return (bits + 7) // 8 * 8

    @property
    def n_probes(self) -> int:
        """Bits set per run: n_bits / n_expected_runs * ln 2."""
        return max(1, round(self.n_bits / self.n_expected_runs * math.log(2)))


class BloomFilter:
    """Set of seen word runs."""

    def __init__(self, config: BloomConfig) -> None:
        """Start empty.

        Raises:
            UserError: There is not enough memory for the table.
        """
        self.config = config
        try:
            self._bytes = np.zeros(config.n_bits // 8, np.uint8)
        except MemoryError as error:
            raise UserError(
                f"a Bloom filter for {config.n_expected_runs:,} runs takes {config.n_bits // 8:,} bytes; "
                f"expect fewer runs (use several filters), or allow a higher false positive rate"
            ) from error
        self.n_runs = 0
        """Runs inserted; beyond `n_expected_runs` the false positive rate grows."""

    def without_seen(self, text: str) -> str | None:
        """Return a text without its seen paragraphs, None if all of it was seen; insert the unseen runs."""
        paragraphs = text.split("\n")
        kept: list[str] = []
        n_all = n_seen = 0
        for paragraph in paragraphs:
            parts = list(shingle_hashes(words_apart(paragraph), self.config.n_words))
            hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
            seen = self.contains(hashes)
            n_all += len(seen)
            n_seen += int(seen.sum())
            if seen.sum() <= self.config.threshold * len(seen):
                self.add(hashes[~seen])
                kept.append(paragraph)
        return None if n_seen > self.config.threshold * n_all else "\n".join(kept)

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Return for each run whether it was seen."""
        places = self._places(hashes)
        return np.asarray(((self._bytes[places >> 3] >> (places & 7).astype(np.uint8)) & 1).all(axis=0))

    def add(self, hashes: np.ndarray) -> None:
        """Insert runs."""
        places = self._places(hashes)
        np.bitwise_or.at(self._bytes, places >> 3, np.uint8(1) << (places & 7).astype(np.uint8))
        self.n_runs += len(hashes)

    def _places(self, hashes: np.ndarray) -> np.ndarray:
        # Kirsch and Mitzenmacher 2006: two hashes generate any number of hash functions.
        steps = mixed(hashes.copy()) | np.uint64(1)
        probes = hashes + np.arange(self.config.n_probes, dtype=np.uint64)[:, None] * steps
        return (probes % np.uint64(self.config.n_bits)).astype(np.int64)
