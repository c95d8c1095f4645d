"""Mixture-of-experts layers alone: each router kind against transformers' module, forced choices, bias, casts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import assert_cache_agrees, difference, poisoned, random_ids
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.feed_forward import make_feed_forward
from modelstack.architecture.moe.router import TopKRouter
from modelstack.errors import UserError

Keys = dict[str, Any]
E, K, D, I, V = 8, 2, 64, 32, 128  # noqa: E741  (the axes' letters)
VALUES: Keys = {
    "model_type": "deepseek_v4",
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "layer_types": ("full_attention",),
    "mlp_layer_types": ("moe",),
    "n_routed_experts": E,
    "num_experts_per_tok": K,
    "moe_intermediate_size": I,
}
SIZES: Keys = {"hidden_size": D, "num_experts_per_tok": K, "vocab_size": V}


def moe_config(**changes: Any) -> ModelConfig:
    return build(VALUES | changes)


def their_config(model_type: str, **keys: Any) -> Any:
    return AutoConfig.for_model(model_type, **SIZES, **keys)


def inputs(seed: int = 3, n_tokens: int = 24) -> tuple[Tensor, ForwardContext]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (2, n_tokens), generator=generator)
    return torch.randn(2, n_tokens, D, generator=generator), ForwardContext(ids, torch.arange(n_tokens)[None])


def from_theirs(theirs: nn.Module, config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """Return their layer, poisoned, and ours with its weights, strictly loaded."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.05)
    poisoned(theirs)
    ours = make_feed_forward(config, 0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def layer_of_deepseek_v3() -> tuple[nn.Module, nn.Module]:
    keys: Keys = {"n_routed_experts": E, "moe_intermediate_size": I, "n_shared_experts": 2}
    keys |= {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
    theirs = v3.DeepseekV3MoE(their_config("deepseek_v3", **keys))
    return from_theirs(theirs, moe_config(**keys, scoring_func="sigmoid", score_correction_bias=True))


def layer_of_deepseek_v4(kind: str) -> tuple[nn.Module, nn.Module]:
    keys: Keys = {"n_routed_experts": E, "moe_intermediate_size": I, "n_shared_experts": 1}
    keys |= {"swiglu_limit": 1.0, "routed_scaling_factor": 1.5, "num_hidden_layers": 1, "mlp_layer_types": [kind]}
    theirs = v4.DeepseekV4SparseMoeBlock(their_config("deepseek_v4", **keys), 0)
    ours = moe_config(**keys, scoring_func="sqrtsoftplus", score_correction_bias=True)
    return from_theirs(theirs, ours)


def layer_of_qwen3_moe(norm_topk_prob: bool) -> tuple[nn.Module, nn.Module]:
    keys: Keys = {"moe_intermediate_size": I, "norm_topk_prob": norm_topk_prob}
    theirs = qwen3_moe.Qwen3MoeSparseMoeBlock(their_config("qwen3_moe", **keys, num_experts=E))
    return from_theirs(theirs, moe_config(**keys))


def layer_of_qwen3_next() -> tuple[nn.Module, nn.Module]:
    keys: Keys = {"moe_intermediate_size": I, "shared_expert_intermediate_size": 2 * I, "num_experts": E}
    theirs = qwen3_next.Qwen3NextSparseMoeBlock(their_config("qwen3_next", **keys))
    return from_theirs(theirs, moe_config(n_shared_experts=2, shared_expert_gate=True))


def layer_of_gpt_oss() -> tuple[nn.Module, nn.Module]:
    keys: Keys = {"num_local_experts": E, "intermediate_size": I, "swiglu_limit": 1.0}
    ours = moe_config(
        scoring_func="topk_softmax",
        router_bias=True,
        experts_layout="interleaved",
        swiglu_alpha=1.702,
        swiglu_limit=1.0,
    )
    return from_theirs(gpt_oss.GptOssMLP(their_config("gpt_oss", **keys)), ours)


LAYERS = {
    "deepseek v3": layer_of_deepseek_v3,
    "deepseek v4": lambda: layer_of_deepseek_v4("moe"),
    "deepseek v4 hash": lambda: layer_of_deepseek_v4("hash_moe"),
    "qwen3": lambda: layer_of_qwen3_moe(True),
    "qwen3, sum kept": lambda: layer_of_qwen3_moe(False),
    "qwen3-next": layer_of_qwen3_next,
    "gpt-oss": layer_of_gpt_oss,
}


@pytest.mark.parametrize("name", LAYERS)
def test_output_and_gradients_of_a_layer_equal_transformers(name: str) -> None:
    theirs, ours = LAYERS[name]()
    x, context = inputs()
    expected = theirs(x, input_ids=context.token_ids_BT) if "hash" in name else theirs(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    found = ours(x, context)
    assert expected.std() > 0.05
    assert difference(found, expected) < 5e-6
    for y in (expected, found):
        y.square().sum().backward()
    for (key, theirs_p), (_, ours_p) in zip(
        sorted(theirs.named_parameters()), sorted(ours.named_parameters()), strict=True
    ):
        assert theirs_p.grad is not None and ours_p.grad is not None, key
        assert theirs_p.grad.abs().max() > 0, key
        assert difference(theirs_p.grad, ours_p.grad) < 2e-5 * max(1, theirs_p.grad.abs().max().item()), key


def test_one_token_gives_what_the_batch_gives() -> None:
    _, ours = layer_of_deepseek_v3()
    x, context = inputs()
    whole = ours(x, context)
    alone = ours(x[1:, 4:5], ForwardContext(context.token_ids_BT[1:, 4:5], torch.tensor([[4]])))
    assert difference(whole[1:, 4:5], alone) < 1e-6


def test_the_balancing_bias_moves_the_choice_and_not_the_weights() -> None:
    router = TopKRouter(moe_config(scoring_func="sigmoid", score_correction_bias=True, norm_topk_prob=False))
    assert router.e_score_correction_bias is not None
    router.e_score_correction_bias[5] = 100.0
    x = torch.randn(9, D)
    routing, weights = router(x, torch.zeros(9, dtype=torch.long))
    assert (routing.experts_Nk[:, 0] == 5).all()
    assert torch.equal(weights, routing.scores_NE.gather(1, routing.experts_Nk))


def test_only_experts_of_the_best_groups_are_chosen() -> None:
    router = TopKRouter(moe_config(scoring_func="sigmoid", n_group=4, topk_group=1))
    scores = torch.tensor([[0.9, 0.1, 0.6, 0.5, 0.2, 0.2, 0.8, 0.0]])
    # Sums of two: 1.0, 1.1, 0.4, 0.8; the best single expert is in the second-best group.
    assert router.choose(scores, torch.zeros(1)).sort().values.tolist() == [[2, 3]]


def test_forced_experts_are_taken_and_weighed_by_the_current_scores() -> None:
    _, ours = layer_of_deepseek_v3()
    x, context = inputs()
    ours(x, context)
    own = context.routing[0].experts_Nk
    forced = (own + 1) % E
    other = ForwardContext(context.token_ids_BT, context.positions_BT, forced_experts={0: forced})
    y = ours(x, other)
    assert torch.equal(other.routing[0].experts_Nk, forced)
    scores = other.routing[0].scores_NE.gather(1, forced)
    weights = 2.5 * scores / scores.sum(-1, keepdim=True)
    expected = ours.experts(x.flatten(0, 1), forced, weights).view_as(x) + ours.shared_experts(x)  # pyright: ignore
    assert difference(y, expected) < 1e-6


def test_replaying_the_own_choice_changes_nothing() -> None:
    _, ours = layer_of_deepseek_v3()
    x, context = inputs()
    y = ours(x, context)
    replay = ForwardContext(
        context.token_ids_BT, context.positions_BT, forced_experts={0: context.routing[0].experts_Nk}
    )
    assert torch.equal(ours(x, replay), y)


def test_the_balancing_bias_stays_fp32_when_the_model_is_cast() -> None:
    layer = make_feed_forward(moe_config(scoring_func="sigmoid", score_correction_bias=True), 0)
    layer.gate.e_score_correction_bias.fill_(1.001)  # pyright: ignore
    layer.to(torch.bfloat16)
    kept = layer.gate.e_score_correction_bias  # pyright: ignore
    assert kept.dtype == torch.float32  # pyright: ignore
    assert torch.equal(kept, torch.full((E,), 1.001))  # pyright: ignore
    assert layer.gate.weight.dtype == torch.bfloat16  # pyright: ignore


def test_a_cast_layer_routes_in_fp32() -> None:
    layer = make_feed_forward(moe_config(), 0).to(torch.bfloat16)
    x, context = inputs()
    y = layer(x.bfloat16(), context)
    assert y.dtype == torch.bfloat16
    assert context.routing[0].logits_NE.dtype == context.routing[0].scores_NE.dtype == torch.float32


def test_widths_that_the_grouped_product_cannot_take_are_refused() -> None:
    with pytest.raises(UserError, match="moe_intermediate_size 30 and hidden_size 64 must be multiples of 8"):
        make_feed_forward(moe_config(moe_intermediate_size=30), 0)


def test_more_experts_than_the_chosen_groups_have_are_refused() -> None:
    with pytest.raises(UserError, match="num_experts_per_tok 3 is more than the 2 experts of topk_group 1"):
        make_feed_forward(moe_config(n_group=4, topk_group=1, num_experts_per_tok=3), 0)


def test_experts_without_a_gate_are_refused() -> None:
    with pytest.raises(UserError, match="mlp_gated is false"):
        make_feed_forward(moe_config(mlp_gated=False), 0)


# -- whole models

MODELS: dict[str, Keys] = {
    "softmax": {"scoring_func": "softmax"},
    "softmax with the balancing bias": {"scoring_func": "softmax", "score_correction_bias": True},
    "topk_softmax": {"scoring_func": "topk_softmax", "router_bias": True},
    "sigmoid in groups": {
        "scoring_func": "sigmoid",
        "score_correction_bias": True,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
    },
    "sqrtsoftplus": {"scoring_func": "sqrtsoftplus", "score_correction_bias": True, "swiglu_limit": 0.1},
    "hash": {"scoring_func": "sqrtsoftplus", "mlp_layer_types": ("hash_moe", "moe")},
    "gated shared expert": {"n_shared_experts": 1, "shared_expert_gate": True},
}


def model_of(name: str) -> CausalLM:
    torch.manual_seed(0)
    layers: Keys = {
        "num_hidden_layers": 2,
        "layer_types": ("full_attention", "full_attention"),
        "mlp_layer_types": ("moe", "moe"),
    }
    model = CausalLM(moe_config(**(layers | MODELS[name])))
    for key, parameter in model.named_parameters():
        if "experts" in key:
            nn.init.normal_(parameter, std=0.2)  # large enough for a wrong choice to show
    nn.init.normal_(model.lm_head.weight, std=0.02)  # small enough for the tolerance
    poisoned(model)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_cached_decoding_and_prefixes_agree_with_one_full_pass(name: str) -> None:
    assert_cache_agrees(model_of(name), random_ids())


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_replayed_routing_gives_the_same_logits_and_another_does_not(name: str) -> None:
    model, ids = model_of(name), random_ids()
    output = model(ids)
    chosen = {layer: routing.experts_Nk for layer, routing in output.routing.items()}
    assert chosen.keys() == {0, 1}
    assert torch.equal(model(ids, forced_experts=chosen).logits_BTV, output.logits_BTV)
    others = {layer: (experts + 1) % E for layer, experts in chosen.items()}
    assert difference(model(ids, forced_experts=others).logits_BTV, output.logits_BTV) > 1e-2


def test_the_choice_is_the_same_whatever_else_is_in_the_batch() -> None:
    model, ids = model_of("sigmoid in groups"), random_ids(batch=3)
    together = model(ids).routing[1].experts_Nk.view(3, -1, K)
    for row in range(3):
        alone = model(ids[row : row + 1]).routing[1].experts_Nk
        assert torch.equal(alone.sort(-1).values, together[row].sort(-1).values)
