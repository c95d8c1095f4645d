"""Search among 100,000 passages by words, by meaning and by both: milliseconds, recall, and what a kill loses.

The passages are sentences of the shipped corpus, embedded by all-MiniLM-L6-v2 (`evals.speed.retrieval_vectors`
keeps the vectors; the first run takes about 15 minutes on an idle core). The queries are other sentences of the
same documents. A search opens its connection, ranks, and reads the texts of ten passages; embedding the query is
measured apart. Recall is the share of the ten nearest vectors of an exact comparison (float32) that are found. The
peer is sqlite-vec, which compares the query with all vectors.

Two processes embed one index and one of them is killed (kill -9); then a third process completes it. Nothing may
be missing, or be there twice.

    OMP_NUM_THREADS=1 python -m evals.speed.retrieval [--passages 100000] [--queries 300] [--no-peer]
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evals.speed.machine import peak_bytes
from evals.speed.peers import peer_python, printed_by
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.retrieval_vectors import chosen_passages, vectors_of
from mcp_servers.search.finding import Place
from mcp_servers.search.folder_index import FolderIndex, open_folder
from mcp_servers.search.fusion import Mode
from mcp_servers.search.index import IndexedFile, put_file
from mcp_servers.search.passages import Passage
from mcp_servers.search.policy import Limits
from mcp_servers.search.queries import parse_query
from mcp_servers.search.visible import visible
from modelstack.inference.minilm import minilm

MODULE = "evals.speed.retrieval"
PEERS = ("apsw==3.54.1.0", "numpy>=2,<3", "sqlite-vec==0.1.9")
T = TypeVar("T")
R = TypeVar("R")
TOP = 10
MODES: tuple[Mode, ...] = ("lexical", "vector", "hybrid")
PASSAGES_PER_FILE = 100
MIN_RECALL = 0.98
KILL_PASSAGES = 3_000
KILL_AFTER_S = 1.5
N_EMBEDDED_QUERIES = 50


class KnownVectors:
    """An embedding model that looks its texts up, so that the index is measured and not the model."""

    def __init__(self, name: str, vectors: dict[str, NDArray[np.float32]]) -> None:
        self.name = name
        self.width = len(next(iter(vectors.values())))
        self._vectors = vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._vectors[text] for text in texts])


def main() -> int:
    """Measure, print, and return 1 if a figure is outside its bound, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--no-peer", action="store_true", help="leave out sqlite-vec")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "INDEX"), help=argparse.SUPPRESS)
    add_result_option(parser)
    options = parser.parse_args()
    if options.child:
        embed_slowly(*options.child)
        return 0
    passages, queries = chosen_passages()
    vectors_ND = vectors_of(passages, "passages", options.passages)
    queries_QD = vectors_of(queries, "queries", options.queries)
    passages = [visible(text) for text in passages[: options.passages]]  # as the index holds them
    queries = queries[: options.queries]
    with tempfile.TemporaryDirectory() as folder:
        figures, comparisons = measured(
            Path(folder), passages, queries, vectors_ND, queries_QD, not options.no_peer
        )
    figures += [Figure("embedding of a query, p50", query_ms(queries), "ms"), lost_by_a_kill()]
    figures.append(Figure("peak memory of the measuring process", peak_bytes() / 1e6, "MB"))
    for figure in figures:
        print(f"{figure.name}: {figure.value:.4g} {figure.unit}")
    for comparison in comparisons:
        print(f"{comparison.title}: {json.dumps(comparison.values)} {comparison.unit}")
    parameters = {"passages": str(len(passages)), "queries": str(len(queries)), "model": minilm().name}
    return finish(options.result, BenchmarkResult(tuple(figures), tuple(comparisons), parameters=parameters))


def measured(
    folder: Path,
    passages: list[str],
    queries: list[str],
    vectors_ND: NDArray[np.float32],
    queries_QD: NDArray[np.float32],
    with_peer: bool,
) -> tuple[list[Figure], list[Comparison]]:
    """Return the figures of one index, and the comparison with the peer."""
    read = [parse_query(query).text for query in queries]
    vectors = dict(zip([*passages, *read], [*vectors_ND, *queries_QD], strict=True))
    index = filled_index(folder, passages, KnownVectors("known", vectors))
    figures = [Figure("index file", (folder / "index.db").stat().st_size / 1e6, "MB")]
    exact = exact_ids(vectors_ND, queries_QD)
    medians = dict[str, float]()
    started = time.perf_counter()
    index.passages(parse_query(queries[0]), Place(), TOP, "vector", index.background.state)
    figures.append(Figure("first search by meaning of a process", (time.perf_counter() - started) * 1e3, "ms"))
    for mode in MODES:
        times, found = timed(lambda text, mode=mode: texts_found(index, text, mode), queries)
        medians[mode] = float(np.percentile(times, 50))
        figures += [Figure(f"{mode}, p{share}", float(np.percentile(times, share)), "ms") for share in (50, 99)]
        if mode == "vector":
            numbers = {text: number for number, text in enumerate(passages)}
            recall = mean_recall(exact, [[numbers[text] for text in texts] for texts in found])
            figures.append(Figure(f"recall at {TOP}", recall, "", bound=MIN_RECALL, bound_kind="at least"))
    index.close()
    times, _ = timed(
        lambda number: np.argpartition(-(vectors_ND @ queries_QD[number]), TOP)[:TOP], range(len(queries))
    )
    values = {"agentkit": medians["vector"], "numpy, exact": float(np.percentile(times, 50))}
    if with_peer:
        np.save(folder / "vectors.npy", vectors_ND, allow_pickle=False)
        np.save(folder / "queries.npy", queries_QD, allow_pickle=False)
        python = peer_python(Path(".venv-peers-retrieval"), PEERS)
        peer = printed_by(python, "evals.speed.retrieval_peers", str(folder))
        values["sqlite-vec"] = float(np.percentile(peer["ms"], 50))
        figures.append(Figure("sqlite-vec, p99", float(np.percentile(peer["ms"], 99)), "ms"))
        figures.append(Figure(f"sqlite-vec, recall at {TOP}", mean_recall(exact, peer["found"]), ""))
    return figures, [Comparison("search by meaning, p50", "ms", "agentkit", values)]


def filled_index(folder: Path, passages: list[str], embedder: KnownVectors) -> FolderIndex:
    """Return an index of the passages, with all vectors; its folder has no files."""
    (folder / "files").mkdir()
    opened = open_folder(
        str(folder / "files"), index=str(folder / "index.db"), embedder=embedder, limits=Limits(search_s=60.0)
    )
    for start in range(0, len(passages), PASSAGES_PER_FILE):
        rows = [
            Passage(0, n, n, "", text) for n, text in enumerate(passages[start : start + PASSAGES_PER_FILE], 1)
        ]
        with opened.index.writing() as connection:
            put_file(connection, IndexedFile(f"f{start}.txt", "txt", f"1:{start}:1", True, "whole", "", rows))
    assert opened.embedding is not None
    opened.embedding.run_one(0)
    while (state := opened.embedding.wait_idle(60)).is_running:
        print(f"vectors stored: {state.done:.0f} of {state.total}", flush=True)
    if state.failure:
        raise RuntimeError(state.failure)
    with closing(sqlite3.connect(folder / "index.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return opened


def texts_found(index: FolderIndex, query: str, mode: Mode) -> list[str]:
    """Return the texts of the best passages."""
    state = index.background.state
    return [each.text for each in index.passages(parse_query(query), Place(), TOP, mode, state)]


def timed(call: Callable[[T], R], inputs: Sequence[T]) -> tuple[list[float], list[R]]:
    """Return the milliseconds and the result of each call."""
    times, results = list[float](), list[R]()
    for each in inputs:
        started = time.perf_counter()
        results.append(call(each))
        times.append((time.perf_counter() - started) * 1e3)
    return times, results


def exact_ids(vectors_ND: NDArray[np.float32], queries_QD: NDArray[np.float32]) -> list[set[int]]:
    """Return the nearest vectors of each query by an exact comparison."""
    return [set(np.argpartition(-(vectors_ND @ query), TOP)[:TOP].tolist()) for query in queries_QD]


def mean_recall(exact: Sequence[set[int]], found: Sequence[Sequence[int]]) -> float:
    """Return the mean share of the exact neighbours that were found."""
    return float(np.mean([len(wanted & set(ids)) / TOP for wanted, ids in zip(exact, found, strict=True)]))


def query_ms(queries: Sequence[str]) -> float:
    """Return the median milliseconds of embedding one query."""
    model = minilm()
    times, _ = timed(lambda text: model.embed([text]), queries[:N_EMBEDDED_QUERIES])
    return float(np.percentile(times, 50))


class SlowVectors:
    """Vectors that depend on the text alone, in every process; it takes as long as a small model."""

    name, width = "slow", 64

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        time.sleep(0.002 * len(texts))
        rows = [np.random.default_rng(list(text.encode())).standard_normal(self.width) for text in texts]
        return np.asarray([row / np.linalg.norm(row) for row in rows], np.float32)


def embed_slowly(folder: str, index: str) -> None:
    """Index and embed a folder until it is complete."""
    opened = open_folder(folder, index=index, embedder=SlowVectors())
    opened.background.run_one(600)
    assert opened.embedding is not None
    opened.embedding.wait_idle(600)
    opened.close()


def lost_by_a_kill() -> Figure:
    """Return the number of passages that two writers, one of them killed, and a third run lose or store twice."""
    with tempfile.TemporaryDirectory() as name:
        folder, index = Path(name) / "files", Path(name) / "index.db"
        folder.mkdir()
        for number in range(KILL_PASSAGES):
            (folder / f"{number}.txt").write_text(f"passage {number}\n", encoding="utf-8")
        command = [sys.executable, "-m", MODULE, "--child", str(folder), str(index)]
        first, second = (subprocess.Popen(command) for _ in range(2))
        while not index.exists() or not _count(index, "SELECT count(*) FROM vectors"):
            time.sleep(0.05)
        time.sleep(KILL_AFTER_S)
        first.send_signal(signal.SIGKILL)
        first.wait()
        at_kill = _count(index, "SELECT count(*) FROM vectors")
        second.wait()
        subprocess.run(command, check=True)
        lost = KILL_PASSAGES - _count(index, "SELECT count(DISTINCT passage_id) FROM vectors")
        twice = _count(index, "SELECT count(*) FROM vectors") - (KILL_PASSAGES - lost)
        print(json.dumps({"vectors at the kill": at_kill, "lost": lost, "twice": twice}))
        is_whole = _text(index, "PRAGMA integrity_check") == "ok" and first.returncode == -signal.SIGKILL
        return Figure("passages lost or doubled after kill -9", lost + twice + (not is_whole), "", bound=0)


def _count(index: Path, sql: str) -> int:
    try:
        return int(_text(index, sql))
    except sqlite3.OperationalError:  # the tables are not there yet
        return 0


def _text(index: Path, sql: str) -> str:
    with closing(sqlite3.connect(index, timeout=60)) as connection:
        return str(connection.execute(sql).fetchone()[0])


if __name__ == "__main__":
    sys.exit(main())
