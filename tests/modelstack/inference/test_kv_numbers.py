"""A cache in fewer bits: rounded once per token, so no batch, chunk, hit, preemption or restart changes a reply.

Models are in fp64: in fp32 the order of a sum could carry a value over the border between two codes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.architecture.attention import grouped
from modelstack.architecture.attention.latent import LatentAttention
from modelstack.architecture.attention.softmax import softmax_attention
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.decoder import CausalLM
from modelstack.inference.engine import EngineError, GenerateRequest, Generation
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.state_store import StateStore
from modelstack.inference.torch.batch_adapters import LowRank
from modelstack.inference.torch.engine import TorchEngine
from modelstack.inference.torch.kv_numbers import (
    Int8Numbers,
    KVNumbers,
    KVType,
    RotatedInt4Numbers,
    hadamard,
    latent_numbers,
    layer_numbers,
    packed_pairs,
    unpacked_pairs,
)
from modelstack.inference.torch.stream_batch import StreamBatch, token_bytes
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer, toy_config, toy_model
from tests.modelstack.inference.stepping import run
from tests.modelstack.inference.torch_engines import FAMILIES, OTHERS, model_of, prompt_of, request

KV_TYPES: tuple[KVType, ...] = ("int8", "k8v4")
FEW_BITS = pytest.mark.parametrize("kv_type", KV_TYPES)
LATENTS = "deepseek-v3"


def types_and_models(*names: str) -> list[tuple[KVType, str]]:
    """Return the types in few bits with the models that can have them."""
    return [(kv_type, name) for kv_type in KV_TYPES for name in names if (kv_type, name) != ("k8v4", LATENTS)]


@cache
def precise_model(name: str) -> CausalLM:
    return copy.deepcopy(model_of(name)).double()


@pytest.fixture(autouse=True)
def grouped_products_in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let experts compute in fp64, which torch's grouped product does not take."""

    def product(x_SD: Tensor, weight_EDI: Tensor, *, offs: Tensor) -> Tensor:
        starts = [0, *offs.tolist()]
        parts = [x_SD[starts[n] : starts[n + 1]] @ weight for n, weight in enumerate(weight_EDI)]
        return torch.cat(parts)

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", product)


def engine_with(kv_type: KVType, name: str = "llama", **options: Any) -> TorchEngine:
    given: dict[str, Any] = {"block_tokens": 4, "seed": 0} | options
    return TorchEngine(precise_model(name), toy_chat_tokenizer(), kv_type=kv_type, **given)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both_numbers(head_dim: int) -> Sequence[KVNumbers]:
    return Int8Numbers(head_dim, torch.float32), int4(head_dim)


def int4(head_dim: int) -> RotatedInt4Numbers:
    return RotatedInt4Numbers(head_dim, torch.float32, torch.device("cpu"))


def rounded(numbers: KVNumbers, x: Tensor) -> Tensor:
    """Return keys or values as the cache keeps them, with their channels where they were."""
    return numbers.restored(numbers.decoded(numbers.encoded(x)))


latents_of = LatentAttention._latents


@contextmanager
def rounding(model: CausalLM, kv_type: KVType) -> Iterator[None]:
    """Round the keys and values, or the latents, of the model's own passes."""
    numbers = layer_numbers(model, kv_type)

    def latents(layer: LatentAttention, x_BTD: Tensor, context: ForwardContext) -> Tensor:
        new = latents_of(layer, x_BTD, context)
        return rounded(latent_numbers(model, kv_type), new[0].transpose(0, 1)).transpose(0, 1)[None]

    def attention(q: Tensor, k: Tensor, v: Tensor, **keys: Any) -> Tensor:
        k, v = (
            rounded(each, x[0].transpose(0, 1)).transpose(0, 1)[None]
            for each, x in ((numbers.keys, k), (numbers.values, v))
        )
        return softmax_attention(q, k, v, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped, "softmax_attention", attention)
        patch.setattr(LatentAttention, "_latents", latents)
        yield


@cache
def expected(kv_type: KVType, name: str, prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """Return the greedy reply by whole passes whose keys and values are rounded."""
    model, ids = precise_model(name), list(prompt)
    tokenizer = toy_chat_tokenizer()
    with rounding(model, kv_type), torch.no_grad():
        for _ in range(max_tokens):
            logits_V = model(torch.tensor([ids])).logits_BTV[0, -1, : len(tokenizer.vocabulary)]
            logits_V[sorted(tokenizer.vocabulary.special_ids)] = -torch.inf
            ids.append(int(logits_V.argmax()))
    return ids[len(prompt) :]


def test_two_codes_in_a_byte_come_back_in_order() -> None:
    first, second = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    codes = torch.stack((first, second), -1).flatten(-2).to(torch.uint8)  # [16, 32]: all pairs
    pairs = packed_pairs(codes)
    assert pairs.shape == (16, 16) and len(pairs.unique()) == 256
    assert torch.equal(unpacked_pairs(pairs), codes)
    assert torch.equal(packed_pairs(unpacked_pairs(pairs)), pairs)


@pytest.mark.parametrize("n", [8, 16, 64, 128])
def test_the_rotation_is_its_own_inverse_and_keeps_products(n: int) -> None:
    rotation = hadamard(n).double()
    torch.testing.assert_close(rotation @ rotation, torch.eye(n, dtype=torch.float64), atol=1e-6, rtol=0)
    q, k = normal(5, n).double(), normal(7, n, seed=1).double()
    torch.testing.assert_close((q @ rotation) @ (k @ rotation).T, q @ k.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head_dim", [16, 24, 64, 80, 128])
def test_rounding_moves_a_value_by_at_most_half_a_step(head_dim: int) -> None:
    x = normal(50, 2, head_dim) * torch.logspace(-3, 3, 50)[:, None, None]
    for numbers in both_numbers(head_dim):
        parts = numbers.encoded(x)
        steps = parts[1].float()
        n_groups = head_dim // 32 if head_dim % 32 == 0 else 1
        assert steps.shape[-1] == n_groups
        exact = numbers.restored(x.clone())  # rotated as the codes are
        error = (numbers.decoded(parts) - exact).abs().unflatten(-1, (n_groups, -1))
        rounding_of_scales = exact.abs().unflatten(-1, (n_groups, -1)).amax(-1) * 2**-8
        assert (error.amax(-1) <= steps / 2 + rounding_of_scales + 1e-7).all()
        assert (error.amax(-1) > steps / 10).any()


def test_rotated_channels_of_unequal_size_lose_less() -> None:
    x = normal(200, 2, 64)
    x[..., 5] *= 20
    numbers = int4(64)
    unrotated = numbers.restored(rounded(numbers, numbers.restored(x)))  # the two rotations cancel out
    assert (rounded(numbers, x) - x).square().sum() < 0.5 * (unrotated - x).square().sum()


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-6, 1e4, 1e30])
def test_values_of_any_size_stay_finite(value: float) -> None:
    x = torch.full((3, 2, 64), value)
    for numbers in both_numbers(64):
        restored = rounded(numbers, x)
        assert restored.isfinite().all()
        if value < 1e30:
            torch.testing.assert_close(restored, x, atol=5e-7, rtol=0.01)


def test_a_token_is_stored_in_the_same_bytes_alone_and_among_others() -> None:
    x = normal(33, 2, 64)
    for numbers in both_numbers(64):
        together = numbers.encoded(x)
        for n in range(33):
            alone = numbers.encoded(x[n : n + 1])
            assert all(torch.equal(a[0], b[n]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(("kv_type", "name"), types_and_models(*FAMILIES, *OTHERS))
@pytest.mark.parametrize("max_tokens", [5, 64])
def test_logits_are_those_of_a_pass_with_rounded_keys_and_values(
    kv_type: KVType, name: str, max_tokens: int
) -> None:
    model = precise_model(name)
    batch = StreamBatch(model, 160, StepLimits(4, max_tokens), block_tokens=4, kv_type=kv_type)
    texts = {}
    for number, (n_prompt, n_text) in enumerate([(1, 9), (30, 38), (3, 22), (30, 33)]):
        text = prompt_of(number // 2, 60)[:n_text]
        texts[batch.queue.submit(text[:n_prompt], n_text)] = text
    with rounding(model, kv_type), torch.no_grad():
        wholes = {stream: model(torch.tensor([text])).logits_BTV[0].float() for stream, text in texts.items()}
    n_compared = 0
    while len(batch.queue):
        ready = batch.step()
        batch.queue.check()
        for stream, logits_V in zip(ready.streams, ready.logits_RV, strict=True):
            n, text = len(stream.tokens), texts[stream]
            torch.testing.assert_close(torch.from_numpy(logits_V), wholes[stream][n - 1], atol=2e-4, rtol=2e-4)
            n_compared += 1
            if n == len(text):
                batch.queue.remove(stream)
            else:
                batch.queue.extend(stream, text[n : n + 1 + n % 3])
    assert n_compared > 20


PROMPTS = [prompt_of(n, length) for n, length in enumerate([5, 33, 18, 2, 33, 9])]


@pytest.mark.parametrize(("kv_type", "name"), types_and_models(*FAMILIES))
def test_replies_are_the_same_alone_together_in_any_chunks_and_from_the_cache(kv_type: KVType, name: str) -> None:
    wanted = [expected(kv_type, name, tuple(prompt), 8) for prompt in PROMPTS]
    for options in ({}, {"max_rows": 3, "max_step_tokens": 7}, {"max_rows": 1}, {"block_tokens": 1}):
        with engine_with(kv_type, name, **options) as engine:
            for _ in range(2):
                replies = run(engine, *(engine.submit(request(prompt, 8)) for prompt in PROMPTS))
                assert [reply.ids for reply in replies] == wanted
            assert replies[1].stats.reused_tokens >= 32


@FEW_BITS
def test_replies_are_the_same_after_a_preemption(kv_type: KVType) -> None:
    prompts = [prompt_of(n, 12) for n in range(4)]
    with engine_with(kv_type, n_cached_tokens=72) as engine:
        submissions = [engine.submit(request(prompt, 40)) for prompt in prompts]
        replies = run(engine, *submissions)
        assert sum(s.stream.n_preempted for s in submissions if s.stream is not None) > 0
        assert [reply.ids for reply in replies] == [expected(kv_type, "llama", tuple(p), 40) for p in prompts]
        status = engine.status
        assert status.n_free_blocks == status.n_blocks


@FEW_BITS
def test_adapters_share_batches_and_no_blocks(kv_type: KVType) -> None:
    def layer_change(seed: int) -> dict[str, LowRank]:
        layer = precise_model("llama").model.layers[0].get_submodule("self_attn.k_proj")
        n_out, n_in = layer.get_parameter("weight").shape
        return {
            "model.layers.0.self_attn.k_proj": LowRank(normal(2, n_in, seed=seed), normal(n_out, 2, seed=seed))
        }

    def asked(adapter: str | None) -> GenerateRequest:
        return request(PROMPTS[1], 8, adapter=adapter)

    names = (None, "one", "two")
    model = copy.deepcopy(precise_model("llama"))
    tokenizer = toy_chat_tokenizer()
    with TorchEngine(
        model, tokenizer, owns_model=True, block_tokens=4, n_cached_tokens=400, kv_type=kv_type, seed=0
    ) as engine:
        for number, name in enumerate(("one", "two")):
            engine.add_adapter(name, layer_change(number))
        alone = [engine.generate(asked(name)) for name in names]
        assert [reply.stats.reused_tokens for reply in alone] == [0, 0, 0]
        assert alone[0].ids == expected(kv_type, "llama", tuple(PROMPTS[1]), 8)
        assert alone[1].ids != alone[0].ids != alone[2].ids != alone[1].ids
        together = run(engine, *(engine.submit(asked(name)) for name in names))
        assert [reply.ids for reply in together] == [reply.ids for reply in alone]
        assert [reply.stats.reused_tokens for reply in together] == [32, 32, 32]


N_FIXED = 80


def from_store(store: StateStore, kv_type: KVType, number: int = 0) -> Generation:
    """Return the reply of a new engine to a prompt with a fixed part."""
    prompt = prompt_of(0, N_FIXED) + prompt_of(number + 50, 10)
    with engine_with(kv_type, store=store) as engine:
        return engine.generate(request(prompt, 5, fixed_tokens=N_FIXED))


@FEW_BITS
def test_a_prefix_restored_from_disk_gives_the_reply_of_an_evaluated_one(kv_type: KVType, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "prompts")
    first, second = from_store(store, kv_type), from_store(store, kv_type, 1)
    assert (first.stats.restored_tokens, second.stats.restored_tokens) == (0, N_FIXED)
    evaluated = from_store(StateStore(tmp_path / "empty"), kv_type, 1)
    assert evaluated.stats.restored_tokens == 0
    assert (second.ids, second.logprobs) == (evaluated.ids, pytest.approx(evaluated.logprobs, abs=1e-6))
    assert second.ids == expected(kv_type, "llama", (*prompt_of(0, N_FIXED), *prompt_of(51, 10)), 5)


@pytest.mark.parametrize("kv_type", ["model", *KV_TYPES])
def test_a_file_of_another_type_is_a_miss(kv_type: KVType, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "prompts")
    from_store(store, kv_type)
    for other in ({"model", *KV_TYPES}) - {kv_type}:
        assert from_store(StateStore(tmp_path / "prompts"), other).stats.restored_tokens == 0  # pyright: ignore
    assert from_store(store, kv_type).stats.restored_tokens == N_FIXED


def test_files_are_smaller_by_the_ratio_of_the_cache(tmp_path: Path) -> None:
    sizes = {}
    for kv_type in ("model", *KV_TYPES):
        store = StateStore(tmp_path / kv_type)
        from_store(store, kv_type)
        sizes[kv_type] = store.usage().n_bytes
    assert sizes["k8v4"] < 0.9 * sizes["int8"] < 0.2 * sizes["model"]  # of a model in fp64


def test_equal_fingerprints_mean_equal_numbers() -> None:
    def fingerprint(kv_type: KVType, *, owns_model: bool = False) -> str:
        model = copy.deepcopy(model_of("llama"))
        with TorchEngine(model, toy_chat_tokenizer(), owns_model=owns_model, kv_type=kv_type) as engine:
            return engine.fingerprint

    types: tuple[KVType, ...] = ("model", *KV_TYPES)
    found = {kv_type: fingerprint(kv_type) for kv_type in types}
    assert len({*found.values()}) == 3
    assert found == {kv_type: fingerprint(kv_type, owns_model=True) for kv_type in types}


@pytest.mark.parametrize(("kv_type", "ratio"), [("model", 1), ("int8", 128 / 68), ("k8v4", 256 / (68 + 40))])
def test_the_status_shows_the_memory_of_the_numbers(kv_type: KVType, ratio: float) -> None:
    config = toy_config("llama", max_position_embeddings=256, head_dim=64)
    model = toy_model(config).bfloat16()
    n_numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    with TorchEngine(model, toy_chat_tokenizer(), n_cached_tokens=160, kv_type=kv_type) as engine:
        assert engine.status.cache_bytes == 0
        engine.generate(request(prompt_of(0, 20), 4))
        assert engine.status.cache_bytes == pytest.approx(160 * n_numbers * 2 / ratio)


@pytest.mark.parametrize("head_dim", [24, 20, 10])
def test_heads_whose_channels_cannot_be_rotated_are_refused_with_the_fix(head_dim: int) -> None:
    model = toy_model(toy_config("llama", max_position_embeddings=256, head_dim=head_dim))

    def reply(kv_type: KVType) -> list[int]:
        with TorchEngine(model, toy_chat_tokenizer(), kv_type=kv_type) as engine:
            return engine.generate(request(prompt_of(0, 20), 4)).ids

    assert reply("int8") == reply("model")
    if head_dim == 24:  # three blocks of 8
        assert len(reply("k8v4")) == 4
        return
    blocks = {20: 4, 10: 2}[head_dim]
    with pytest.raises(
        EngineError, match=f"heads of {head_dim} channels divide into blocks of {blocks}: use kv_type 'int8'"
    ):
        reply("k8v4")


def test_latents_take_no_type_that_stores_values_apart() -> None:
    with pytest.raises(EngineError, match="kv_type 'k8v4' stores values apart .* use 'model' or 'int8'"):
        engine_with("k8v4", LATENTS)


def test_a_latent_takes_its_own_channels_and_nothing_per_head() -> None:
    model = model_of(LATENTS)
    config = model.config
    assert config.kv_lora_rank and config.qk_rope_head_dim
    n_channels = config.kv_lora_rank + config.qk_rope_head_dim
    assert token_bytes(model) == config.num_hidden_layers * n_channels * 4
    config = model_of("llama").config
    n_channels = config.num_key_value_heads * config.head_dim
    assert token_bytes(model_of("llama")) == config.num_hidden_layers * 2 * n_channels * 4


def test_an_unknown_type_is_refused_with_the_choice() -> None:
    with pytest.raises(EngineError, match="kv_type 'q8_0' is not known; choose one of model, int8, k8v4"):
        engine_with("q8_0")  # pyright: ignore
