"""Adapters put on, read out, taken up and merged; what is refused, and how the refusal reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.projections import projected
from modelstack.errors import UserError
from modelstack.posttrain.lora.adapters import (
    add_lora,
    load_lora_state,
    lora_layers,
    lora_optimizer,
    lora_parameter_groups,
    lora_state,
    merge_lora,
)
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.blocks import apply_checkpointing
from tests.modelstack.architecture.families import FAMILIES
from tests.modelstack.architecture.parity import random_ids
from tests.modelstack.posttrain.lora_models import adapted_model, stir, toy_base, toy_config
from tests.modelstack.train.toys import family_model

N_LAYERS, PER_LAYER = 2, 7


def _logits(model: CausalLM) -> torch.Tensor:
    with torch.no_grad():
        return model(random_ids()).logits_BTV


def test_a_new_adapter_changes_nothing() -> None:
    model = toy_base()
    before = _logits(model)
    add_lora(model, toy_config())
    assert torch.equal(_logits(model), before)
    add_lora(dora := toy_base(), toy_config(dora=True))
    torch.testing.assert_close(_logits(dora), before, atol=1e-5, rtol=1e-5)


def test_all_linear_layers_of_the_blocks_are_adapted_and_nothing_else_learns() -> None:
    model = toy_base()
    names = set(model.state_dict())
    add_lora(model, toy_config())
    assert len(dict(lora_layers(model))) == N_LAYERS * PER_LAYER
    assert names <= set(model.state_dict())
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"{name}.lora_{part}" for name, _ in lora_layers(model) for part in "AB"}


def test_the_first_values_depend_on_the_seed_and_the_name_alone() -> None:
    def first(seed: int, *targets: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(targets))  # the global generator has no say
        add_lora(model := toy_base(), toy_config(init_seed=seed, targets=targets or ("all-linear",)))
        return lora_state(model)

    every, again, some, other = first(1), first(1), first(1, "v_proj"), first(2)
    assert all(torch.equal(every[name], again[name]) for name in every)
    assert some and all(torch.equal(every[name], some[name]) for name in some)
    assert not any(torch.equal(every[name], other[name]) for name in every if "lora_A" in name)
    q, v = (every[f"base_model.model.model.layers.0.self_attn.{part}_proj.lora_A.weight"] for part in "qv")
    assert not torch.equal(q, v)


@pytest.mark.parametrize("keys", [{}, {"scaling": "rslora"}, {"dora": True}])
def test_merged_weights_compute_what_base_and_adapter_do(keys: dict[str, object]) -> None:
    model = adapted_model(toy_config(**keys))
    merged = merge_lora(model)
    assert not dict(lora_layers(merged))
    torch.testing.assert_close(_logits(merged), _logits(model), atol=1e-5, rtol=1e-5)
    assert (_logits(merged) - _logits(toy_base())).abs().max() > 0.1
    assert merged.state_dict().keys() == toy_base().state_dict().keys()


def test_a_merged_model_stays_when_training_goes_on() -> None:
    model = adapted_model(tie_word_embeddings=True)
    merged = merge_lora(model)
    before = _logits(merged)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(_logits(merged), before)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_a_state_goes_into_another_model_with_the_same_config() -> None:
    model, other = adapted_model(), toy_base()
    add_lora(other, toy_config(init_seed=9))
    load_lora_state(other, {name: tensor.clone() for name, tensor in lora_state(model).items()})
    assert torch.equal(_logits(other), _logits(model))


def test_a_state_of_other_targets_or_rank_is_refused_whole() -> None:
    model = adapted_model()
    before = {name: tensor.clone() for name, tensor in lora_state(model).items()}
    add_lora(fewer := toy_base(), toy_config(targets=("q_proj",)))
    with pytest.raises(UserError, match=r"24 tensors missing .*the adapter's config"):
        load_lora_state(model, lora_state(fewer))
    add_lora(wider := toy_base(), toy_config(rank=8))
    with pytest.raises(UserError, match=r"shape \[8, 64\] and must have \[4, 64\]"):
        load_lora_state(model, lora_state(wider))
    assert all(torch.equal(tensor, before[name]) for name, tensor in lora_state(model).items())


def test_dropout_leaves_inputs_out_in_training_only() -> None:
    model = adapted_model(toy_config(dropout=0.5))
    plain = adapted_model(toy_config())
    assert torch.equal(_logits(model), _logits(plain))
    model.train()
    torch.manual_seed(0)
    one, other = _logits(model), _logits(model)
    assert not torch.equal(one, other)


def test_dropout_passes_gradients_to_what_it_kept() -> None:
    model = adapted_model(toy_config(dropout=0.5)).train()
    layer = dict(lora_layers(model))["model.layers.0.mlp.up_proj"]
    x = torch.randn(5, layer.in_features, requires_grad=True)

    def through_autograd() -> torch.Tensor:
        seen = torch.nn.functional.dropout(x, 0.5)
        low = seen @ layer.lora_A.T @ layer.lora_B.T * layer.scale
        return torch.nn.functional.linear(x, layer.weight) + low

    found = []
    for compute in (lambda: layer(x), through_autograd):
        torch.manual_seed(1)
        y = compute()
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, layer.lora_A, layer.lora_B))))
    for own, wanted in zip(*found, strict=True):
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)


def test_no_tokens_have_no_outputs_with_an_adapter_either() -> None:
    with torch.no_grad():
        for _, layer in lora_layers(adapted_model()):
            assert layer(torch.empty(1, 0, layer.in_features)).shape == (1, 0, layer.out_features)


def test_layers_that_share_an_input_compute_as_they_do_alone() -> None:
    layers = [layer for _, layer in lora_layers(adapted_model(toy_config(rank=3), attention_bias=True))][:3]
    layers[1] = dict(lora_layers(adapted_model(toy_config(rank=5, dora=True))))["model.layers.0.self_attn.k_proj"]
    x = torch.randn(2, 5, layers[0].in_features, requires_grad=True)
    adapters = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
    found = []
    for outputs in (projected(x, layers), [layer(x) for layer in layers]):
        gradients = torch.autograd.grad(torch.cat([y.square().sum()[None] for y in outputs]).sum(), [x, *adapters])
        found.append([*outputs, *gradients])
    assert len(found[0]) == 3 + 1 + 7
    for together, alone in zip(*found, strict=True):
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keys", [{}, {"attention_bias": True, "mlp_bias": True}])
def test_checkpointed_blocks_give_the_same_gradients(keys: dict[str, Any]) -> None:
    found = []
    for kind in ("none", "full", "selective"):
        model = adapted_model(**keys)
        apply_checkpointing(model, kind)
        model(random_ids()).logits_BTV.square().mean().backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for kept, full, selective in zip(*found, strict=True):
        torch.testing.assert_close(full, kept)
        torch.testing.assert_close(selective, kept)


def test_b_learns_by_its_own_rate() -> None:
    config = toy_config(lr_ratio_b=16.0, dora=True)
    model = adapted_model(config)
    slow, fast = lora_parameter_groups(model, 1e-3, config)
    assert (slow["lr"], fast["lr"]) == (1e-3, pytest.approx(16e-3))
    assert {name.rpartition(".")[2] for name in slow["names"]} == {"lora_A", "lora_magnitude"}
    assert {name.rpartition(".")[2] for name in fast["names"]} == {"lora_B"}
    assert len(slow["params"]) + len(fast["params"]) == len(lora_state(model))


def test_the_optimizer_moves_every_adapter_and_nothing_else() -> None:
    model, config = adapted_model(), toy_config()
    optimizer = lora_optimizer(model, config, OptimizerConfig(name="adamw", lr=1e-2))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model(random_ids()).logits_BTV.square().mean().backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family_takes_adapters_that_merge(model_type: str) -> None:
    model = family_model(model_type).eval()
    before = _logits(model)
    add_lora(model, toy_config(rank=1))
    stir(model)
    torch.testing.assert_close(_logits(merge_lora(model)), _logits(model), atol=1e-4, rtol=1e-4)
    assert not torch.equal(_logits(model), before)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"target 'q_porj' .*nearest: 'q_proj'.*gate_proj.*'all-linear' selects all"
    ):
        add_lora(toy_base(), toy_config(targets=("v_proj", "q_porj")))


def test_a_layer_that_another_reads_by_itself_takes_no_adapter() -> None:
    with pytest.raises(UserError, match=r"'kv_b_proj' is not a linear layer"):
        add_lora(family_model("deepseek_v3"), toy_config(rank=1, targets=("kv_b_proj",)))


def test_a_rank_beyond_a_layer_names_it() -> None:
    with pytest.raises(UserError, match=r"rank 33 is too large for .*\.0\.self_attn\.k_proj.*the maximum is 32"):
        add_lora(model := toy_base(), toy_config(rank=33))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_are_put_on_once_and_merged_only_where_there_are_some() -> None:
    with pytest.raises(UserError, match="already has adapters"):
        add_lora(adapted_model(), toy_config())
    with pytest.raises(UserError, match="no adapters to merge"):
        merge_lora(toy_base())
    with pytest.raises(UserError, match="call add_lora first"):
        lora_parameter_groups(toy_base(), 1e-3, toy_config())


def test_muon_is_refused_for_factors() -> None:
    with pytest.raises(UserError, match=r"'muon'.*set 'adamw'"):
        lora_optimizer(adapted_model(), toy_config(), OptimizerConfig(name="muon"))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"targets": ()}, {"ranks": 4}])
def test_a_config_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LoraConfig.model_validate(wrong)
