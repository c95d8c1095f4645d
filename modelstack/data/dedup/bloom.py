"""Paragraphs and documents whose runs of words were mostly seen before, by a Bloom filter: DCLM's BFF.

One pass, no files: a table of bits of a size chosen beforehand, and each text is asked about and entered in turn
(Li et al. 2024, arXiv 2406.11794; `process_line_oldboth` of its tool). A paragraph goes if more than 0.8 of its
runs of 13 words are there, a document if more than 0.8 of all its runs are. A run is taken for seen that was not
with the probability given (0.01) once as many are in as expected. Words are parted by white space here, by
Unicode's word borders there.
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
    """Repeated paragraphs and documents by runs of words (DCLM, arXiv 2406.11794)."""

    kind: Literal["bloom"] = "bloom"
    n_words: int = Field(default=13, ge=1)
    """Of a run; a shorter paragraph has none and stays."""
    threshold: float = Field(default=0.8, ge=0, lt=1)
    """With a larger share of seen runs, a paragraph or a document goes."""
    false_positive_rate: float = Field(default=0.01, gt=0, lt=1)
    n_expected_runs: int = Field(ge=1)
    """About one a word of the corpus; 1.2 bytes of memory each at a rate of 0.01."""

    @property
    def n_bits(self) -> int:
        """Return the size of the table: n ln(1/p) / (ln 2)^2, in whole bytes."""
        bits = math.ceil(self.n_expected_runs * math.log(1 / self.false_positive_rate) / math.log(2) ** 2)
        return (bits + 7) // 8 * 8

    @property
    def n_probes(self) -> int:
        """Return how many bits a run has: n_bits/n ln 2."""
        return max(1, round(self.n_bits / self.n_expected_runs * math.log(2)))


class BloomFilter:
    """Which runs of words were seen."""

    def __init__(self, config: BloomConfig) -> None:
        """Begin with none.

        Raises:
            UserError: There is no memory for the table.
        """
        self.config = config
        try:
            self._bytes = np.zeros(config.n_bits // 8, np.uint8)
        except MemoryError as error:
            raise UserError(
                f"a Bloom filter for {config.n_expected_runs:,} runs takes {config.n_bits // 8:,} bytes; "
                f"expect fewer, in several filters, or allow more false positives"
            ) from error
        self.n_runs = 0
        """Runs entered; past `n_expected_runs` the rate of false positives grows."""

    def without_seen(self, text: str) -> str | None:
        """Return a text without its paragraphs seen before, None where the whole was; enter what was not."""
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
        """Return whether each run was seen."""
        places = self._places(hashes)
        return np.asarray(((self._bytes[places >> 3] >> (places & 7).astype(np.uint8)) & 1).all(axis=0))

    def add(self, hashes: np.ndarray) -> None:
        """Enter runs."""
        places = self._places(hashes)
        np.bitwise_or.at(self._bytes, places >> 3, np.uint8(1) << (places & 7).astype(np.uint8))
        self.n_runs += len(hashes)

    def _places(self, hashes: np.ndarray) -> np.ndarray:
        # Kirsch and Mitzenmacher 2006: two hashes make as many as are wanted.
        steps = mixed(hashes.copy()) | np.uint64(1)
        probes = hashes + np.arange(self.config.n_probes, dtype=np.uint64)[:, None] * steps
        return (probes % np.uint64(self.config.n_bits)).astype(np.int64)
