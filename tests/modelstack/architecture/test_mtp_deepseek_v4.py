"""Multi-token prediction inside DeepSeek-V4: streams, a window-only layer that routes by scores."""

from typing import Any

import torch
from parity import ATOL, difference, random_ids
from torch import Tensor
from toy_v4 import toy_config, toy_model

from modelstack.architecture.attention.shared_kv import SharedKVAttention
from modelstack.architecture.moe.router import TopKRouter

RATIOS = (0, 4, 16)


def some_ids() -> Tensor:
    return random_ids(n_tokens=36, vocab_size=64)


@torch.no_grad()
def test_a_module_that_passes_the_streams_through_is_one_more_layer() -> None:
    model = toy_model(toy_config(RATIOS, num_nextn_predict_layers=1))
    assert model.mtp is not None
    module: Any = model.mtp[0]
    module.hnorm = torch.nn.Identity()
    module.h_proj.weight.copy_(torch.eye(32))
    module.e_proj.weight.zero_()
    deeper = toy_model(toy_config((*RATIOS, 0)), seed=1)
    assert deeper.model.hc_head is not None
    deeper.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    for mine, its in zip(deeper.model.layers, [*model.model.layers, module.block], strict=True):
        mine.load_state_dict(its.state_dict())
    deeper.model.norm.load_state_dict(module.norm.state_dict())
    deeper.model.hc_head.load_state_dict(module.hc_head.state_dict())
    found = model(some_ids(), with_mtp=True).mtp[0].hidden_BTD
    expected = deeper(some_ids()[:, :-1]).hidden_BTD
    assert expected.std() > 0.05
    assert difference(found, expected) < ATOL


def test_the_modules_layer_has_no_compressor_and_no_hash() -> None:
    model = toy_model(toy_config(RATIOS, num_nextn_predict_layers=2))
    assert model.mtp is not None
    for module in model.mtp:
        block: Any = module.block
        assert isinstance(block.self_attn, SharedKVAttention)
        assert block.self_attn.compressor is None
        assert block.self_attn.rope.rope_theta == 10_000
        assert isinstance(block.mlp.gate, TopKRouter)


@torch.no_grad()
def test_drafting_over_more_than_a_window_with_a_cache_gives_the_full_forms_logits() -> None:
    model, ids = toy_model(toy_config(RATIOS, num_nextn_predict_layers=1)), some_ids()
    full = model(ids, with_mtp=True)
    expected = model.logits(full.mtp[0].hidden_BTD)
    draft_cache, start = model.new_draft_cache(), 0
    for n in (5, 1, 1, 12, 1, 2, 13):
        guess, _ = model.draft(
            full.mtp_state[:, start : start + n], ids[:, start + 1 : start + n + 1], draft_cache
        )
        start += n
        assert difference(guess[:, 0], expected[:, start - 1]) < ATOL
    assert start == ids.shape[1] - 1


@torch.no_grad()
def test_the_modules_routing_stands_behind_the_models_and_can_be_forced() -> None:
    model, ids = toy_model(toy_config(RATIOS, num_nextn_predict_layers=2)), some_ids()
    routing = model(ids, with_mtp=True).routing
    assert {layer: len(r.experts_Nk) for layer, r in routing.items()} == {0: 72, 1: 72, 2: 72, 3: 70, 4: 68}
    forced = {4: torch.tensor([[3, 1]]).expand(68, 2)}
    again = model(ids, with_mtp=True, forced_experts=forced)
    assert torch.equal(again.routing[4].experts_Nk, forced[4])
    assert torch.equal(again.routing[3].experts_Nk, routing[3].experts_Nk)
