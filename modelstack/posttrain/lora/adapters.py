"""Low-rank adapters on a model: put on, read out, taken up again, merged.

The model stays the one it was: a target layer becomes a `LoraLinear` with the same frozen tensors under the same
names, everything else is frozen in place. Adapters are known to the world by peft's names, so its files are read
and written as they are (`adapter_files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.posttrain.lora.config import ALL_LINEAR, LoraConfig
from modelstack.posttrain.lora.linear import LoraLinear
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.optimizers.optimizer import GroupedOptimizer

PEFT_PREFIX = "base_model.model."
PEFT_NAMES = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_magnitude": "lora_magnitude_vector"}
"""Ours to what a file of peft has behind the layer's name."""
READ_BY_OTHERS = frozenset({"kv_b_proj"})
"""Layers whose weight latent attention multiplies by itself while decoding: an adapter would be passed over."""


def add_lora(model: CausalLM, config: LoraConfig) -> None:
    """Freeze a model and put adapters on its target layers, in place.

    A starts as peft's does and B at 0, so the model computes what it did. First values depend on the seed and each
    layer's name alone.

    Raises:
        UserError: The model has adapters already, a target is no linear layer of its blocks, or the rank is larger
            than a target's width.
    """
    if next(lora_layers(model), None) is not None:
        raise UserError("the model has adapters already: merge_lora them first, or load the base anew")
    targets = _targets(model, config)
    model.requires_grad_(False)
    for name, linear in targets.items():
        path, _, leaf = name.rpartition(".")
        adapted = LoraLinear(linear, config, name)
        setattr(model.get_submodule(path), leaf, adapted.train(linear.training))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the adapted layers by name, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def lora_state(model: CausalLM) -> dict[str, Tensor]:
    """Return the adapters by peft's names, the very tensors, detached."""
    return {
        f"{PEFT_PREFIX}{name}.{PEFT_NAMES[ours]}": parameter.detach()
        for name, layer in lora_layers(model)
        for ours, parameter in _adapter(layer)
    }


@torch.no_grad()
def load_lora_state(model: CausalLM, state: Mapping[str, Tensor]) -> None:
    """Copy adapters into those of a model, all of them.

    Raises:
        UserError: Names or shapes are not those that `lora_state` of this model has.
    """
    own = lora_state(model)
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or foreign:
        raise UserError(
            f"the adapter is of another model or has other targets: {len(missing)} tensors missing "
            f"({_few(missing)}), {len(foreign)} not known ({_few(foreign)}); give add_lora its own config"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"{name} has shape {list(state[name].shape)} and must have {list(tensor.shape)}: the adapter has "
                f"another rank, or its base another width; give add_lora the adapter's own config"
            )
    for name, tensor in own.items():
        tensor.copy_(state[name])


def lora_parameter_groups(model: CausalLM, lr: float, config: LoraConfig) -> list[dict[str, Any]]:
    """Return groups for an optimizer: A and magnitudes at `lr`, B at `lr * lr_ratio_b`; with their names.

    Raises:
        UserError: The model has no adapters.
    """
    named: dict[bool, list[tuple[str, nn.Parameter]]] = {False: [], True: []}
    for name, layer in lora_layers(model):
        for leaf, parameter in _adapter(layer):
            named[leaf == "lora_B"].append((f"{name}.{leaf}", parameter))
    if not named[True]:
        raise UserError("the model has no adapters: call add_lora first")
    return [
        {
            "params": [parameter for _, parameter in of_group],
            "names": [name for name, _ in of_group],
            "lr": lr * (config.lr_ratio_b if is_b else 1.0),
        }
        for is_b, of_group in named.items()
    ]


def lora_optimizer(model: CausalLM, config: LoraConfig, optimizer: OptimizerConfig) -> GroupedOptimizer:
    """Return AdamW over the adapters, by the recipe's values; weight decay as for matrices.

    Raises:
        UserError: The model has no adapters, or the recipe wants Muon.
    """
    if optimizer.name != "adamw":
        raise UserError(
            f"optimizer.name is {optimizer.name!r}: a low-rank factor is no matrix to orthogonalise; set 'adamw'"
        )
    fixed = {
        "method": "adamw",
        "betas": optimizer.betas,
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }
    return GroupedOptimizer([group | fixed for group in lora_parameter_groups(model, optimizer.lr, config)])


@torch.no_grad()
def merge_lora(model: CausalLM, dtype: torch.dtype = torch.float32) -> CausalLM:
    """Return a plain model with W + s BA in the adapted layers, summed in fp32; the given one is unchanged.

    Args:
        model: With adapters.
        dtype: Of all floating-point weights of the result.

    Raises:
        UserError: The model has no adapters.
    """
    layers = dict(lora_layers(model))
    if not layers:
        raise UserError("the model has no adapters to merge: call add_lora and train, or load an adapter")
    own = {f"{name}.{leaf}" for name, layer in layers.items() for leaf, _ in _adapter(layer)}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in own:
            continue
        layer = layers.get(name.removesuffix(".weight"))
        value = tensor.detach() if layer is None else layer.merged_weight()
        is_weight = name in parameters and value.is_floating_point()
        # A copy of its own, so that training on does not change a merged model.
        state[name] = value.to(dtype, copy=layer is None) if is_weight else value.clone()
    with torch.device("meta"):
        merged = CausalLM(model.config)
    merged.load_state_dict(state, strict=True, assign=True)
    merged.tie_weights()
    return merged.requires_grad_(True).train(model.training)


def _adapter(layer: LoraLinear) -> list[tuple[str, nn.Parameter]]:
    found = [("lora_A", layer.lora_A), ("lora_B", layer.lora_B)]
    return found if layer.lora_magnitude is None else [*found, ("lora_magnitude", layer.lora_magnitude)]


def _targets(model: CausalLM, config: LoraConfig) -> dict[str, nn.Linear]:
    """Return the layers to adapt, by name."""
    linear = {
        f"model.layers.{name}": module
        for name, module in model.model.layers.named_modules()
        if type(module) is nn.Linear
        and name.rpartition(".")[2] not in READ_BY_OTHERS  # no subclass: it may differ
    }
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    found: set[str] = set()
    for target in config.targets:
        fitting = {name for name in linear if target == ALL_LINEAR or f".{name}".endswith(f".{target}")}
        if not fitting:
            nearest = get_close_matches(target, [*kinds, ALL_LINEAR], n=1) or [ALL_LINEAR]
            raise UserError(
                f"LoRA target {target!r} is no linear layer of the model's blocks; nearest: {nearest[0]!r}. "
                f"It has {', '.join(kinds)}; {ALL_LINEAR!r} is all of them"
            )
        found |= fitting
    chosen = {name: module for name, module in linear.items() if name in found}
    for name, module in chosen.items():
        if config.rank > (widest := min(module.in_features, module.out_features)):
            raise UserError(
                f"LoRA rank {config.rank} is more than {name} has: it is {module.out_features} by "
                f"{module.in_features}, so at most {widest} make sense; set a smaller rank or leave out the target"
            )
    return chosen


def _few(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "") if names else "none"
