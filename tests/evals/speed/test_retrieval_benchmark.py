"""The measurement of retrieval on few passages: the index is whole, the recall exact, and a kill loses nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evals.speed import retrieval, retrieval_vectors
from evals.speed.retrieval import exact_ids, lost_by_a_kill, mean_recall, measured
from evals.speed.retrieval_vectors import chosen_passages, vectors_of
from tests.mcp_servers.word_embedder import WordEmbedder


def test_figures_of_few_passages_are_complete(tmp_path: Path) -> None:
    embedder = WordEmbedder()
    passages = [f"passage number{number} of topic{number % 7}" for number in range(700)]
    queries = [f"number{number} topic{number % 7}" for number in range(0, 700, 50)]
    vectors, asked = embedder.embed(passages), embedder.embed(queries)
    figures, (compared,) = measured(tmp_path, passages, queries, vectors, asked, with_peer=False)
    values = {figure.name: figure for figure in figures}
    assert values["recall at 10"].value >= 0.98 and values["recall at 10"].holds
    assert {f"{mode}, p{share}" for mode in retrieval.MODES for share in (50, 99)} <= set(values)
    assert set(compared.values) == {"agentkit", "numpy, exact"}


def test_recall_is_the_share_of_the_exact_neighbours() -> None:
    vectors = np.eye(32, dtype=np.float32)
    (exact,) = exact_ids(vectors, np.arange(32, dtype=np.float32)[None])
    assert exact == set(range(22, 32))
    assert mean_recall([exact, exact], [sorted(exact), sorted(exact)[:5]]) == 0.75


def test_a_killed_writer_and_another_one_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "KILL_PASSAGES", 300)
    monkeypatch.setattr(retrieval, "KILL_AFTER_S", 0.0)
    figure = lost_by_a_kill()
    assert figure.value == 0 and figure.holds


def test_vectors_are_embedded_once_in_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = WordEmbedder()
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(retrieval_vectors, "minilm", lambda: embedder)
    monkeypatch.setattr(retrieval_vectors, "SHARD", 4)
    texts = [f"text{number}" for number in range(10)]
    vectors = vectors_of(texts, "passages", 5)
    assert vectors.shape == (5, 96) and sorted(embedder.embedded) == sorted(texts[:8])
    np.testing.assert_allclose(vectors_of(texts, "passages"), embedder.embed(texts), atol=1e-3)
    assert sorted(embedder.embedded) == sorted([*texts, *texts])


def test_passages_and_queries_are_different_sentences() -> None:
    passages, queries = chosen_passages()
    assert (len(passages), len(queries)) == (100_000, 1_000)
    assert len({*passages, *queries}) == 101_000
