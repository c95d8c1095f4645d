"""fp32 masters keep what bf16 would swallow."""

import json
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelstack.architecture.initialise import initialise
from modelstack.errors import UserError
from modelstack.train.fp8 import Fp8Linear
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.precision import Fp32Masters, with_fp32_masters
from tests.modelstack.train.toys import family_model, values, with_random_gradients

CONFIG = OptimizerConfig(lr=0.01)


def mastered(model: nn.Module, config: OptimizerConfig = CONFIG) -> Fp32Masters:
    return with_fp32_masters(model, partial(build_optimizer, config=config))


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0)


def test_updates_that_bf16_swallows_accumulate() -> None:
    small = 2.0**-12  # of a weight of 1: bf16 cannot tell less than 2^-9 below it
    swallowed, kept = nn.Linear(1, 1, bias=False).bfloat16(), nn.Linear(1, 1, bias=False)
    for model in (swallowed, kept):
        nn.init.ones_(model.weight)
    optimizers = (plain_sgd(swallowed), with_fp32_masters(kept, plain_sgd))
    for _ in range(64):
        for model, optimizer in zip((swallowed, kept), optimizers, strict=True):
            model.weight.grad = torch.full_like(model.weight, small, dtype=model.weight.grad_dtype)
            optimizer.step()
    assert kept.weight.dtype == torch.bfloat16
    assert swallowed.weight.item() == 1.0
    assert kept.weight.item() == 1.0 - 64 * small


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v4"])
def test_masters_move_as_an_fp32_model_would_and_the_model_is_their_rounding(family: str) -> None:
    exact, model = family_model(family), family_model(family)
    optimizer = build_optimizer(exact, CONFIG)
    masters = mastered(model)
    for step in range(3):
        with_random_gradients(model, step)
        for p, q in zip(exact.parameters(), model.parameters(), strict=True):
            assert q.grad is not None
            p.grad = q.grad.clone()
        optimizer.step()
        masters.step()
    expected = values(exact)
    assert all(torch.equal(value, expected[name].bfloat16()) for name, value in values(model).items())
    in_order = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(torch.equal(own, p) for (_, own), p in zip(masters.pairs, in_order, strict=True))


def test_masters_are_the_values_before_the_cast() -> None:
    model = family_model("llama")
    before = values(model)["lm_head.weight"]
    (master,) = [own for p, own in mastered(model).pairs if p is model.lm_head.weight]
    assert torch.equal(master, before)
    assert torch.equal(model.lm_head.weight, before.bfloat16())


def test_tied_weights_stay_tied_and_have_one_master() -> None:
    model = family_model("qwen3")
    masters = mastered(model)
    with_random_gradients(model, 0)
    masters.step()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(p is model.lm_head.weight for p, _ in masters.pairs) == 1
    assert len(masters.pairs) == len(list(model.parameters()))


def test_gradients_of_micro_batches_are_summed_in_fp32() -> None:
    model = nn.Linear(1, 1, bias=False)
    masters = with_fp32_masters(model, plain_sgd)
    for x in (1.0, 2.0**-9, 2.0**-9):  # in bf16 the sum would stay 1
        model(torch.full((1, 1), x, dtype=torch.bfloat16)).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.item() == 1.0 + 2.0**-8
    masters.zero_grad()
    assert model.weight.grad is None


def test_a_step_forgets_no_gradient_and_keeps_none_of_its_own() -> None:
    model = nn.Linear(1, 1, bias=False)
    masters = with_fp32_masters(model, plain_sgd)
    model(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
    masters.step()
    assert model.weight.grad is not None and model.weight.grad.item() == 1.0
    assert masters.param_groups[0]["params"][0].grad is None
    masters.zero_grad(set_to_none=False)
    assert model.weight.grad.item() == 0.0


def test_an_fp8_layers_weight_gradient_reaches_its_master_unrounded() -> None:
    torch.manual_seed(0)
    layer = Fp8Linear.of(nn.Linear(128, 16, bias=False))
    with_fp32_masters(layer, plain_sgd)
    layer(torch.randn(4, 128).bfloat16()).square().sum().backward()
    gradient = layer.weight.grad
    assert gradient is not None and gradient.dtype == torch.float32
    assert not torch.equal(gradient, gradient.bfloat16().float())


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3", "deepseek_v4"])
def test_a_bf16_model_of_each_kind_learns_a_batch_by_heart(family: str) -> None:
    model = initialise(family_model(family))
    masters = mastered(model)
    ids = torch.randint(0, 128, (2, 17), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(12):
        logits = model(ids[:, :-1]).logits_BTV
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        masters.step()
        masters.zero_grad()
        losses.append(loss.item())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert losses[-1] < 0.8 * losses[0]


def test_a_loaded_state_continues_bit_for_bit() -> None:
    model = family_model("qwen3_moe")
    masters = mastered(model)
    with_random_gradients(model, 0)
    masters.step()
    state = deepcopy(masters.state_dict())
    json.dumps(state["optimizer"]["param_groups"])
    resumed = family_model("qwen3_moe", seed=1)
    resumed_masters = mastered(resumed)
    resumed_masters.load_state_dict(state)
    expected = values(model)
    assert all(torch.equal(value, expected[name]) for name, value in values(resumed).items())
    for one, stepping in ((model, masters), (resumed, resumed_masters)):
        with_random_gradients(one, 1)
        stepping.step()
    pairs = zip(masters.pairs, resumed_masters.pairs, strict=True)
    assert all(torch.equal(own, other) for (_, own), (_, other) in pairs)


def test_the_state_of_another_model_is_refused() -> None:
    state = mastered(family_model("llama")).state_dict()
    with pytest.raises(UserError, match="the saved masters are"):
        mastered(family_model("qwen3")).load_state_dict(state)


def test_learning_rates_reach_the_optimizer_within() -> None:
    masters = mastered(family_model("llama"))
    for group in masters.param_groups:
        group["lr"] = 0.005
    assert {group["lr"] for group in masters.optimizer.param_groups} == {0.005}


def test_a_type_that_needs_no_masters_is_refused() -> None:
    with pytest.raises(UserError, match="needs no masters"):
        with_fp32_masters(nn.Linear(1, 1), plain_sgd, torch.float32)
