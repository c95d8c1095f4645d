"""An embedder whose directions are known: a text has the vector of the topics that it names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOPICS = {
    "drink": ("tea", "coffee", "thirsty", "beverage"),
    "pet": ("dog", "cat", "animal"),
    "place": ("berlin", "city", "live"),
    "work": ("nurse", "job", "profession"),
}


class TopicEmbedder:
    """Embeds texts by topic; words of one topic are near each other without sharing a letter."""

    def __init__(self, name: str = "topics-1") -> None:
        self.name = name
        self.width = len(TOPICS)
        self.n_texts = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.n_texts += len(texts)
        rows = [[sum(word in text.lower() for word in words) for words in TOPICS.values()] for text in texts]
        vectors = np.asarray(rows, np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
