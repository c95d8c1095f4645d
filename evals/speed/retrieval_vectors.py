"""Passages of the shipped corpus and their vectors, for the measurement of retrieval: embedded once, resumable.

100,000 sentences of the corpus and 1,000 others as queries are chosen by a seed and embedded by all-MiniLM-L6-v2.
On one core that takes about 15 minutes. Finished shards are kept in the cache, so a killed run continues.

    OMP_NUM_THREADS=1 nice -n 15 python -m evals.speed.retrieval_vectors
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelstack.cache_folder import cache_dir
from modelstack.data.shipped_corpus import domain_file
from modelstack.inference.minilm import minilm
from modelstack.zstd_files import open_unpacked

DOMAINS = ("textbooks", "definitions", "howto", "prose", "codedocs", "math", "dialogues", "stories")
"""Domains in the order in which sentences are taken, so that few come from the uniform stories."""
N_PASSAGES, N_QUERIES = 100_000, 1_000
SHARD = 2_000
MIN_CHARS, MAX_CHARS = 40, 240
"""Characters of a passage: sentences of about 27 tokens, so that embedding all of them takes minutes."""
SEED = 7
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def chosen_passages() -> tuple[list[str], list[str]]:
    """Return the passages, and other sentences of the same documents as queries."""
    found = dict[str, None]()
    for domain in DOMAINS:
        for text in _texts(domain):
            for sentence in _SENTENCE_END.split(text):
                clean = " ".join(sentence.split())
                if MIN_CHARS <= len(clean) <= MAX_CHARS:
                    found[clean] = None
        if len(found) >= 2 * (N_PASSAGES + N_QUERIES):
            break
    chosen = random.Random(SEED).sample(list(found), min(len(found), N_PASSAGES + N_QUERIES))
    return chosen[N_QUERIES:], chosen[:N_QUERIES]


def _texts(domain: str) -> Iterator[str]:
    with open_unpacked(domain_file(domain)) as lines:
        for line in lines:
            yield json.loads(line)["text"]


def vectors_of(texts: list[str], label: str, count: int | None = None) -> NDArray[np.float32]:
    """Return the vectors of the first `count` texts [N, D]; None: of all. Whole shards are embedded and kept."""
    count = len(texts) if count is None else count
    embedder = minilm()
    folder = cache_dir() / "evals" / "retrieval" / re.sub(r"\W+", "-", embedder.name)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {start: folder / f"{label}-{SEED}-{start}.npy" for start in range(0, count, SHARD)}
    for start in random.sample(sorted(paths), len(paths)):  # so that several processes share the work
        if not paths[start].exists():
            _write(paths[start], embedder.embed(texts[start : start + SHARD]).astype(np.float16))
            print(f"{label}: {sum(path.exists() for path in paths.values())} of {len(paths)} parts", flush=True)
    vectors = np.concatenate([np.load(path, allow_pickle=False) for path in paths.values()])[:count].astype(
        np.float32
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _write(path: Path, array: NDArray[np.float16]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(temporary, path)


def main() -> None:
    """Embed what is not in the cache yet."""
    passages, queries = chosen_passages()
    print(f"{len(passages)} passages, {len(queries)} queries")
    vectors_of(queries, "queries")
    vectors_of(passages, "passages")


if __name__ == "__main__":
    main()
