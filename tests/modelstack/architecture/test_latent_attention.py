"""Latent attention: its two forms, its cache, packed documents."""

import pytest
import torch
from parity import ATOL, difference, poisoned, random_ids

from modelstack.architecture.attention.latent import LatentAttention
from modelstack.architecture.cache import GrowingCache
from modelstack.architecture.config import ModelConfig, RopeParameters
from modelstack.architecture.decoder import CausalLM, make_context

KV_RANK, ROPE = 24, 8
N_TOKENS = 20


def config(**changes: object) -> ModelConfig:
    values = {
        "model_type": "deepseek_v3",
        "vocab_size": 64,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 20,
        "layer_types": ("latent_attention",) * 2,
        "mlp_layer_types": ("dense",) * 2,
        "q_lora_rank": 16,
        "kv_lora_rank": KV_RANK,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": ROPE,
        "v_head_dim": 10,
        "rope_interleave": True,
    }
    return ModelConfig(**(values | changes))  # pyright: ignore


def model(**changes: object) -> CausalLM:
    torch.manual_seed(0)
    return poisoned(CausalLM(config(**changes))).eval()  # pyright: ignore


@torch.no_grad()
def test_the_absorbed_form_equals_the_expanded_form(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = model().model.layers[0].self_attn
    assert isinstance(attention, LatentAttention)
    x = torch.randn(2, N_TOKENS, 48)
    context = make_context(random_ids(n_tokens=N_TOKENS, vocab_size=64))
    q_plain, q_rope = attention._queries(x, context)
    latents = attention._latents(x, context)
    mask = context.mask(None, N_TOKENS)
    absorbed = attention._absorbed(q_plain, q_rope, latents, mask)
    monkeypatch.setattr(attention, "_absorbs", lambda n_new, n_seen: False)
    expanded = attention._attended(q_plain, q_rope, latents, False, mask)
    assert expanded.abs().max() > 0.05
    assert difference(expanded, absorbed) < ATOL


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(1,) * N_TOKENS, (5, 3, 1, 4, 7), (1, 19), (19, 1)])
def test_any_split_into_chunks_gives_the_logits_of_one_pass(chunks: tuple[int, ...]) -> None:
    m, ids = model(), random_ids(n_tokens=N_TOKENS, vocab_size=64)
    cache, parts, start = m.new_cache(), [], 0
    for n in chunks:
        parts.append(m(ids[:, start : start + n], cache=cache).logits_BTV)
        start += n
    assert difference(torch.cat(parts, 1), m(ids).logits_BTV) < ATOL


def test_many_new_tokens_expand_and_few_are_absorbed() -> None:
    # c (n + e) / (2c - n - e) = 24 * 22 / 26 = 20.3 tokens
    attention = LatentAttention(config(), 0)
    chosen = [
        attention._absorbs(n_new, n_past + n_new)
        for n_past, n_new in ((0, 1), (0, 30), (30, 1), (30, 20), (30, 21))
    ]
    assert chosen == [False, False, True, True, False]


@torch.no_grad()
def test_the_cache_holds_the_latent_and_the_rotated_key_of_each_token_and_nothing_else() -> None:
    m, ids = model(), random_ids(batch=3, n_tokens=N_TOKENS, vocab_size=64)
    cache = m.new_cache()
    m(ids, cache=cache)
    n_layers, batch, bytes_each = 2, 3, 4
    assert cache.bytes_in_use() == n_layers * batch * N_TOKENS * (KV_RANK + ROPE) * bytes_each
    layer = cache.layers[0]
    assert isinstance(layer, GrowingCache)
    assert [b.shape[-1] for b in layer.buffers] == [KV_RANK + ROPE]


@torch.no_grad()
def test_packed_documents_give_the_logits_of_each_alone() -> None:
    m, ids = model(), random_ids(batch=1, n_tokens=N_TOKENS, vocab_size=64)
    documents = torch.tensor([[0] * 7 + [1] * 13])
    packed = m(ids, documents_BT=documents).logits_BTV
    alone = torch.cat((m(ids[:, :7]).logits_BTV, m(ids[:, 7:]).logits_BTV), dim=1)
    assert difference(packed, alone) < ATOL


@torch.no_grad()
def test_without_positions_nothing_rotates_and_the_forms_still_agree() -> None:
    m, ids = model(position_embedding="none"), random_ids(n_tokens=N_TOKENS, vocab_size=64)
    full = m(ids).logits_BTV
    assert difference(full, model()(ids).logits_BTV) > 1e-3
    cache = m.new_cache()
    m(ids[:, :9], cache=cache)
    assert difference(m(ids[:, 9:], cache=cache).logits_BTV, full[:, 9:]) < ATOL


def test_the_softmax_is_sharpened_by_yarns_factor_squared() -> None:
    rope = RopeParameters(rope_type="yarn", factor=40, original_max_position_embeddings=64, mscale_all_dim=1.0)
    attention = LatentAttention(config(rope_parameters={"default": rope}), 0)
    assert attention.scale == pytest.approx(20**-0.5 * (0.1 * 3.6888794541139363 + 1) ** 2)
    assert LatentAttention(config(), 0).scale == pytest.approx(20**-0.5)


def test_a_missing_latent_size_is_named() -> None:
    with pytest.raises(ValueError, match="kv_lora_rank must be set"):
        config(kv_lora_rank=None)
