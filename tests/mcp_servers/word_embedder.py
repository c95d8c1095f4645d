"""An embedding model of tests: synonyms share a direction, other words have one of their own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SYNONYMS = {"kitten": "cat", "feline": "cat", "automobile": "car", "vehicle": "car", "salary": "wage"}


class WordEmbedder:
    """Sums a fixed random direction for each word; deterministic in every process."""

    def __init__(self, width: int = 96, name: str = "words") -> None:
        self.name = f"{name}@{width}"
        self.width = width
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded += texts
        rows = [self._row(text) for text in texts]
        return np.stack(rows) if rows else np.empty((0, self.width), np.float32)

    def _row(self, text: str) -> NDArray[np.float32]:
        found: list[str] = re.findall(r"\w+", text.lower())
        words = [SYNONYMS.get(word) or word for word in found] or [""]
        total = sum((self._direction(word) for word in words), np.zeros(self.width))
        return (total / np.linalg.norm(total)).astype(np.float32)

    def _direction(self, word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        return np.random.default_rng(seed).standard_normal(self.width)
