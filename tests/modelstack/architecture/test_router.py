"""Routers against transformers' router modules: logits, choices and weights of 2,000 tokens, biases poisoned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.moe.hash_router import HashRouter
from modelstack.architecture.moe.router import Router, TopKRouter
from modelstack.architecture.moe.scoring import SCORING

N, D, V = 2000, 48, 97
Keys = dict[str, Any]


def config(n_experts: int, n_chosen: int, **keys: Any) -> ModelConfig:
    return build(
        {
            "model_type": "deepseek_v3",
            "vocab_size": V,
            "hidden_size": D,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "layer_types": ("full_attention",),
            "mlp_layer_types": ("moe",),
            "n_routed_experts": n_experts,
            "num_experts_per_tok": n_chosen,
            "moe_intermediate_size": 8,
            **keys,
        }
    )


def theirs_of(model_type: str, n_chosen: int, **keys: Any) -> Any:
    return AutoConfig.for_model(model_type, hidden_size=D, vocab_size=V, num_experts_per_tok=n_chosen, **keys)


def deepseek_v3(n_group: int, topk_group: int, norm_topk_prob: bool) -> tuple[Any, Router]:
    keys: Keys = {"n_group": n_group, "topk_group": topk_group, "norm_topk_prob": norm_topk_prob}
    keys |= {"routed_scaling_factor": 2.5}
    theirs = v3.DeepseekV3TopkRouter(theirs_of("deepseek_v3", 8, n_routed_experts=64, **keys))
    return theirs, TopKRouter(config(64, 8, scoring_func="sigmoid", score_correction_bias=True, **keys))


def deepseek_v4() -> tuple[Any, Router]:
    theirs = v4.DeepseekV4TopKRouter(theirs_of("deepseek_v4", 6, n_routed_experts=32, routed_scaling_factor=1.5))
    keys: Keys = {"scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5, "score_correction_bias": True}
    return theirs, TopKRouter(config(32, 6, **keys))


def deepseek_v4_hash() -> tuple[Any, Router]:
    theirs = v4.DeepseekV4HashRouter(theirs_of("deepseek_v4", 6, n_routed_experts=32, routed_scaling_factor=1.5))
    theirs.tid2eid.copy_(torch.stack([torch.randperm(32)[:6] for _ in range(V)]))
    return theirs, HashRouter(config(32, 6, scoring_func="sqrtsoftplus", routed_scaling_factor=1.5))


def qwen3(norm_topk_prob: bool) -> tuple[Any, Router]:
    keys: Keys = {"norm_topk_prob": norm_topk_prob}
    theirs = qwen3_moe.Qwen3MoeTopKRouter(theirs_of("qwen3_moe", 8, num_experts=64, **keys))
    return theirs, TopKRouter(config(64, 8, **keys))


def gpt_oss_router() -> tuple[Any, Router]:
    theirs = gpt_oss.GptOssTopKRouter(theirs_of("gpt_oss", 4, num_local_experts=32))
    return theirs, TopKRouter(config(32, 4, scoring_func="topk_softmax", router_bias=True))


ROUTERS = {
    "deepseek v3, four of eight groups": lambda: deepseek_v3(8, 4, True),
    "deepseek v3, one of four groups": lambda: deepseek_v3(4, 1, True),
    "deepseek v3, one group, not normalised": lambda: deepseek_v3(1, 1, False),
    "deepseek v4": deepseek_v4,
    "deepseek v4 by hash": deepseek_v4_hash,
    "qwen3-moe": lambda: qwen3(True),
    "qwen3-moe, not normalised": lambda: qwen3(False),
    "gpt-oss": gpt_oss_router,
}


@pytest.mark.parametrize("name", ROUTERS)
@torch.no_grad()
def test_logits_choice_and_weights_equal_transformers(name: str) -> None:
    torch.manual_seed(0)
    theirs, ours = ROUTERS[name]()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.3)
    if getattr(theirs, "e_score_correction_bias", None) is not None:
        theirs.e_score_correction_bias.normal_(std=0.1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, ids = torch.randn(N, D), torch.randint(0, V, (N,))
    logits, weights, experts = theirs(x, ids) if "hash" in name else theirs(x)
    routing, our_weights = ours(x, ids)
    assert (routing.logits_NE - logits).abs().max() < 5e-6
    expected = torch.zeros_like(logits).scatter(1, experts, weights)
    found = torch.zeros_like(logits).scatter(1, routing.experts_Nk, our_weights)
    assert torch.equal(expected != 0, found != 0), "the same experts for each token"
    assert (expected - found).abs().max() < 1e-6
    if isinstance(ours, TopKRouter) and ours.e_score_correction_bias is not None:
        ours.e_score_correction_bias.zero_()
        plain = ours(x, ids)[0].experts_Nk.sort(-1).values
        changed = (plain != experts.sort(-1).values).any(-1).float().mean()
        assert changed > 0.2, "a bias too small to matter would hide a missing one"


@pytest.mark.parametrize("name", sorted(SCORING))
def test_a_score_that_underflows_has_a_finite_gradient(name: str) -> None:
    logits = torch.tensor([[-200.0, -110.0, -87.0, 0.0, 200.0]], requires_grad=True)
    scores = SCORING[name](logits)
    scores.sum().backward()
    assert scores.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()
