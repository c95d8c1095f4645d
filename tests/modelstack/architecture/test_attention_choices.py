"""Choices of softmax attention that no preset makes, each against somebody else's arithmetic."""

import math
from typing import Any

import pytest
import torch
from parity import (
    ATOL,
    assert_cache_agrees,
    assert_same_gradients,
    assert_same_logits,
    difference,
    random_ids,
    reference,
)
from torch import Tensor

from modelstack.architecture.attention.softmax import softmax_attention, softmax_with_sink
from modelstack.architecture.config import ModelConfig, RopeParameters, build
from modelstack.architecture.decoder import CausalLM, document_positions
from modelstack.architecture.mlp import ACTIVATIONS
from modelstack.architecture.rope import alibi_slopes, inverse_frequencies
from modelstack.errors import UserError

BASE: dict[str, Any] = {
    "model_type": "test",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "layer_types": ("full_attention",) * 2,
    "mlp_layer_types": ("dense",) * 2,
}


def toy(**changes: Any) -> CausalLM:
    torch.manual_seed(0)
    model = CausalLM(build(BASE | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_soft_caps_and_alternating_windows_equal_gemma2() -> None:
    theirs = reference(
        "gemma2",
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=9,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=1.5,
        tie_word_embeddings=True,
    )
    config = build(
        BASE
        | {
            "intermediate_size": 128,
            "layer_types": theirs.config.layer_types,  # pyright: ignore
            "sliding_window": 9,
            "norm_type": "rmsnorm_zero_centred",
            "norm_placement": "sandwich",
            "hidden_act": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.5,
            "scale_embeddings": True,
            "tie_word_embeddings": True,
        }
    )
    model = CausalLM(config)
    model.load_state_dict(theirs.state_dict(), strict=True)
    ids = random_ids()
    assert_same_logits(theirs, model.eval(), ids)
    assert_cache_agrees(model, ids)
    assert_same_gradients(theirs, model, ids)


@pytest.mark.parametrize("n_heads", [1, 2, 4, 6, 8, 12, 40])
def test_alibi_slopes_equal_bloom_and_mpt(n_heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    ours = torch.tensor(alibi_slopes(n_heads))
    bloom = build_alibi_tensor(torch.ones(1, 2), n_heads, torch.float32)[:, 0, 1]
    assert difference(ours, bloom) < 1e-6
    if math.log2(n_heads).is_integer():  # mpt takes the slopes in another order otherwise
        mpt = build_mpt_alibi_tensor(n_heads, 2)[:, 0]
        assert difference(ours, (mpt[:, 1] - mpt[:, 0])) < 1e-6


def test_alibi_attention_is_the_papers_formula() -> None:
    model = toy(position_embedding="alibi", num_key_value_heads=4)
    attention: Any = model.model.layers[0].self_attn
    x = torch.randn(2, 7, 64)
    found = attention(x, context_for(7))
    q, k, v = (
        p(x).view(2, 7, 4, 16).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    expected = torch.zeros(2, 4, 7, 16)
    slopes = alibi_slopes(4)
    for h in range(4):
        for t in range(7):
            logits = torch.stack(
                [(q[:, h, t] * k[:, h, s]).sum(-1) / 4 - slopes[h] * (t - s) for s in range(t + 1)], -1
            )
            expected[:, h, t] = (logits.softmax(-1)[..., None] * v[:, h, : t + 1]).sum(1)
    expected = attention.o_proj(expected.transpose(1, 2).reshape(2, 7, 64))
    assert difference(found, expected) < ATOL


def context_for(n_tokens: int) -> Any:
    from modelstack.architecture.decoder import make_context

    return make_context(torch.zeros(1, n_tokens, dtype=torch.long))


@pytest.mark.parametrize(
    "changes",
    [
        {"position_embedding": "alibi"},
        {"position_embedding": "none"},
        {"position_embedding": "alibi", "layer_types": ("sliding_attention",) * 2, "sliding_window": 5},
        {"norm_type": "layernorm", "hidden_act": "relu2", "mlp_gated": False},
        {"qk_norm": "projection", "norm_type": "rmsnorm_fp32"},
        {"rope_interleave": True},
        {"attention_sinks": True, "layer_types": ("sliding_attention", "full_attention"), "sliding_window": 6},
        {"attn_output_gate": True, "num_key_value_heads": 1},
        {"rope_parameters": {"default": RopeParameters(partial_rotary_factor=0.5)}},
    ],
    ids=str,
)
def test_cached_decoding_and_prefixes_agree_with_the_full_pass(changes: dict[str, Any]) -> None:
    assert_cache_agrees(toy(**changes), random_ids())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position_embedding": "alibi"},
        {"attention_sinks": True, "attn_logit_softcapping": 3.0},
        {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 6},
    ],
    ids=str,
)
def test_packed_documents_equal_documents_apart(changes: dict[str, Any]) -> None:
    model = toy(**changes)
    first, second = random_ids(1, 1, 13), random_ids(2, 1, 21)
    documents = torch.tensor([[3] * 13 + [8] * 21])
    packed = model(torch.cat((first, second), 1), documents_BT=documents).logits_BTV
    apart = torch.cat((model(first).logits_BTV, model(second).logits_BTV), 1)
    assert difference(packed, apart) < ATOL


def test_positions_start_anew_in_each_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 5], [2, 2, 2, 2, 2, 2]])
    assert document_positions(documents).tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]


def test_a_cache_takes_no_packed_documents() -> None:
    model = toy()
    with pytest.raises(UserError, match="packed documents cannot be used with a cache"):
        model(random_ids(), cache=model.new_cache(), documents_BT=torch.zeros(2, 40, dtype=torch.long))


def test_a_sink_takes_its_share_of_the_sum_only() -> None:
    logits, sinks = torch.randn(2, 3, 4, 5), torch.randn(3)
    found = softmax_with_sink(logits, sinks)
    expected = logits.exp() / (logits.exp().sum(-1, keepdim=True) + sinks.exp()[None, :, None, None])
    assert difference(found, expected) < 1e-6
    assert (found.sum(-1) < 1).all()


def test_a_sink_and_logits_far_out_do_not_overflow() -> None:
    logits = torch.tensor([[[[1e4, -1e4]]]])
    assert softmax_with_sink(logits, torch.tensor([2e4])).tolist() == [[[[0.0, 0.0]]]]
    assert softmax_with_sink(logits, torch.tensor([-2e4])).tolist() == [[[[1.0, 0.0]]]]


def test_the_fused_kernel_and_the_steps_are_the_same_attention() -> None:
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    far_below = torch.full((4,), -1e4)  # a sink that takes nothing
    for mask, causal in ((None, True), (torch.rand(2, 1, 9, 9) > 0.3, False), (None, False)):
        if mask is not None:
            mask[..., 0] = True
        fused = softmax_attention(q, k, v, scale=0.3, mask=mask, causal=causal)
        steps = softmax_attention(q, k, v, scale=0.3, mask=mask, causal=causal, sinks_H=far_below)
        assert difference(fused, steps) < ATOL


def reference_frequencies(rope: RopeParameters, **keys: Any) -> tuple[Tensor, float]:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=128, num_attention_heads=2, max_position_embeddings=4096)
    config.rope_parameters = {"rope_theta": rope.rope_theta, "rope_type": rope.rope_type, **keys}
    return ROPE_INIT_FUNCTIONS[rope.rope_type](config, torch.device("cpu"), seq_len=keys.get("seq_len"))


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "yarn", "factor": 16.0},
        {"rope_type": "yarn", "factor": 32.0, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
        {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7},
        {"rope_type": "yarn", "factor": 40.0, "attention_factor": 1.0},
    ],
    ids=str,
)
def test_scalings_of_rope_equal_transformers(keys: dict[str, Any]) -> None:
    keys = {**keys, "original_max_position_embeddings": 512} if keys["rope_type"] != "linear" else keys
    rope = RopeParameters(rope_theta=10_000.0, **keys)
    expected, factor = reference_frequencies(rope, **{k: v for k, v in keys.items() if k != "rope_type"})
    found, our_factor = inverse_frequencies(rope, 64)
    assert difference(torch.tensor(found), expected) < 1e-7
    assert our_factor == pytest.approx(factor, abs=1e-7)


def test_dynamic_scaling_stretches_with_the_length_only() -> None:
    rope = RopeParameters(rope_type="dynamic", factor=2.0, original_max_position_embeddings=512)
    plain, _ = inverse_frequencies(RopeParameters(), 64)
    short, _ = inverse_frequencies(rope, 64, 300)
    long, _ = inverse_frequencies(rope, 64, 2048)
    assert short == plain
    base = 10_000.0 * (2.0 * 2048 / 512 - 1.0) ** (64 / 62)
    expected = [base ** (-2 * j / 64) for j in range(32)]
    assert long == pytest.approx(expected, rel=1e-5)


def test_activations_equal_transformers() -> None:
    from transformers.activations import ACT2FN

    x = torch.randn(100)
    for name, activation in ACTIVATIONS.items():
        assert difference(activation(x), ACT2FN[name](x)) < 1e-6, name


def test_a_gate_less_mlp_has_two_matrices() -> None:
    names = [name for name, _ in toy(mlp_gated=False, hidden_act="relu2").model.layers[0].mlp.named_parameters()]  # pyright: ignore
    assert names == ["up_proj.weight", "down_proj.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "must be a multiple"),
        ({"layer_types": ("full_attention",)}, "names 1 layers, num_hidden_layers is 2"),
        ({"layer_types": ("sliding_attention",) * 2}, "sliding_window must be set"),
        ({"mlp_layer_types": ("moe",) * 2}, "moe_intermediate_size, n_routed_experts, num_experts_per_tok"),
        ({"hiden_size": 3}, "nearest: 'hidden_size'"),
        ({"hidden_size": -3}, "greater than 0"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"rope_parameters": {"default": {"rope_type": "yarn"}}}, "original_max_position_embeddings"),
        ({"intermediate_size": 0}, "a dense layer needs intermediate_size"),
    ],
)
def test_a_config_that_cannot_be_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(BASE | changes)


def test_a_config_is_frozen_and_changes_its_fingerprint_with_any_decision() -> None:
    config = build(BASE)
    with pytest.raises(Exception, match="frozen"):
        config.hidden_size = 5  # pyright: ignore
    assert build(BASE).fingerprint() == config.fingerprint()
    assert config.with_(rms_norm_eps=1e-5).fingerprint() != config.fingerprint()
    assert isinstance(config, ModelConfig)


def test_half_precision_trains_through_fp32_attention_and_decodes_without() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(2, 4, 9, 16, generator=generator).bfloat16() for _ in range(4))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    y = softmax_attention(*leaves, scale=0.25, causal=True)
    found = torch.autograd.grad(y, leaves, g)
    exact = [x.float().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(softmax_attention(*exact, scale=0.25, causal=True), exact, g.float())

    assert y.dtype == torch.bfloat16
    for one, wanted in zip(found, expected, strict=True):
        assert torch.equal(one, wanted.bfloat16())
    assert softmax_attention(q, k, v, scale=0.25, causal=True).dtype == torch.bfloat16
