"""LlamaCppEngine on a tiny random model: equal to llama-cpp-python's own class, exact cache, clear errors."""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp_servers.distribution import install_command
from modelstack.inference.engine import (
    ContextWindowError,
    EngineError,
    GenerateRequest,
    Generation,
    SamplingParams,
)
from modelstack.inference.llama.engine import LlamaCppEngine
from tests.modelstack.inference.fakes import BracketGrammar, ScriptedGrammar
from tests.modelstack.inference.raw_gguf import RawGGUF
from tests.modelstack.inference.tiny_gguf import TinyShape, write_tiny_gguf

GAP = 1e-3
"""Greedy choices are compared where the two best logits differ by more: sums depend on the batch's size."""
NO_END: frozenset[int] = frozenset({0})


def load(path: Path, **options: Any) -> LlamaCppEngine:
    defaults: dict[str, Any] = {"n_threads": 1, "n_threads_prefill": 1, "kv_type": "f32", "flash_attention": False}
    return LlamaCppEngine(path, **(defaults | options))


@pytest.fixture
def engine(tiny_gguf: Path) -> Iterator[LlamaCppEngine]:
    with load(tiny_gguf) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference(tiny_gguf: Path) -> Any:
    from llama_cpp import Llama

    return Llama(
        str(tiny_gguf), n_ctx=1024, n_threads=1, n_threads_batch=1, type_k=0, type_v=0, flash_attn=False,
        logits_all=True, verbose=False,
    )  # fmt: skip


def reference_logits(reference: Any, ids: list[int]) -> np.ndarray:
    """Logits after every token of `ids`, from llama-cpp-python's own class."""
    reference.reset()
    reference.eval(ids)
    return np.array(reference.scores[: len(ids)], dtype=np.float64)


def prompt_of(engine: LlamaCppEngine, text: str) -> list[int]:
    return engine.encode_template(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")


def test_greedy_tokens_and_logprobs_are_those_of_the_reference(engine: LlamaCppEngine, reference: Any) -> None:
    prompt = prompt_of(engine, "How many lines does todo.md have?")
    generation = engine.generate(GenerateRequest(prompt, 40, end_ids=NO_END))
    logits = reference_logits(reference, prompt + generation.ids)[len(prompt) - 1 : -1]
    forbidden = sorted(engine.vocabulary.special_ids - NO_END)
    log_sums = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    compared = 0
    for token, logprob, row, log_sum in zip(generation.ids, generation.logprobs, logits, log_sums, strict=True):
        assert logprob == pytest.approx(row[token] - log_sum, abs=1e-3)
        row[forbidden] = -np.inf
        best, second = np.sort(row)[::-1][:2]
        if best - second > GAP:
            assert token == int(row.argmax())
            compared += 1
    assert compared > 30


def test_greedy_text_equals_the_high_level_class(engine: LlamaCppEngine, reference: Any) -> None:
    prompt = prompt_of(engine, "The quick brown fox")
    ours = engine.generate(GenerateRequest(prompt, 24)).ids
    reference.reset()
    theirs: list[int] = []
    for token in reference.generate(prompt, temp=0.0, repeat_penalty=1.0, top_k=1):
        if token in engine.vocabulary.end_ids or token in engine.vocabulary.special_ids or len(theirs) == 24:
            break
        theirs.append(token)
    assert ours[: len(theirs)] == theirs
    assert len(theirs) > 5


def test_three_interleaved_conversations_keep_their_caches_over_many_turns(tiny_gguf: Path) -> None:
    with load(tiny_gguf, n_cells=3 * 1024) as engine, load(tiny_gguf, max_conversations=1) as uncached:
        histories: dict[str, list[int]] = {name: [] for name in ("a", "b", "c")}
        evaluated: dict[str, int] = dict.fromkeys(histories, 0)
        for turn in range(20):
            for name, history in histories.items():
                history += prompt_of(engine, f"{name} asks {turn}: read notes/todo.md")
                generation = engine.generate(GenerateRequest(history, 6, conversation=name))
                engine.check_integrity()
                stats = generation.stats
                assert stats.reused_tokens + stats.prefilled_tokens == len(history)
                if turn:
                    assert stats.reused_tokens == evaluated[name]
                uncached.forget("default")
                fresh = uncached.generate(GenerateRequest(history, 6))
                assert fresh.stats.reused_tokens == 0
                assert_same_up_to_ties(generation, fresh)
                history += generation.ids
                # The last token of a reply is evaluated by the next turn, unless an end token was drawn after it.
                evaluated[name] = len(history) - (generation.finish_reason == "length")
                assert engine.cached_tokens[name] == evaluated[name]


def assert_same_up_to_ties(left: Generation, right: Generation) -> None:
    for a, b, logprob_a, logprob_b in zip(left.ids, right.ids, left.logprobs, right.logprobs, strict=False):
        if a != b:
            assert abs(logprob_a - logprob_b) < GAP, "different tokens although neither is close to the other"
            return
        assert logprob_a == pytest.approx(logprob_b, abs=GAP)


def test_a_second_conversation_borrows_the_system_prompt_and_computes_the_same(
    engine: LlamaCppEngine, tiny_gguf: Path
) -> None:
    system = engine.encode_template("<|im_start|>system\nYou may call a tool and then answer please.<|im_end|>\n")
    first, second = system + prompt_of(engine, "yes"), system + prompt_of(engine, "no")
    engine.generate(GenerateRequest(first, 8, conversation="a"))
    generation = engine.generate(GenerateRequest(second, 8, conversation="b"))
    engine.check_integrity()
    assert generation.stats.reused_tokens >= len(system)
    with load(tiny_gguf) as fresh:
        assert_same_up_to_ties(generation, fresh.generate(GenerateRequest(second, 8)))
    again = engine.generate(GenerateRequest(first, 8, conversation="a"))
    assert again.stats.prefilled_tokens == 1


def test_conversations_beyond_the_memory_are_evicted_the_least_recently_used_first(tiny_gguf: Path) -> None:
    with load(tiny_gguf, context_window=256, n_cells=256) as engine:
        prompts = {name: engine.vocabulary.encode(name * 90) for name in "abcdefgh"}
        n_prompt = len(prompts["a"])
        assert 75 < n_prompt < 2 * 256 // 5  # the copies hold at least five conversations, and the cells one more
        for name, ids in prompts.items():
            engine.generate(GenerateRequest(ids, 4, conversation=name))
            engine.check_integrity()
        cached = engine.cached_tokens
        assert list(cached) == list("abcdefgh")[-len(cached) :]
        assert 2 * 256 - n_prompt < sum(cached.values()) - cached["h"] <= 2 * 256
        assert engine.generate(GenerateRequest(prompts["h"], 4, conversation="h")).stats.prefilled_tokens == 1


def test_a_prompt_longer_than_the_window_names_numbers_and_fix(tiny_gguf: Path) -> None:
    with load(tiny_gguf, context_window=64) as engine:
        with pytest.raises(ContextWindowError, match=r"64 tokens.*may hold 64.*context_window"):
            engine.generate(GenerateRequest([20] * 64, 4))
        generation = engine.generate(GenerateRequest([20] * 60, 50, end_ids=NO_END))
        assert len(generation.ids) == 4
        assert generation.finish_reason == "length"
        engine.check_integrity()


def test_fewer_cells_than_the_window_are_named_as_the_reason(tiny_gguf: Path) -> None:
    with (
        load(tiny_gguf, context_window=1024, n_cells=256) as engine,
        pytest.raises(ContextWindowError, match="may hold 256.*n_cells"),
    ):
        engine.generate(GenerateRequest([20] * 300, 4))


def test_a_scripted_grammar_is_followed_token_by_token(engine: LlamaCppEngine) -> None:
    n_vocab = len(engine.vocabulary)
    steps = [[30, 40, 50], [60], [61], list(range(20, 450)), [70, 71]]
    grammar = ScriptedGrammar(steps, n_vocab=n_vocab, choosing=[0])
    prompt = prompt_of(engine, "call a tool")
    generation = engine.generate(GenerateRequest(prompt, 20, grammar=grammar))
    assert generation.finish_reason == "end"
    assert all(token in step for token, step in zip(generation.ids, steps, strict=True))
    assert generation.legal_counts == [3, 1, 1, 430, 2]
    assert generation.choices[0].probabilities.sum() == pytest.approx(1)
    assert generation.stats.forward_calls == 2
    engine.check_integrity()
    assert engine.cached_tokens["default"] == len(prompt) + 4


def test_jump_ahead_and_single_steps_give_the_same_tokens(engine: LlamaCppEngine) -> None:
    steps = [[30, 40, 50], [60], [61], [62], list(range(20, 450)), [70, 71]]
    prompt = prompt_of(engine, "call a tool")
    replies = [
        engine.generate(
            GenerateRequest(
                prompt, 20, grammar=ScriptedGrammar(steps, n_vocab=len(engine.vocabulary)), jump_ahead=jump_ahead
            )
        )
        for jump_ahead in (True, False)
    ]
    assert replies[0].ids == replies[1].ids
    assert replies[0].stats.forward_calls < replies[1].stats.forward_calls


@pytest.mark.parametrize("seed", range(4))
def test_a_small_budget_still_ends_complete(engine: LlamaCppEngine, seed: int) -> None:
    grammar = BracketGrammar()
    request = GenerateRequest(
        prompt_of(engine, "x"),
        9,
        grammar=grammar,
        sampling=SamplingParams(temperature=5, seed=seed),
        end_ids=NO_END,
    )
    generation = engine.generate(request)
    assert grammar.finished
    assert len(generation.ids) <= 9


def test_seeds_reproduce_and_differ(engine: LlamaCppEngine, tiny_gguf: Path) -> None:
    prompt = prompt_of(engine, "dogs")

    def reply(seed: int | None, of: LlamaCppEngine = engine) -> list[int]:
        return of.generate(
            GenerateRequest(prompt, 12, sampling=SamplingParams(temperature=1.5, seed=seed), end_ids=NO_END)
        ).ids

    assert reply(1) == reply(1)
    assert len({tuple(reply(seed)) for seed in range(6)}) > 3
    with load(tiny_gguf, seed=5) as first, load(tiny_gguf, seed=5) as second:
        assert [reply(None, first) for _ in range(3)] == [reply(None, second) for _ in range(3)]


def test_special_tokens_are_never_sampled_without_a_grammar(engine: LlamaCppEngine) -> None:
    prompt = prompt_of(engine, "x")
    for seed in range(10):
        sampling = SamplingParams(temperature=20, seed=seed)
        ids = engine.generate(GenerateRequest(prompt, 40, sampling=sampling)).ids
        assert engine.vocabulary.special_ids.isdisjoint(ids)


def test_an_adapter_changes_logits_and_fingerprint_and_scale_zero_does_not_change_logits(
    engine: LlamaCppEngine, tiny_gguf: Path, tiny_lora_gguf: Path
) -> None:
    request = GenerateRequest(prompt_of(engine, "x"), 8, end_ids=NO_END)
    plain = engine.generate(request)
    with load(tiny_gguf, lora_path=tiny_lora_gguf) as adapted:
        assert adapted.generate(request).logprobs[0] != pytest.approx(plain.logprobs[0], abs=0.01)
        assert adapted.fingerprint != engine.fingerprint
    with load(tiny_gguf, lora_path=tiny_lora_gguf, lora_scale=0.0) as off:
        assert_same_up_to_ties(off.generate(request), plain)


def test_fingerprints_depend_on_the_content_of_the_file(
    engine: LlamaCppEngine, tiny_gguf: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny_gguf.read_bytes())
    with load(copy) as other:
        assert other.fingerprint == engine.fingerprint


def test_cancelling_from_another_thread_stops_and_leaves_the_cache_usable(engine: LlamaCppEngine) -> None:
    prompt = prompt_of(engine, "x")
    started, cancel = threading.Event(), threading.Event()
    canceller = threading.Thread(target=lambda: (started.wait(), cancel.set()))
    canceller.start()

    def hold(_: list[int]) -> None:
        started.set()
        cancel.wait()

    generation = engine.generate(
        GenerateRequest(prompt, 900, end_ids=frozenset({999_999})),
        on_tokens=hold,
        cancelled=cancel.is_set,
    )
    canceller.join()
    assert generation.finish_reason == "cancelled"
    assert len(generation.ids) == 1
    engine.check_integrity()
    assert engine.generate(GenerateRequest(prompt, 3, end_ids=NO_END)).stats.prefilled_tokens == 1


def test_cancelling_between_prompt_batches_keeps_what_was_evaluated(tiny_gguf: Path) -> None:
    with load(tiny_gguf, n_batch=16) as engine:
        answers = iter([False, False, False, True])  # asked before the first step, and before each
        generation = engine.generate(GenerateRequest(list(range(20, 100)), 5), cancelled=lambda: next(answers))
        assert generation.finish_reason == "cancelled"
        assert generation.stats.prefilled_tokens == 32
        assert engine.cached_tokens["default"] == 32
        engine.check_integrity()
        assert engine.generate(GenerateRequest(list(range(20, 100)), 5)).stats.reused_tokens == 32


def test_two_threads_take_turns_and_get_the_replies_they_get_alone(engine: LlamaCppEngine) -> None:
    requests = [
        GenerateRequest(prompt_of(engine, f"question {i}"), 20, conversation=f"c{i}", end_ids=NO_END)
        for i in range(4)
    ]
    alone = [engine.generate(request).ids for request in requests]
    for i in range(4):
        engine.forget(f"c{i}")
    replies: dict[int, list[int]] = {}

    def work(i: int) -> None:
        replies[i] = engine.generate(requests[i]).ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.check_integrity()
    assert [replies[i] for i in range(4)] == alone


def test_a_waiting_call_can_be_cancelled(engine: LlamaCppEngine) -> None:
    outcomes: list[Generation] = []
    prompt = prompt_of(engine, "x")

    def second() -> None:
        outcomes.append(engine.generate(GenerateRequest(prompt, 5, conversation="b"), cancelled=lambda: True))

    def wait_for_second(_: list[int]) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    engine.generate(GenerateRequest(prompt, 1, end_ids=NO_END), on_tokens=wait_for_second)
    assert outcomes[0].finish_reason == "cancelled"
    assert outcomes[0].ids == []


def test_closing_stops_a_running_generation_and_is_idempotent(tiny_gguf: Path) -> None:
    engine = load(tiny_gguf)
    closers: list[threading.Thread] = []

    def close_elsewhere(_: list[int]) -> None:
        if not closers:
            closers.append(threading.Thread(target=engine.close))
            closers[0].start()
            while not engine._closing:
                pass

    generation = engine.generate(
        GenerateRequest([20, 21], 900, end_ids=frozenset({999_999})), on_tokens=close_elsewhere
    )
    closers[0].join()
    assert generation.finish_reason == "cancelled"
    engine.close()


def test_use_after_close_is_a_clear_error(tiny_gguf: Path) -> None:
    engine = load(tiny_gguf)
    vocabulary = engine.vocabulary
    engine.close()
    engine.close()
    for use in (
        lambda: engine.generate(GenerateRequest([20], 1)),
        lambda: engine.forget("default"),
        lambda: engine.encode_template("x"),
        lambda: vocabulary.encode("x"),
    ):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_calling_the_engine_from_its_own_callback_is_refused(engine: LlamaCppEngine) -> None:
    with pytest.raises(EngineError, match="callback"):
        engine.generate(GenerateRequest([20], 4, end_ids=NO_END), on_tokens=lambda _: engine.forget("default"))
    with pytest.raises(EngineError, match="callback"):
        engine.generate(GenerateRequest([20], 4, end_ids=NO_END), on_tokens=lambda _: engine.close())
    engine.check_integrity()


@pytest.mark.parametrize("prompt", [[], [-1], [100_000]], ids=str)
def test_a_prompt_that_is_empty_or_out_of_range_is_refused(engine: LlamaCppEngine, prompt: list[int]) -> None:
    with pytest.raises(EngineError, match=r"empty|outside"):
        engine.generate(GenerateRequest(prompt, 1))


def test_missing_and_damaged_files_are_clear_errors(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no model file"):
        load(tmp_path / "nothing.gguf")
    not_gguf = tmp_path / "page.gguf"
    not_gguf.write_text("<html>404</html>")
    with pytest.raises(EngineError, match="cannot be read as GGUF, in the head"):
        load(not_gguf)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:50_000])
    with pytest.raises(EngineError, match="it is cut off"):
        load(cut)
    with pytest.raises(EngineError, match="general.type is None; a LoRA adapter has 'adapter'"):
        load(tiny_gguf, lora_path=tiny_gguf)
    broken = RawGGUF.read(tiny_gguf)
    broken.set("llama.block_count", 0)
    with pytest.raises(EngineError, match=r"llama\.block_count is 0"):  # llama.cpp would end the process
        load(broken.write(tmp_path / "broken.gguf"))
    without_tokens = RawGGUF.read(tiny_gguf)
    without_tokens.set("tokenizer.ggml.model", "none")
    without_tokens.fields.pop("tokenizer.ggml.tokens")
    with pytest.raises(EngineError, match="has no vocabulary"):  # and here, when asked for a token's text
        load(without_tokens.write(tmp_path / "tokenless.gguf"))


def test_without_llama_cpp_the_error_names_the_extra(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelstack.inference.llama.library import library

    library.cache_clear()
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    with pytest.raises(EngineError, match=re.escape(install_command("local"))):
        load(tiny_gguf)


@pytest.mark.parametrize("option", ["context_window", "n_cells", "n_batch", "max_conversations", "n_threads"])
def test_options_below_one_are_refused(tiny_gguf: Path, option: str) -> None:
    with pytest.raises(EngineError, match=option):
        load(tiny_gguf, **{option: 0})


def test_a_window_beyond_the_models_training_is_refused(tiny_gguf: Path) -> None:
    with pytest.raises(EngineError, match="1024"):
        load(tiny_gguf, context_window=5000)


def test_thread_counts_are_measured_where_not_given_and_leave_the_cache_empty(tiny_gguf: Path) -> None:
    with load(tiny_gguf, n_threads=None, n_threads_prefill=None) as engine:
        assert engine.threads.decode >= 1
        assert engine.threads.prefill >= 1
        engine.check_integrity()
        assert math.isfinite(engine.generate(GenerateRequest([20], 2, end_ids=NO_END)).logprobs[0])


def test_the_real_model_keeps_its_cache_over_turns(smollm2_gguf: Path) -> None:
    with LlamaCppEngine(smollm2_gguf, n_threads=1, n_threads_prefill=1, context_window=512) as engine:
        ids = prompt_of(engine, "What is the capital of France?")
        for _ in range(3):
            generation = engine.generate(GenerateRequest(ids, 8))
            engine.check_integrity()
            assert generation.stats.prefilled_tokens <= 20
            ids += generation.ids + engine.encode_template("<|im_end|>\n") + prompt_of(engine, "And then?")


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("flash_attention", [None, True])
def test_cache_formats_and_flash_attention_compute_nearly_the_same(
    tmp_path: Path, kv_type: str, flash_attention: bool | None
) -> None:
    path = write_tiny_gguf(tmp_path / "wide-heads.gguf", shape=TinyShape(n_heads=2, n_kv_heads=1))
    request = GenerateRequest(list(range(20, 60)), 1, end_ids=NO_END)
    with load(path) as exact, load(path, kv_type=kv_type, flash_attention=flash_attention) as other:
        expected = exact.generate(request).logprobs
        assert other.generate(request).logprobs == pytest.approx(expected, abs=0.2)
