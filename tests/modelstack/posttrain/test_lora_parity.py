"""LoRA, rsLoRA and DoRA against peft 0.21: the same weights give the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.lora.adapters import PEFT_PREFIX, lora_layers, lora_state
from tests.modelstack.architecture.parity import random_ids
from tests.modelstack.posttrain.lora_models import logits_of, peft_pair, toy_config

pytest.importorskip("peft")

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"scaling": "rslora"},
    "dora": {"dora": True},
    "two targets": {"targets": ("q_proj", "down_proj")},
}
BASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"family": "qwen2", "tie_word_embeddings": True},
}


def _loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def _gradients(model: CausalLM, ids: Tensor) -> dict[str, Tensor]:
    """Return the adapter's gradients by peft's names."""
    _loss(model(ids).logits_BTV, ids).backward()
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            path, _, leaf = name.rpartition(".")
            found[f"{PEFT_PREFIX}{path}.{leaf}"] = parameter.grad
    return found


def _peer_gradients(peer: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    _loss(logits_of(peer, ids), ids).backward()
    found = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    return {
        name.replace(".default", "").removesuffix(".weight").replace("magnitude_vector", "magnitude"): gradient
        for name, gradient in found.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", BASES.values(), ids=BASES)
def test_outputs_and_gradients_equal_pefts(kind: str, keys: dict[str, Any]) -> None:
    model, peer = peft_pair(toy_config(**KINDS[kind]), **keys)
    ids = random_ids()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits_BTV, logits_of(peer, ids), atol=1e-5, rtol=1e-4)
    own, theirs = _gradients(model, ids), _peer_gradients(peer, ids)
    assert own.keys() == theirs.keys()
    assert len(own) == len(lora_state(model))
    for name, gradient in own.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, theirs[name], atol=1e-6, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("keys", [BASES["plain"], BASES["qwen2"]], ids=["plain", "qwen2"])
def test_bf16_base_with_fp32_adapters_equals_peft_within_rounding(kind: str, keys: dict[str, Any]) -> None:
    ids = random_ids()
    exact, _ = peft_pair(toy_config(**KINDS[kind]), **keys)
    model, peer = peft_pair(toy_config(**KINDS[kind]), torch.bfloat16, **keys)
    with torch.no_grad():
        wanted, own, theirs = exact(ids).logits_BTV, model(ids).logits_BTV.float(), logits_of(peer, ids)
    rounding = (theirs - wanted).abs().mean()
    assert (own - wanted).abs().mean() < 1.2 * rounding
    wanted_g, own_g, their_g = _gradients(exact, ids), _gradients(model, ids), _peer_gradients(peer, ids)
    assert all(gradient.dtype == torch.float32 for gradient in own_g.values())
    assert _distance(own_g, wanted_g) < 1.5 * _distance(their_g, wanted_g)
    assert _distance(own_g, wanted_g) < 0.1


def _distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Return the length of all differences over the length of what is wanted."""
    apart = sum(_square(found[name] - wanted[name]) for name in wanted)
    return (apart / sum(_square(one) for one in wanted.values())) ** 0.5


def _square(x: Tensor) -> float:
    return float(x.double().square().sum())


def test_only_adapters_learn_and_their_input_gets_no_needless_gradient() -> None:
    model, _ = peft_pair(toy_config(targets=("v_proj",)))
    seen: list[bool] = []
    first = dict(lora_layers(model))["model.layers.0.self_attn.v_proj"]
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].requires_grad))
    ids = random_ids()
    _loss(model(ids).logits_BTV, ids).backward()
    assert seen == [False]
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {f"model.layers.{n}.self_attn.v_proj.lora_{part}" for n in (0, 1) for part in "AB"}


def test_gradients_hold_against_finite_differences() -> None:
    model, _ = peft_pair(toy_config())
    layer = dict(lora_layers(model))["model.layers.0.mlp.up_proj"].double()
    x = torch.randn(3, 2, layer.in_features, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a, b: _with(layer, x, a, b), (x, layer.lora_A, layer.lora_B))


def _with(layer: nn.Module, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.func.functional_call(layer, {"lora_A": a, "lora_B": b}, (x,))
