"""CPU time to search, recall, write and forget memories, beside other users with as many.

A user has N memories of about 15 words, and so has each of four other users of the file. Words follow Zipf's law
over 5,000 words; a query is a prompt of 12 words, two of them rare ones of one memory. Vectors have 384 numbers,
like those of all-MiniLM-L6-v2; here they are random, because their comparison is measured, not the encoder. CPU
time includes worker threads, and not the wait for the disk. The matches by meaning are compared with an exhaustive
search by numpy.

    python -m evals.speed.memory [--sizes 1000 10000 50000] [--queries 100]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from numpy.typing import NDArray

from agentkit import Memory, RunContext
from agentkit.memory import SQLiteMemoryStore
from agentkit.memory.embedding import MIN_COSINE, nearest
from agentkit.memory.sqlite_format import scope_word, text_key
from evals.speed.results import BenchmarkResult, Curves, Figure, add_result_option, finish

SIZES = (1_000, 10_000, 50_000)
WIDTH, N_WORDS, N_USERS = 384, 5_000, 5
BOUND_AT, BOUND_MS = 10_000, 100.0
"""Promise: with so many memories of its user, recall costs a new run at most this CPU time (95th percentile)."""
USER = "user0"


class RandomVectors:
    """Gives each text a random vector of length 1, always the same."""

    name, width = "random-384", WIDTH

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors, [N, width]."""
        rows = [np.random.default_rng(list(text_key(text))).normal(size=WIDTH) for text in texts]
        vectors = np.asarray(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def texts_of(n: int, seed: int) -> list[str]:
    """Return different texts of about 15 words, whose last two are rare."""
    chance = random.Random(seed)
    common = [f"word{number}" for number in range(N_WORDS)]
    weights = [1 / rank for rank in range(1, N_WORDS + 1)]
    return [
        " ".join([*chance.choices(common, weights, k=13), f"rare{number}x{seed}", f"seldom{number}x{seed}"])
        for number in range(n)
    ]


def fill(path: Path, texts: dict[str, list[str]]) -> None:
    """Write the memories of all users in one transaction; `add` would wait for the disk after each."""
    embedder = RandomVectors()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("INSERT INTO embedder VALUES (1, ?, ?)", (embedder.name, embedder.width))
        number = 10
        for user, own in texts.items():
            vectors = embedder.embed(own)
            for text, vector in zip(own, vectors, strict=True):
                number += 1
                row = (number, f"m{number}", user, text, text_key(text), "fact", time.time(), 0, "application")
                columns = "number, id, user, text, text_key, kind, created, tainted, origin"
                file.execute(f"INSERT INTO memories({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
                words = (number, text, scope_word(user))
                file.execute("INSERT INTO memory_words(rowid, text, scope) VALUES (?, ?, ?)", words)
                file.execute("INSERT INTO vectors VALUES (?, ?)", (number, vector.astype("<f4").tobytes()))


async def timed(work: Callable[[str], Awaitable[object]], inputs: Sequence[str]) -> list[float]:
    """Return the CPU milliseconds of each piece of work, worker threads included."""
    found: list[float] = []
    for each in inputs:
        started = time.process_time()
        await work(each)
        found.append(1e3 * (time.process_time() - started))
    return found


async def measured(folder: Path, n: int, n_queries: int) -> dict[str, list[float]]:
    """Return the milliseconds of each operation with `n` memories of each user."""
    path = folder / f"{n}.db"
    await SQLiteMemoryStore(path).list(None)
    texts = {f"user{seed}": texts_of(n, seed) for seed in range(N_USERS)}
    fill(path, texts)
    chance = random.Random(n)
    queries = []
    for text in chance.sample(texts[USER], n_queries):
        words = text.split()
        queries.append(" ".join(["What", "is", "known", "of", *words[:6], *words[-2:]]))
    by_words = SQLiteMemoryStore(path, max_per_user=10**6)
    by_both = SQLiteMemoryStore(path, embedder=RandomVectors(), max_per_user=10**6)
    memory, context = Memory(by_both), RunContext(deps=None, user=USER)
    found = {
        "search by words": await timed(lambda query: by_words.search(USER, query), queries),
        "search by words and meaning": await timed(lambda query: by_both.search(USER, query), queries),
        "recall for a new run": await timed(lambda query: memory.additions(context, query), queries),
        "add": await timed(lambda text: by_both.add(USER, text), texts_of(20, 99)),
        "forget": await timed(lambda id: by_both.forget(USER, id), [f"m{number}" for number in range(20, 25)]),
    }
    for store in (by_words, by_both):
        store.close()
    return found


def share_found(n: int, n_queries: int) -> float:
    """Return the share of the ten exact nearest vectors that the search returns."""
    embedder, texts = RandomVectors(), texts_of(n, 0)
    vectors = embedder.embed(texts)
    rows = [(number, vector.astype("<f4").tobytes()) for number, vector in enumerate(vectors)]
    n_same = 0
    for text in texts[:n_queries]:
        query = vectors[texts.index(text)] + 0.05 * embedder.embed([text[::-1]])[0]
        query = (query / np.linalg.norm(query)).astype("<f4")
        exact = np.argsort(-(vectors.astype(np.float64) @ query.astype(np.float64)))[:10]
        near = [int(number) for number in exact if vectors[number] @ query >= MIN_COSINE]
        n_same += nearest(query.tobytes(), rows, 10) == near
    return n_same / n_queries


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--queries", type=int, default=100)
    add_result_option(parser)
    options = parser.parse_args(argv)
    sizes, figures = tuple(sorted(options.sizes)), list[Figure]()
    lines: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            print(f"{n:,} memories of each of {N_USERS} users:")
            for name, ms in asyncio.run(measured(Path(folder), n, options.queries)).items():
                slowest = quantiles(ms, n=20)[-1]
                print(f"  {name:30} median {median(ms):7.1f} ms, 95th percentile {slowest:7.1f} ms")
                lines.setdefault(name, []).append(median(ms))
                bound = BOUND_MS if (name, n) == ("recall for a new run", BOUND_AT) else None
                figures.append(Figure(f"{name}, {n:,} memories, 95th percentile", slowest, "ms", bound=bound))
    share = share_found(min(sizes[-1], BOUND_AT), min(options.queries, 50))
    print(f"queries whose nearest memories are those of an exhaustive search: {share:.0%}")
    figures.append(
        Figure("queries answered as by an exhaustive search", share, "", bound=1.0, bound_kind="at least")
    )
    curves = Curves(
        "operations on memories",
        "memories of the user",
        "median CPU time (ms)",
        tuple(map(float, sizes)),
        {name: tuple(values) for name, values in lines.items()},
        ours="recall for a new run",
    )
    parameters = {"queries": str(options.queries), "users": str(N_USERS), "width": str(WIDTH)}
    return finish(options.result, BenchmarkResult(tuple(figures), curves=(curves,), parameters=parameters))


if __name__ == "__main__":
    sys.exit(main())
