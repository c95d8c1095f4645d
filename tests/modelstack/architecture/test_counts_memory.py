"""Byte formulas against caches, state dicts and hand counts."""

import pytest
import torch
from count_cases import toy, variants

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.memory import (
    cache_bytes,
    cache_bytes_by_kind,
    cache_bytes_per_token,
    decode_bytes,
    decode_intensity,
    weight_bytes,
)
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import PRESETS, published
from modelstack.errors import UserError

VARIANTS = variants()
BATCH = 2
TYPES = {torch.float32: 4, torch.bfloat16: 2}


def case(name: str) -> ModelConfig:
    return VARIANTS[name] if name in VARIANTS else toy(name)


@torch.no_grad()
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_a_cache_holds_as_many_bytes_as_the_formula_says(name: str, dtype: torch.dtype) -> None:
    config = case(name)
    model = CausalLM(config).to(dtype)
    cache = model.new_cache()
    assert cache.bytes_in_use() == cache_bytes(config, 0, BATCH) == 0
    for n_tokens in (2, 1, 27, 5, *[1] * 10):
        model(torch.randint(0, config.vocab_size, (BATCH, n_tokens)), cache=cache, last_only=True)
        assert cache.bytes_in_use() == cache_bytes(config, cache.n_tokens, BATCH, TYPES[dtype]), cache.n_tokens


@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_bytes_per_token_are_the_slope_of_the_cache_in_the_long_run(name: str) -> None:
    config = case(name)
    grown = cache_bytes(config, 65536) - cache_bytes(config, 32768)
    assert cache_bytes_per_token(config) == grown / 32768


def test_bytes_per_token_of_published_models() -> None:
    assert cache_bytes_per_token(published("llama-3-8b")) == 2 * 2 * 32 * 8 * 128
    assert cache_bytes_per_token(published("deepseek-v3")) == 2 * 61 * (512 + 64)
    flash = published("deepseek-v4-flash")
    sparse, heavy = (
        flash.layer_types.count(k) for k in ("compressed_sparse_attention", "heavily_compressed_attention")
    )
    assert cache_bytes_per_token(flash) == 2 * (sparse * (512 + 128) / 4 + heavy * 512 / 128)


def test_kinds_that_hold_nothing_are_not_listed() -> None:
    by_kind = cache_bytes_by_kind(VARIANTS["gated deltanet"], 100)
    assert set(by_kind) == {"linear_attention", "full_attention"}
    assert by_kind["linear_attention"] == cache_bytes_by_kind(VARIANTS["gated deltanet"], 7)["linear_attention"]


@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_weight_bytes_are_those_of_the_state_dict(name: str) -> None:
    config = case(name)
    model = CausalLM(config)
    for dtype, storage in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        tensors = {t.data_ptr(): t for t in model.to(dtype).state_dict().values()}
        assert weight_bytes(config, storage, mtp=True) == sum(t.nbytes for t in tensors.values())


def test_quantised_matrices_cost_their_blocks_and_vectors_stay_fp32() -> None:
    config = published("llama-3-8b")
    weights = count_parameters(config).model
    assert weight_bytes(config, "q4_0") == weights.matrices * 18 / 32 + weights.vectors * 4
    assert weight_bytes(config, "q8_0") == weights.matrices * 34 / 32 + weights.vectors * 4


def test_an_unknown_storage_format_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'q5'.*fp32, bf16, q8_0, q4_0"):
        weight_bytes(published("llama-3-8b"), "q5")


def test_one_dense_sequence_reads_every_weight_but_the_embedding_and_its_whole_cache() -> None:
    config, past = published("llama-3-8b"), 4096
    weights = weight_bytes(config) - 2 * config.vocab_size * config.hidden_size + 2 * config.hidden_size
    assert decode_bytes(config, past) == weights + cache_bytes(config, past)
    tied = published("smollm2-135m")
    assert decode_bytes(tied, past) == weight_bytes(tied) + cache_bytes(tied, past)


def test_a_batch_reads_the_experts_of_all_its_sequences() -> None:
    config = published("deepseek-v3")
    count = count_parameters(config)
    one, many = (decode_bytes(config, 0, batch) for batch in (1, 100_000))
    assert one == 2 * (count.active + config.hidden_size)
    assert many == 2 * (count.total - count.embedding + 100_000 * config.hidden_size)
    # Two sequences: 8 + 8 experts, one in 32 of the second's already read for the first.
    second = decode_bytes(config, 0, 2) - one - 2 * config.hidden_size
    idle = count.model.idle_matrices
    assert second == pytest.approx(2 * idle * 8 / 256, rel=1e-6)


def test_sparse_attention_reads_the_entries_that_it_chose() -> None:
    config, past = published("deepseek-v4-flash"), 1 << 20
    weights = decode_bytes(config, 0)
    assert decode_bytes(config, past) - weights < 0.5 * cache_bytes(config, past)


def test_intensity_grows_with_the_batch_until_caches_dominate() -> None:
    config = published("llama-3-8b")
    one, eight = (decode_intensity(config, 1024, batch) for batch in (1, 8))
    assert one == pytest.approx(1.0, rel=0.1)
    assert 6 < eight / one < 8
    assert decode_intensity(config, 1024, 1, "q4_0") > 3 * one
