"""Prompts and conversations outlive their process: restored in whole blocks or evaluated again, equal replies."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from modelstack.inference.engine import GenerateRequest, Generation
from modelstack.inference.state_store import StateStore
from modelstack.inference.torch.engine import TorchEngine
from modelstack.inference.torch.packing import Numbers
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer
from tests.modelstack.inference.torch_engines import FAMILIES, engine_of, greedy, model_of, prompt_of, request

N_FIXED = 80


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "prompts")


def asked(number: int = 0, n_prompt: int = 90, n_fixed: int = N_FIXED) -> GenerateRequest:
    """Return a request whose prompt begins with the fixed tokens of number 0."""
    prompt = prompt_of(0, n_fixed) + prompt_of(number + 50, n_prompt - n_fixed)
    return request(prompt, 5, fixed_tokens=n_fixed)


def reply(store: StateStore, asked_for: GenerateRequest, name: str = "llama", **options: int) -> Generation:
    """Return the reply of a new engine."""
    with engine_of(name, store=store, **options) as engine:
        found = engine.generate(asked_for)
        engine.check_integrity()
        return found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_engine_restores_the_whole_blocks_of_a_fixed_part_and_writes_the_same(
    name: str, store: StateStore
) -> None:
    first, second = reply(store, asked(), name), reply(store, asked(1), name)
    assert (first.stats.restored_tokens, first.stats.reused_tokens) == (0, 0)
    assert (second.stats.restored_tokens, second.stats.reused_tokens) == (N_FIXED, N_FIXED)
    assert second.stats.prefilled_tokens == 90 - N_FIXED
    assert second.ids == greedy(name, list(asked(1).prompt_ids), 5)
    assert reply(store, asked(1), name, block_tokens=8).stats.restored_tokens == N_FIXED


def test_a_prefix_is_used_as_far_as_it_agrees(store: StateStore) -> None:
    reply(store, asked())
    prompt = list(asked().prompt_ids)
    prompt[70] += 1
    other = request(prompt, 5, fixed_tokens=N_FIXED)
    found = reply(store, other)
    assert found.stats.restored_tokens == 68  # whole blocks of four
    assert found.ids == greedy("llama", prompt, 5)
    assert reply(store, other).stats.restored_tokens == N_FIXED  # it was stored, too


def turn(store: StateStore, tokens: list[int], n_new: int = 57) -> tuple[Generation, list[int]]:
    """Return the reply of a new engine to a conversation with a new message, and the conversation after it."""
    prompt = tokens + prompt_of(len(tokens), n_new)
    found = reply(store, request(prompt, 9, fixed_tokens=64), stores_conversations=True)
    assert found.ids == greedy("llama", prompt, 9)
    return found, prompt + found.ids


def test_a_conversation_goes_on_in_a_new_engine_and_each_turn_stores_what_is_new(store: StateStore) -> None:
    first, tokens = turn(store, prompt_of(0, 64))
    assert first.stats.restored_tokens == 0
    assert store.usage().n_states == 2  # the fixed part, and a piece of the turn
    second, tokens = turn(store, tokens)
    assert (len(tokens), second.stats.restored_tokens) == (196, 128)  # whole blocks of four that were evaluated
    assert store.usage().n_states == 3
    third, _ = turn(store, tokens, 50)
    assert third.stats.restored_tokens == 192
    assert store.usage().n_states == 3  # too little is new
    other = request(prompt_of(0, 64) + prompt_of(1, 20), 5, fixed_tokens=64)
    assert reply(store, other).stats.restored_tokens == 64


def test_a_conversation_that_was_changed_is_restored_up_to_the_change(store: StateStore) -> None:
    _, tokens = turn(store, prompt_of(0, 64))
    _, tokens = turn(store, tokens)
    tokens[158] += 1  # in the second piece, which then adds less than is worth a file
    assert turn(store, tokens, 50)[0].stats.restored_tokens == 128
    tokens[100] += 1  # in the first one; the second is that of another conversation
    assert turn(store, tokens, 50)[0].stats.restored_tokens == 64


def test_a_piece_that_is_gone_ends_the_restored_part(store: StateStore) -> None:
    _, tokens = turn(store, prompt_of(0, 64))
    _, tokens = turn(store, tokens)
    kept = [(file, file.read_bytes()) for file in store.folder.glob("*.kv")]
    n_restored: list[int] = []
    for missing, _ in kept:
        store.clear()
        for file, content in kept:
            if file != missing:
                file.write_bytes(content)
                file.chmod(0o600)
        n_restored.append(turn(store, tokens, 50)[0].stats.restored_tokens)
    assert sorted(n_restored) == [0, 64, 128]


def test_engines_with_other_blocks_store_their_own_pieces(store: StateStore) -> None:
    prompt = prompt_of(0, 100)

    def restored(block_tokens: int) -> int:
        found = reply(store, request(prompt, 9), stores_conversations=True, block_tokens=block_tokens)
        assert found.ids == greedy("llama", prompt, 9)
        return found.stats.restored_tokens

    assert restored(12) == 0  # stores 108 tokens, which are no whole blocks of 16
    assert [restored(16), restored(16), restored(12)] == [0, 96, 96]


def test_pieces_for_which_there_are_too_few_blocks_are_evaluated(store: StateStore) -> None:
    _, tokens = turn(store, prompt_of(0, 64))
    _, tokens = turn(store, tokens)
    with engine_of(store=store, stores_conversations=True, n_cached_tokens=264) as engine:
        running = engine.submit(request(prompt_of(7, 90), 20))
        engine.step()
        late = engine.submit(request([*tokens, 5], 5, fixed_tokens=64))
        while not (running.is_done and late.is_done):
            engine.step()
            engine.check_integrity()
        assert late.result().stats.restored_tokens == 128
        assert late.result().ids == greedy("llama", [*tokens, 5], 5)


def test_tokens_that_the_cache_holds_are_not_restored_again(store: StateStore) -> None:
    with engine_of(store=store) as engine:
        engine.generate(asked())
        found = engine.generate(asked(1))
        assert (found.stats.restored_tokens, found.stats.reused_tokens) == (0, N_FIXED)
    assert store.usage().n_states == 1


@pytest.mark.parametrize("numbers", ["float", "int8"])
def test_other_weights_and_other_numbers_find_nothing(numbers: Numbers, store: StateStore) -> None:
    def owned(numbers: Numbers, scale: float = 1.0) -> Generation:
        model = copy.deepcopy(model_of("llama"))
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(scale)
        with TorchEngine(
            model, toy_chat_tokenizer(), owns_model=True, numbers=numbers, store=store, seed=0, block_tokens=4
        ) as engine:
            return engine.generate(asked())

    first = owned(numbers)
    assert owned("int8" if numbers == "float" else "float").stats.restored_tokens == 0
    assert owned(numbers, 1.01).stats.restored_tokens == 0
    again = owned(numbers)
    assert again.stats.restored_tokens == N_FIXED
    assert again.ids == first.ids


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_a_miss_and_is_replaced(damage: str, store: StateStore) -> None:
    reply(store, asked())
    (file,) = store.folder.glob("*.kv")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes({"cut": content[:-1], "changed": content, "empty": b""}[damage])
    found = reply(store, asked(1))
    assert found.stats.restored_tokens == 0
    assert found.ids == greedy("llama", list(asked(1).prompt_ids), 5)
    assert reply(store, asked(1)).stats.restored_tokens == N_FIXED


def test_a_store_that_cannot_be_written_changes_no_reply(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("a file in the place of the folder", encoding="utf-8")
    assert reply(StateStore(tmp_path / "prompts"), asked()).ids == greedy("llama", list(asked().prompt_ids), 5)
    small = StateStore(tmp_path / "small", max_bytes=100)
    assert reply(small, asked()).ids == greedy("llama", list(asked().prompt_ids), 5)
    assert small.usage().n_states == 0


def test_blocks_of_running_requests_are_left_alone(store: StateStore) -> None:
    reply(store, asked())
    with engine_of(store=store, n_cached_tokens=120) as engine:
        running = engine.submit(request(prompt_of(7, 90), 20))
        engine.step()  # it holds most blocks, so nothing can be restored beside it
        late = engine.submit(asked(1))
        while not (running.is_done and late.is_done):
            engine.step()
            engine.check_integrity()
        assert late.result().stats.restored_tokens == 0
        assert running.result().ids == greedy("llama", prompt_of(7, 90), 20)
        assert late.result().ids == greedy("llama", list(asked(1).prompt_ids), 5)


def test_short_fixed_parts_are_not_stored(store: StateStore) -> None:
    reply(store, asked(n_fixed=60))
    assert store.usage().n_states == 0
