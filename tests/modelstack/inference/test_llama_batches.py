"""Many sequences in one pass of llama.cpp, adapters swapped on a live context, tokens drawn for many rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelstack.inference.engine import EngineError
from modelstack.inference.llama.batch import SequencePart
from modelstack.inference.llama.model import LlamaContext, LlamaWeights
from modelstack.inference.row_sampling import BLOCK, draw_rows
from tests.modelstack.inference.tiny_gguf import TinyShape, write_tiny_gguf, write_tiny_lora

N_VOCAB = TinyShape.n_vocab
PROMPTS = ([5, 9, 3, 7], [40, 41], [300, 2, 8, 8, 100, 17])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batches")
    write_tiny_gguf(folder / "base.gguf")
    write_tiny_lora(folder / "one.gguf", seed=1)
    write_tiny_lora(folder / "two.gguf", seed=2)
    return folder


@pytest.fixture
def weights(folder: Path) -> Iterator[LlamaWeights]:
    weights = LlamaWeights(folder / "base.gguf")
    yield weights
    weights.free()


@pytest.fixture
def context(weights: LlamaWeights) -> Iterator[LlamaContext]:
    context = LlamaContext(weights, n_cells=256, n_sequences=4, n_batch=32, kv_type="f32")
    yield context
    context.free()


def logits_alone(context: LlamaContext, ids: list[int]) -> np.ndarray:
    """Return the logits after a sequence that nothing else is beside."""
    assert context.evaluate(ids, position=0, sequence=3, want_logits=1) == 0
    found = context.logits().copy()
    context.remove(3, 0)
    return found


def test_tokens_of_several_sequences_in_one_pass_are_as_each_alone(context: LlamaContext) -> None:
    tokens = [11, 22, 33]
    expected = [logits_alone(context, [*ids, token]) for ids, token in zip(PROMPTS, tokens, strict=True)]
    for sequence, ids in enumerate(PROMPTS):
        context.evaluate(ids, position=0, sequence=sequence, want_logits=1)
    parts = [SequencePart(n, len(PROMPTS[n]), [token]) for n, token in enumerate(tokens)]
    assert context.evaluate_parts(parts) == 0
    np.testing.assert_allclose(context.logits_of_rows(3), expected, atol=1e-4)
    # In another order, and not all of them.
    for sequence, ids in enumerate(PROMPTS):
        context.remove(sequence, len(ids))
    assert context.evaluate_parts([parts[2], parts[0]]) == 0
    np.testing.assert_allclose(context.logits_of_rows(2), [expected[2], expected[0]], atol=1e-4)


def test_parts_of_several_tokens_have_their_own_positions_and_logits(context: LlamaContext) -> None:
    expected = [logits_alone(context, ids) for ids in PROMPTS]
    parts = [SequencePart(n, 0, ids, int(n != 1)) for n, ids in enumerate(PROMPTS)]
    assert context.evaluate_parts(parts) == 0
    np.testing.assert_allclose(context.logits_of_rows(2), [expected[0], expected[2]], atol=1e-4)
    np.testing.assert_allclose(context.logits(len(PROMPTS[0]) - 1), expected[0], atol=1e-4)
    np.testing.assert_allclose(context.logits(sum(map(len, PROMPTS)) - 1), expected[2], atol=1e-4)
    assert [context.extent(n)[1] + 1 for n in range(3)] == [len(ids) for ids in PROMPTS]


def test_tokens_that_do_not_fit_are_refused_before_c_sees_them(context: LlamaContext) -> None:
    with pytest.raises(ValueError, match="has 33 tokens; its capacity is 32"):
        context.evaluate_parts([SequencePart(0, 0, [1] * 30), SequencePart(1, 0, [1] * 3)])


def test_a_swapped_adapter_computes_as_one_that_was_loaded_with_the_model(
    folder: Path, weights: LlamaWeights, context: LlamaContext
) -> None:
    plain = logits_alone(context, PROMPTS[0])
    before = None
    for name in ("one.gguf", "two.gguf", "one.gguf"):
        adapter = weights.load_adapter(folder / name)
        context.put_on(adapter)
        if before is not None:
            weights.free_adapter(before)
        before = adapter
        fresh = LlamaWeights(folder / "base.gguf", folder / name)
        other = LlamaContext(fresh, n_cells=256, n_sequences=4, n_batch=32, kv_type="f32")
        found = logits_alone(context, PROMPTS[0])
        np.testing.assert_array_equal(found, logits_alone(other, PROMPTS[0]))
        assert np.abs(found - plain).max() > 0.1
        other.free()
        fresh.free()


def test_a_file_that_is_no_adapter_is_refused_and_the_model_stays(folder: Path, weights: LlamaWeights) -> None:
    with pytest.raises(EngineError, match="a LoRA adapter has 'adapter'"):
        weights.load_adapter(folder / "base.gguf")
    assert weights.load_adapter(folder / "one.gguf")


@pytest.mark.parametrize("n_vocab", [7, BLOCK, 3 * BLOCK + 5])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_drawn_token_is_where_the_cumulated_distribution_passes_its_number(
    n_vocab: int, temperature: float
) -> None:
    rng = np.random.default_rng(n_vocab)
    logits = (3 * rng.normal(size=(500, n_vocab))).astype(np.float32)
    uniforms = rng.random(500)
    given = logits.copy()
    tokens, log_probs = draw_rows(logits, temperature, uniforms)
    p = np.exp(logits.astype(np.float64) / temperature)
    p /= p.sum(axis=1, keepdims=True)
    ends = p.cumsum(axis=1)[np.arange(500), tokens]
    starts = ends - p[np.arange(500), tokens]
    assert ((starts - 1e-6 <= uniforms) & (uniforms <= ends + 1e-6)).all()
    np.testing.assert_allclose(log_probs, np.log(p[np.arange(500), tokens]), atol=1e-5)
    assert np.array_equal(logits, given)


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1, 0)])
def test_tokens_without_a_weight_are_never_drawn(uniform: float) -> None:
    logits = np.full((1, 2 * BLOCK + 10), -np.inf, dtype=np.float32)
    logits[0, [BLOCK + 3, BLOCK + 9]] = 1.0
    tokens, log_probs = draw_rows(logits, 1.0, np.array([uniform]))
    assert tokens[0] == (BLOCK + 3 if uniform == 0 else BLOCK + 9)
    assert log_probs[0] == pytest.approx(np.log(0.5))


def test_zero_temperature_is_the_most_probable_token() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    tokens, log_probs = draw_rows(logits, 0.0, np.full(4, 0.99))
    assert tokens.tolist() == logits.argmax(axis=1).tolist()
    assert np.exp(log_probs) == pytest.approx(np.exp(logits.max(1)) / np.exp(logits).sum(1), rel=1e-5)


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(EngineError, match="not finite"):
        draw_rows(np.array([[0.0, np.nan]], dtype=np.float32), 1.0, np.array([0.5]))
