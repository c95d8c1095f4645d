"""Log-likelihoods: equal to llama-cpp-python's own logits, cut at the right token, each token counted once."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.inference.engine import ContextWindowError, EngineError, GenerateRequest
from modelstack.inference.llama.decode_thread import DecodeThread
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.scoring import (
    continuation_logprob,
    continuation_logprobs,
    document_logprobs,
    document_start,
    encode_pair,
    given_batches,
    log_probability,
    rolling_windows,
)

PASSAGE = (
    "The quick brown fox jumps over the lazy dog. How many lines does todo.md have? There are 42 lines. "
    "You may call a tool and then answer please. Bonjour, où est la bibliothèque? "
)


def load(path: Path, **options: Any) -> LlamaCppEngine:
    defaults: dict[str, Any] = {"n_threads": 1, "n_threads_prefill": 1, "kv_type": "f32", "flash_attention": False}
    return LlamaCppEngine(path, **(defaults | options))


def llama(path: Path, n_ctx: int) -> Any:
    from llama_cpp import Llama

    return Llama(
        str(path), n_ctx=n_ctx, n_threads=1, n_threads_batch=1, type_k=0, type_v=0, flash_attn=False,
        logits_all=True, verbose=False,
    )  # fmt: skip


@pytest.fixture
def engine(tiny_gguf: Path) -> Iterator[LlamaCppEngine]:
    with load(tiny_gguf) as engine:
        yield engine


def reference_logprobs(reference: Any, ids: list[int]) -> list[tuple[float, bool]]:
    """(log-probability, greedy) of ids[1:], from llama-cpp-python's own class and a plain log-softmax."""
    reference.reset()
    evaluate = DecodeThread(reference.eval)  # other tests of this process compute in bfloat16
    evaluate(ids)
    evaluate.close()
    scores = np.array(reference.scores[: len(ids)], dtype=np.float64)
    found = []
    for row, token in zip(scores, ids[1:], strict=False):
        shifted = row - row.max()
        found.append((float(shifted[token] - np.log(np.exp(shifted).sum())), int(row.argmax()) == token))
    return found


def test_scores_are_those_of_the_reference_whatever_is_cached(engine: LlamaCppEngine, tiny_gguf: Path) -> None:
    reference = llama(tiny_gguf, 1024)
    ids = engine.vocabulary.encode(PASSAGE * 4)
    expected = reference_logprobs(reference, ids)
    assert len(ids) > 150
    for n_context in (1, 2, 70, len(ids) - 1):  # also with what the calls before left in the cache
        scores = engine.score_tokens(ids, n_context)
        engine.check_integrity()
        assert scores.logprobs == pytest.approx([logprob for logprob, _ in expected[n_context - 1 :]], abs=1e-4)
        assert list(scores.greedy) == [greedy for _, greedy in expected[n_context - 1 :]]


def test_the_real_model_scores_as_llama_cpp_python_does(smollm2_gguf: Path) -> None:
    with load(smollm2_gguf, context_window=256) as engine:
        context, rest = encode_pair(engine.vocabulary, "The capital of France is", " Paris, a city on the Seine.")
        expected = reference_logprobs(llama(smollm2_gguf, 256), context + rest)[len(context) - 1 :]
        scores = engine.score_tokens(context + rest, len(context))
        assert scores.logprobs == pytest.approx([logprob for logprob, _ in expected], abs=1e-3)
        best = continuation_logprobs(engine, "The capital of France is", [" Paris", " Madrid", " purple"])
        assert best[0].logprob > best[1].logprob > best[2].logprob
        assert best[0].is_greedy


def test_greedy_is_what_the_engine_generates(engine: LlamaCppEngine) -> None:
    prompt = engine.vocabulary.encode("How many lines")
    written = engine.generate(GenerateRequest(prompt, 6, end_ids=frozenset({0}))).ids
    score = continuation_logprob(engine, prompt, written)
    assert score.n_tokens == len(written)
    assert score.is_greedy or set(written) & engine.vocabulary.special_ids
    other = [*written[:-1], (written[-1] + 1) % len(engine.vocabulary)]
    assert not continuation_logprob(engine, prompt, other).is_greedy


def test_continuations_of_one_context_evaluate_it_once(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_evaluated: list[int] = []
    evaluate = engine._context.evaluate_parts

    def counting(parts: Any) -> int:
        n_evaluated.extend(len(part.ids) for part in parts)
        return evaluate(parts)

    monkeypatch.setattr(engine._context, "evaluate_parts", counting)
    continuations = [" yes", " no thank you", " a question?"]
    pairs = [encode_pair(engine.vocabulary, PASSAGE, text) for text in continuations]
    together = continuation_logprobs(engine, PASSAGE, continuations)
    n_context = len(pairs[0][0])
    # The first pays for the context, each for its own tokens less the last and for one of the context.
    assert sum(n_evaluated) == n_context - 1 + sum(len(rest) for _, rest in pairs)
    for (context, rest), score in zip(pairs, together, strict=True):
        engine.forget("score")
        assert continuation_logprob(engine, context, rest).logprob == pytest.approx(score.logprob, abs=1e-4)


def test_spaces_before_the_border_belong_to_the_continuation(engine: LlamaCppEngine) -> None:
    vocabulary = engine.vocabulary
    with_space = encode_pair(vocabulary, "The quick ", "brown fox")
    assert with_space == encode_pair(vocabulary, "The quick", " brown fox")
    assert vocabulary.decode(with_space[1]) == " brown fox"
    assert vocabulary.decode(with_space[0] + with_space[1]) == "The quick brown fox"


@settings(deadline=None)  # the first example loads the tokenizer
@given(st.text(max_size=20), st.text(min_size=1, max_size=10))
def test_every_token_is_context_or_continuation(context: str, continuation: str) -> None:
    vocabulary = _vocabulary()
    ids, rest = encode_pair(vocabulary, context, continuation)
    assert ids and rest
    whole = vocabulary.encode(context + continuation)
    assert [*ids, *rest] in (whole, [document_start(vocabulary), *whole])


def _vocabulary() -> Any:
    from modelstack.tokenizer.vocabulary import Vocabulary
    from tests.modelstack.inference.tiny_gguf import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    n = tokenizer.get_vocab_size()
    tokens = tuple((tokenizer.id_to_token(i) or "").encode() for i in range(n))
    return Vocabulary(tokens, frozenset({0, 1, 2}), (2, 0), lambda text: tokenizer.encode(text).ids)


def test_a_text_without_context_follows_the_token_that_ends_documents(engine: LlamaCppEngine) -> None:
    vocabulary = engine.vocabulary
    assert vocabulary.token_bytes[document_start(vocabulary)] == b"<|endoftext|>"
    assert encode_pair(vocabulary, "", "fox")[0] == [document_start(vocabulary)]
    assert encode_pair(vocabulary, "  ", "fox")[0] == [document_start(vocabulary)]
    with pytest.raises(ValueError, match="empty continuation"):
        encode_pair(vocabulary, "fox", "")


def test_a_context_too_long_is_cut_on_its_left(tiny_gguf: Path) -> None:
    with load(tiny_gguf, context_window=32) as engine:
        ids = engine.vocabulary.encode(PASSAGE * 3)
        score = continuation_logprob(engine, ids[:60], ids[60:65])
        same = continuation_logprob(engine, ids[32:60], ids[60:65])
        assert score.logprob == pytest.approx(same.logprob, abs=1e-5)
        with pytest.raises(ContextWindowError, match="39 tokens.*may hold 32"):
            continuation_logprob(engine, ids[:1], ids[1:40])
        with pytest.raises(EngineError, match="at least one token"):
            continuation_logprob(engine, [], ids[:2])


def test_arguments_that_make_no_sense_are_refused(engine: LlamaCppEngine) -> None:
    for ids, n_context in (([20, 21], 0), ([20, 21], 2), ([], 0), ([20, 10**6], 1)):
        with pytest.raises(EngineError):
            engine.score_tokens(ids, n_context)


def test_a_cancelled_scoring_says_so_and_leaves_the_cache_whole(tiny_gguf: Path) -> None:
    with load(tiny_gguf, n_batch=16) as engine:
        ids = engine.vocabulary.encode(PASSAGE)
        answers = iter([False, False, True])
        with pytest.raises(EngineError, match="cancelled"):
            engine.score_tokens(ids, 1, cancelled=lambda: next(answers))
        engine.check_integrity()
        assert engine.cached_tokens["score"] == 32


def test_threads_take_turns(engine: LlamaCppEngine) -> None:
    ids = engine.vocabulary.encode(PASSAGE)
    alone = engine.score_tokens(ids, 1).logprobs
    engine.forget("score")
    found: dict[int, tuple[float, ...]] = {}

    def work(i: int) -> None:
        found[i] = engine.score_tokens(ids, 1, conversation=f"thread {i}").logprobs

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for logprobs in found.values():
        assert logprobs == pytest.approx(alone, abs=1e-4)


def test_a_document_within_the_window_is_scored_like_one_sequence(engine: LlamaCppEngine) -> None:
    ids = [document_start(engine.vocabulary), *engine.vocabulary.encode(PASSAGE)]
    assert document_logprobs(engine, PASSAGE) == pytest.approx(engine.score_tokens(ids, 1).logprobs, abs=1e-5)
    assert document_logprobs(engine, "") == []


def test_a_longer_document_is_scored_with_the_context_that_the_stride_leaves(engine: LlamaCppEngine) -> None:
    ids = [document_start(engine.vocabulary), *engine.vocabulary.encode(PASSAGE)]
    logprobs = document_logprobs(engine, PASSAGE, window=16, stride=4)
    assert len(logprobs) == len(ids) - 1
    for position in (1, 10, 17, 33, len(ids) - 1):
        begin = next(s for s, first, stop in rolling_windows(len(ids), 16, 4) if first <= position < stop)
        expected = engine.score_tokens(ids[begin : position + 1], position - begin).logprobs[-1]
        assert logprobs[position - 1] == pytest.approx(expected, abs=1e-4)
    for window, stride in ((0, 1), (8, 9), (8, 0), (5000, 1)):
        with pytest.raises(ValueError, match="stride"):
            document_logprobs(engine, PASSAGE, window=window, stride=stride)


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_windows_score_each_token_once_and_fit(n_tokens: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    scored: list[int] = []
    for start, first, stop in rolling_windows(n_tokens, window, stride):
        assert stop - start - 1 <= window
        assert start < first < stop
        assert start == 0 or first - start >= window + 1 - stride
        scored += range(first, stop)
    assert scored == list(range(1, n_tokens))


@given(st.integers(1, 300), st.integers(1, 100), st.data())
def test_batches_evaluate_each_token_that_is_not_cached_once(
    n_tokens: int, n_batch: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, n_tokens - 1))
    n_cached = data.draw(st.integers(0, first))
    position = n_cached
    for start, end, is_read in given_batches(n_cached, first, n_tokens, n_batch):
        assert start == position < end <= start + n_batch
        assert is_read == (start >= first)
        position = end
    assert position == n_tokens


def test_a_log_probability_is_the_log_softmax() -> None:
    logits = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    total = math.log(sum(math.exp(x) for x in logits))
    assert log_probability(logits, 2) == (pytest.approx(2 - total), False)
    assert log_probability(logits, 1) == (pytest.approx(3 - total), True)
