"""Low-rank adapters on a model: add, read, load, optimise and merge them.

The model object stays the same. A target layer becomes a `LoraLinear` with the same frozen tensors under the same
names; all other parameters are frozen in place. Adapter tensors have peft's names, so peft's files are read and
written without renaming (`lora.files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.meta import on_meta
from modelstack.architecture.projections import READ_DIRECTLY
from modelstack.errors import UserError
from modelstack.posttrain.lora.config import ALL_LINEAR, LoraConfig
from modelstack.posttrain.lora.linear import LoraLinear
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.optimizers.optimizer import GroupedOptimizer
from modelstack.train.parallel.materialise import own_part

PEFT_PREFIX = "base_model.model."
PEFT_NAMES = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_magnitude": "lora_magnitude_vector"}
"""Names of the adapter's parameters here, and their endings after the layer's name in a file of peft."""


def add_lora(model: CausalLM, config: LoraConfig) -> None:
    """Freeze a model and add adapters to its target layers, in place.

    A model on the meta device gets adapters without values, for `draw_adapters`.

    Raises:
        UserError: The model already has adapters, a target is not a linear layer of its blocks, or the rank is
            larger than a side of a target's weight.
    """
    if next(lora_layers(model), None) is not None:
        raise UserError("the model already has adapters: merge them with merge_lora first, or reload the base")
    targets = _targets(model, config)
    model.requires_grad_(False)
    for name, linear in targets.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, LoraLinear(linear, config).train(linear.training))
    draw_adapters(model, config)


def draw_adapters(model: CausalLM, config: LoraConfig) -> None:
    """Give new adapters their initial values; in a sharded model, each process draws its part.

    A is initialised as in peft and B is 0, so the model's output is unchanged. The values depend only on the seed
    and on the name of each layer.
    """
    for name, layer in lora_layers(model):
        layer.draw(config, name)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the adapted layers by name, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def lora_state(model: CausalLM) -> dict[str, Tensor]:
    """Return the adapters' tensors by peft's names, detached but sharing memory with the model."""
    return {
        f"{PEFT_PREFIX}{name}.{PEFT_NAMES[ours]}": parameter.detach()
        for name, layer in lora_layers(model)
        for ours, parameter in _adapter(layer)
    }


@torch.no_grad()
def load_lora_state(model: CausalLM, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of an adapter into the model's adapters, or this process's part of them.

    Args:
        model: Model with adapters of the same configuration, sharded or not.
        state: All tensors by peft's names, as in `lora_state`.

    Raises:
        UserError: Names or shapes differ from those of `lora_state(model)`.
    """
    own = lora_state(model)
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or foreign:
        raise UserError(
            f"the adapter belongs to another model or has other targets: {len(missing)} tensors missing "
            f"({_few(missing)}), {len(foreign)} unknown ({_few(foreign)}); call add_lora with the adapter's config"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"{name} has shape {list(state[name].shape)} and must have {list(tensor.shape)}: the adapter has "
                f"another rank, or its base another width; call add_lora with the adapter's config"
            )
    for name, tensor in own.items():
        own_part(tensor).keep(state[name], (0,) * tensor.ndim)


def lora_parameter_groups(model: CausalLM, lr: float, config: LoraConfig) -> list[dict[str, Any]]:
    """Return optimizer groups with the parameters' names: A and magnitudes at `lr`, B at `lr * lr_ratio_b`.

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
    """Return AdamW over the adapters with the recipe's values; weight decay is that of matrices.

    Raises:
        UserError: The model has no adapters, or the recipe sets Muon.
    """
    if optimizer.name != "adamw":
        raise UserError(
            f"optimizer.name is {optimizer.name!r}: Muon does not fit low-rank factors of adapters; set 'adamw'"
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
    """Return a new plain model with weights W + s BA in the adapted layers, summed in fp32.

    Args:
        model: Model with adapters; stays unchanged.
        dtype: Number type of all floating-point weights of the result.

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
        # Copy, so that further training does not change the merged model.
        state[name] = value.to(dtype, copy=layer is None) if is_weight else value.clone()
    with on_meta():
        merged = CausalLM(model.config)
    merged.load_state_dict(state, strict=True, assign=True)
    merged.tie_weights()
    return merged.requires_grad_(True).train(model.training)


def _adapter(layer: LoraLinear) -> list[tuple[str, nn.Parameter]]:
    found = [("lora_A", layer.lora_A), ("lora_B", layer.lora_B)]
    return found if layer.lora_magnitude is None else [*found, ("lora_magnitude", layer.lora_magnitude)]


def _targets(model: CausalLM, config: LoraConfig) -> dict[str, nn.Linear]:
    """Return the layers to adapt, by name."""
    blocks = model.model.layers
    numbers = range(len(blocks)) if config.layers_to_transform is None else config.layers_to_transform
    if unknown := [number for number in numbers if not 0 <= number < len(blocks)]:
        raise UserError(
            f"LoRA layers_to_transform contains {unknown[0]}; the model has blocks 0 to {len(blocks) - 1}"
        )
    linear = {
        f"model.layers.{number}.{name}": module
        for number in sorted(set(numbers))
        for name, module in blocks[number].named_modules()
        if type(module) is nn.Linear  # a subclass may compute something else
        and name.rpartition(".")[2] not in READ_DIRECTLY
    }
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    found: set[str] = set()
    for target in config.targets:
        fitting = {name for name in linear if target == ALL_LINEAR or f".{name}".endswith(f".{target}")}
        if not fitting:
            nearest = get_close_matches(target, [*kinds, ALL_LINEAR], n=1) or [ALL_LINEAR]
            raise UserError(
                f"LoRA target {target!r} is not a linear layer of the model's blocks; nearest: {nearest[0]!r}. "
                f"The model has {', '.join(kinds)}; {ALL_LINEAR!r} selects all of them"
            )
        found |= fitting
    chosen = {name: module for name, module in linear.items() if name in found}
    for name, module in chosen.items():
        if config.rank > (widest := min(module.in_features, module.out_features)):
            raise UserError(
                f"LoRA rank {config.rank} is too large for {name}, which is {module.out_features} by "
                f"{module.in_features}: the maximum is {widest}; set a smaller rank or leave out the target"
            )
    return chosen


def _few(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "") if names else "none"
