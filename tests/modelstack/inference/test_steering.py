"""Steering: both engines add the same vectors, states after it are shown, and cached states do not mix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs torch (extra `train`)")
pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")

from modelstack.architecture.gguf.load import load_gguf
from modelstack.inference.engine import EngineError, GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.steering import Steering
from modelstack.inference.torch.engine import TorchEngine
from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields

AnyEngine = LlamaCppEngine | TorchEngine
WIDTH, LAYER = 64, 1
"""Width and last layer of `tiny_gguf`, which has two."""


def loaded(kind: str, path: Path, **options: Any) -> AnyEngine:
    if kind == "torch":
        return TorchEngine.load(path, context_window=256, **options)
    return LlamaCppEngine(path, n_threads=1, n_threads_prefill=1, context_window=256, **options)


@pytest.fixture(params=["llama.cpp", "torch"])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def vector(scale: float, seed: int = 0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).normal(size=WIDTH)).astype(np.float32)


def scores(engine: AnyEngine) -> NDArray[np.float64]:
    """Return the log-probability of each token of the vocabulary after a text."""
    ids, n = engine.vocabulary.encode("The quick brown fox jumps over the lazy dog"), len(engine.vocabulary)
    (top,) = engine.generate(GenerateRequest(ids, 1, n_top_logprobs=n)).top_logprobs
    found = np.full(n, np.nan)
    for token, logprob in top:
        found[token] = logprob
    return found


def test_a_vector_changes_what_follows_and_zeros_do_not(kind: str, tiny_gguf: Path) -> None:
    found = []
    for steering in (None, Steering({LAYER: vector(0)}), Steering({LAYER: vector(5)})):
        with loaded(kind, tiny_gguf, steering=steering) as engine:
            found.append(scores(engine))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    assert np.abs(found[2] - found[0]).max() > 0.1


def test_both_engines_are_steered_alike(tiny_gguf: Path) -> None:
    found = []
    for each in ("llama.cpp", "torch"):
        with loaded(each, tiny_gguf, steering=Steering({LAYER: vector(5)})) as engine:
            found.append(scores(engine))
    np.testing.assert_allclose(found[0], found[1], atol=0.05)


def test_a_steered_model_has_a_fingerprint_of_its_own(kind: str, tiny_gguf: Path) -> None:
    prints = set()
    for steering in (None, Steering({LAYER: vector(1)}), Steering({LAYER: vector(1, seed=1)})):
        with loaded(kind, tiny_gguf, steering=steering) as engine:
            prints.add(engine.fingerprint)
    assert len(prints) == 3


def test_a_torch_model_is_as_before_once_the_engine_is_closed(tiny_gguf: Path) -> None:
    with loaded("torch", tiny_gguf) as plain:
        expected = scores(plain)
    made = load_gguf(tiny_gguf)
    tokenizer = tokenizer_from_fields(made.tokenizer, tiny_gguf)
    with TorchEngine(made.model, tokenizer, context_window=256, steering=Steering({LAYER: vector(5)})) as engine:
        assert np.abs(scores(engine) - expected).max() > 0.1
    with TorchEngine(made.model, tokenizer, context_window=256) as engine:
        np.testing.assert_allclose(scores(engine), expected, atol=1e-4)


def test_vectors_that_fit_no_layer_are_refused_by_name(kind: str, tiny_gguf: Path) -> None:
    for layer in (0, 2):
        with pytest.raises(EngineError, match=f"steering names layer {layer}; .* layers 1 to 1"):
            loaded(kind, tiny_gguf, steering=Steering({layer: vector(1)}))
    with pytest.raises(EngineError, match="has 8 numbers, the model's states 64"):
        loaded(kind, tiny_gguf, steering=Steering({LAYER: np.ones(8, np.float32)}))
    with pytest.raises(EngineError, match="without vectors"):
        Steering({})
    with pytest.raises(EngineError, match="finite"):
        Steering({1: np.array([np.nan], np.float32)})
