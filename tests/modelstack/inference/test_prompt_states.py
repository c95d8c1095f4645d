"""A reply behind a restored state equals one behind an evaluated prompt, bit for bit; other states are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelstack.inference import prompt_states, remembered
from modelstack.inference.engine import GenerateRequest, Generation, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.llama.model import LlamaContext
from modelstack.inference.state_store import StateStore

TEXT = "The quick brown fox jumps over the lazy dog, and then it thinks about what to do next. " * 24
NO_END: frozenset[int] = frozenset({0})


@pytest.fixture(autouse=True)
def files_count_as_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test models were written a moment ago."""
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "prompts", 1 << 26)


def ask(
    path: Path, store: StateStore | None, n_fixed: int = 250, tail: str = "", n_prompt: int = 270, **options: Any
) -> Generation:
    """Ask in a new engine, as a new process would: it shares nothing but the store."""
    defaults: dict[str, Any] = {"n_threads": 1, "n_threads_prefill": 1, "context_window": 512}
    with LlamaCppEngine(path, states=store, **(defaults | options)) as engine:
        ids = engine.vocabulary.encode(TEXT)[:n_prompt] + engine.vocabulary.encode(tail)
        generation = engine.generate(GenerateRequest(ids, 12, fixed_tokens=n_fixed, end_ids=NO_END))
        engine.check_integrity()
    return generation


def same(left: Generation, right: Generation) -> bool:
    return (left.ids, left.logprobs) == (right.ids, right.logprobs)


@pytest.mark.parametrize(
    "options",
    [{}, {"n_batch": 32}, {"kv_type": "f32"}, {"flash_attention": True}],
    ids=["default", "small batches", "f32", "flash attention"],
)
def test_a_second_process_restores_the_fixed_part_and_replies_the_same(
    tiny_gguf: Path, tiny_lora_gguf: Path, store: StateStore, options: dict[str, Any]
) -> None:
    options = {"lora_path": tiny_lora_gguf, **options}
    without = ask(tiny_gguf, None, **options)
    first = ask(tiny_gguf, store, **options)
    assert (first.stats.restored_tokens, first.stats.prefilled_tokens) == (0, 270)
    second = ask(tiny_gguf, store, **options)
    assert second.stats.restored_tokens == second.stats.reused_tokens == 250
    assert second.stats.prefilled_tokens == 20
    assert same(without, first) and same(first, second)
    other = ask(tiny_gguf, store, tail=" Why?", **options)
    assert other.stats.restored_tokens == 250
    assert same(other, ask(tiny_gguf, None, tail=" Why?", **options))


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_the_real_model_replies_the_same(smollm2_gguf: Path, store: StateStore, kv_type: str) -> None:
    options: dict[str, Any] = {"context_window": 256, "n_prompt": 120, "n_fixed": 100, "kv_type": kv_type}
    replies = [ask(smollm2_gguf, store, **options) for _ in range(2)]
    assert [reply.stats.restored_tokens for reply in replies] == [0, 100]
    assert same(*replies)
    options["n_fixed"] = 80
    shorter = ask(smollm2_gguf, store, **options)
    assert shorter.stats.restored_tokens == (80 if kv_type == "f16" else 0)  # q8_0 needs flash attention
    assert same(shorter, ask(smollm2_gguf, None, **options))


def test_sampling_goes_on_from_the_same_probabilities(tiny_gguf: Path, store: StateStore) -> None:
    def sampled() -> Generation:
        with LlamaCppEngine(tiny_gguf, states=store, n_threads=1, n_threads_prefill=1) as engine:
            ids = engine.vocabulary.encode(TEXT)[:200]
            sampling = SamplingParams(temperature=1.2, seed=7)
            return engine.generate(GenerateRequest(ids, 30, fixed_tokens=180, sampling=sampling, end_ids=NO_END))

    first, second = sampled(), sampled()
    assert second.stats.restored_tokens == 180 and same(first, second)


def test_a_prompt_that_is_all_fixed_leaves_one_token_to_evaluate(tiny_gguf: Path, store: StateStore) -> None:
    replies = [ask(tiny_gguf, store, n_fixed=270) for _ in range(2)]
    assert replies[1].stats.restored_tokens == 269 and same(*replies)


# -- a part of what is stored -----------------------------------------------------------------------------------


def test_the_longest_shared_beginning_is_restored_and_the_new_fixed_part_stored(
    tiny_gguf: Path, store: StateStore
) -> None:
    ask(tiny_gguf, store, n_fixed=150)
    longer = ask(tiny_gguf, store, n_fixed=260)
    assert longer.stats.restored_tokens == 150 and same(longer, ask(tiny_gguf, None, n_fixed=260))
    assert store.usage().n_states == 2
    assert ask(tiny_gguf, store, n_fixed=260).stats.restored_tokens == 260


def test_a_fixed_part_that_ends_differently_restores_what_is_the_same(tiny_gguf: Path, store: StateStore) -> None:
    ask(tiny_gguf, store, n_fixed=260)
    options: dict[str, Any] = {
        "n_prompt": 200,
        "tail": " Another ending, with 3 more facts to know.",
        "n_fixed": 206,
    }
    changed = ask(tiny_gguf, store, **options)
    assert changed.stats.restored_tokens == 200 and same(changed, ask(tiny_gguf, None, **options))


def test_where_batch_sizes_change_logits_only_a_whole_fixed_part_is_restored(
    tiny_gguf: Path, store: StateStore
) -> None:
    ask(tiny_gguf, store, n_fixed=150, flash_attention=True)
    longer = ask(tiny_gguf, store, n_fixed=260, flash_attention=True)
    assert longer.stats.restored_tokens == 0 and same(
        longer, ask(tiny_gguf, None, n_fixed=260, flash_attention=True)
    )
    assert ask(tiny_gguf, store, n_fixed=260, flash_attention=True).stats.restored_tokens == 260


# -- what is not stored, or not restored ------------------------------------------------------------------------


def test_a_short_fixed_part_and_a_prompt_without_one_are_not_stored(tiny_gguf: Path, store: StateStore) -> None:
    ask(tiny_gguf, store, n_fixed=0)
    ask(tiny_gguf, store, n_fixed=prompt_states.MIN_FIXED_TOKENS - 1)
    assert store.usage().n_states == 0


def test_beside_another_conversation_nothing_is_stored(tiny_gguf: Path, store: StateStore) -> None:
    with LlamaCppEngine(tiny_gguf, states=store, n_threads=1, n_threads_prefill=1) as engine:
        ids = engine.vocabulary.encode(TEXT)
        engine.generate(GenerateRequest(ids[100:150], 4, conversation="a"))
        engine.generate(GenerateRequest(ids[:200], 4, conversation="b", fixed_tokens=150))
    assert store.usage().n_states == 0


def test_what_memory_holds_is_not_restored_again(tiny_gguf: Path, store: StateStore) -> None:
    ask(tiny_gguf, store, n_fixed=250)
    with LlamaCppEngine(tiny_gguf, states=store, n_threads=1, n_threads_prefill=1, context_window=512) as engine:
        ids = engine.vocabulary.encode(TEXT)[:270]
        restored = [
            engine.generate(GenerateRequest(ids, 2, conversation=name, fixed_tokens=250)).stats
            for name in ("a", "b")
        ]
        engine.check_integrity()
    assert [(stats.restored_tokens, stats.reused_tokens) for stats in restored] == [(250, 250), (0, 269)]


def test_a_cancelled_prompt_is_stored_only_if_its_fixed_part_was_evaluated(
    tiny_gguf: Path, store: StateStore
) -> None:
    for n_answers, n_states in ((3, 0), (9, 1)):
        answers = iter([False] * n_answers + [True] * 99)
        with LlamaCppEngine(tiny_gguf, states=store, n_threads=1, n_threads_prefill=1, n_batch=32) as engine:
            ids = engine.vocabulary.encode(TEXT)[:270]
            request = GenerateRequest(ids, 40, fixed_tokens=200, end_ids=NO_END)
            assert engine.generate(request, cancelled=lambda left=answers: next(left)).finish_reason == "cancelled"
        assert store.usage().n_states == n_states


def differs(path: Path, store: StateStore, **options: Any) -> None:
    """Check that what the store holds is not used, and that the reply is that of an engine without store."""
    generation = ask(path, store, **options)
    assert generation.stats.restored_tokens == 0
    assert same(generation, ask(path, None, **options))


def test_another_adapter_scale_number_format_or_window_evaluates_anew(
    tiny_gguf: Path, tiny_lora_gguf: Path, store: StateStore
) -> None:
    ask(tiny_gguf, store, lora_path=tiny_lora_gguf)
    differs(tiny_gguf, store)
    differs(tiny_gguf, store, lora_path=tiny_lora_gguf, lora_scale=0.5)
    differs(tiny_gguf, store, lora_path=tiny_lora_gguf, kv_type="f32")
    differs(tiny_gguf, store, lora_path=tiny_lora_gguf, flash_attention=True)
    differs(tiny_gguf, store, lora_path=tiny_lora_gguf, context_window=400)
    assert ask(tiny_gguf, store, lora_path=tiny_lora_gguf).stats.restored_tokens == 250
    assert store.usage().n_states == 6


def test_an_adapter_replaced_under_its_name_evaluates_anew(
    tiny_gguf: Path, tiny_lora_gguf: Path, store: StateStore, tmp_path: Path
) -> None:
    from tests.modelstack.inference.tiny_gguf import write_tiny_lora

    adapter = tmp_path / "adapter.gguf"
    shutil.copy(tiny_lora_gguf, adapter)
    ask(tiny_gguf, store, lora_path=adapter)
    write_tiny_lora(adapter, seed=2)
    differs(tiny_gguf, store, lora_path=adapter)


def test_another_build_or_processor_evaluates_anew(
    tiny_gguf: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask(tiny_gguf, store)
    libraries = prompt_states.library_files()
    assert any("llama" in file.name for file in libraries) and any("ggml" in file.name for file in libraries)
    rebuilt = tmp_path / "libllama.so"
    rebuilt.write_bytes(b"another build")
    monkeypatch.setattr(prompt_states, "library_files", lambda: [rebuilt, *libraries[1:]])
    differs(tiny_gguf, store)
    monkeypatch.undo()
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    monkeypatch.setattr(prompt_states, "processor", lambda: "another processor")
    differs(tiny_gguf, store)


def test_a_damaged_file_is_evaluated_anew_and_written_anew(tiny_gguf: Path, store: StateStore) -> None:
    first = ask(tiny_gguf, store)
    [path] = store.folder.glob("*.kv")
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    second = ask(tiny_gguf, store)
    assert second.stats.restored_tokens == 0 and same(first, second)
    assert ask(tiny_gguf, store).stats.restored_tokens == 250


@pytest.mark.parametrize("change", [lambda state: state[:-4], lambda state: state[::-1].copy()])
def test_a_state_that_llama_cpp_refuses_leaves_an_empty_sequence(
    tiny_gguf: Path, store: StateStore, change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the right key with a right hash, whose state is none: written by nobody, and still no crash."""
    first = ask(tiny_gguf, store)
    save = LlamaContext.save
    monkeypatch.setattr(LlamaContext, "save", lambda *arguments: change(save(*arguments)))
    store.clear()
    ask(tiny_gguf, store)
    monkeypatch.undo()
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    assert store.usage().n_states == 1
    second = ask(tiny_gguf, store)
    assert second.stats.restored_tokens == 0 and same(first, second)


def test_a_model_that_was_never_hashed_is_not_hashed_before_its_first_reply(
    tiny_gguf: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    learn = remembered.RememberedFacts.learn_sha256
    monkeypatch.setattr(
        remembered.RememberedFacts, "learn_sha256", lambda *given: heard.append("hashed") or learn(*given)
    )
    with LlamaCppEngine(tiny_gguf, states=store, n_threads=1, n_threads_prefill=1) as engine:
        ids = engine.vocabulary.encode(TEXT)[:200]
        request = GenerateRequest(ids, 3, fixed_tokens=150, end_ids=frozenset({999_999}))
        engine.generate(request, on_tokens=lambda _ids: heard.append("token"))
    assert heard[:3] == ["token"] * 3 and set(heard[3:]) == {"hashed"}


def test_an_engine_without_store_writes_nothing(tiny_gguf: Path, tmp_path: Path) -> None:
    ask(tiny_gguf, None)
    assert list(tmp_path.iterdir()) == []
