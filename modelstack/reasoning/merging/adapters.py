"""Merges LoRA adapters as weight updates, into a new adapter or into the base model."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from modelstack.architecture.checkpoint import MAX_SHARD_BYTES, load_config
from modelstack.architecture.checkpoint_names import file_name
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.load import load_gguf
from modelstack.architecture.meta import on_meta
from modelstack.errors import UserError
from modelstack.posttrain.lora.adapters import add_lora, lora_layers
from modelstack.posttrain.lora.config import ALL_LINEAR, LoraConfig
from modelstack.posttrain.lora.files import Adapter, read_adapter, save_adapter
from modelstack.posttrain.lora.gguf import write_gguf_adapter
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF
from modelstack.posttrain.starting_point import StartingPoint
from modelstack.reasoning.merging.low_rank import Factors, Update, dense_or_zero, factorised, updates
from modelstack.reasoning.merging.methods import merged
from modelstack.reasoning.merging.models import Advanced, planned_like, write_model
from modelstack.reasoning.merging.parents import Parents
from modelstack.reasoning.merging.recipe import MergeRecipe
from modelstack.reasoning.merging.tensor_files import open_tensors
from modelstack.tokenizer.tokenizer_folder import load_tokenizer


class AdapterUpdates:
    """Updates of all parents, by the name of the base weight."""

    def __init__(self, recipe: MergeRecipe, parents: Parents) -> None:
        """Read the adapters; they are small enough to stay in memory.

        Raises:
            UserError: An adapter uses DoRA or cannot be read, or two adapters have different shapes for one
                layer.
        """
        self._recipe, self._parents = recipe, parents
        folders = [_folder(start) for start in parents.starts]
        self.adapters: list[Adapter] = [read_adapter(folder) for folder in folders]
        self._updates = [updates(*each) for each in zip(self.adapters, folders, strict=True)]
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path, of_one in zip(recipe.parents, self._updates, strict=True):
            for name, update in of_one.items():
                if self.shapes.setdefault(name, update.shape) != update.shape:
                    raise UserError(
                        f"{path} has an update of {name} with shape {list(update.shape)}, another parent has "
                        f"{list(self.shapes[name])}; only updates of equal shape can be merged"
                    )

    @torch.no_grad()
    def merged(self, name: str) -> Tensor:
        """Return the merged update of a weight, [O, I]; an adapter without this layer counts as zeros."""
        shape = self.shapes[name]
        each: list[Update | None] = [of_one.get(name) for of_one in self._updates]
        deltas = [dense_or_zero(update, shape) for update in each]
        return merged(self._recipe, name, deltas, torch.zeros(shape), self._parents.ids)


def merge_into_base(recipe: MergeRecipe, parents: Parents, folder: Path, advanced: Advanced) -> int:
    """Write the base model with the merged update added; return its number of parameters.

    Args:
        recipe: Merge method and its settings.
        parents: Adapters and their base.
        folder: Checkpoint folder; replaced if it exists.
        advanced: Callback for progress, called after each tensor.

    Raises:
        UserError: An adapter cannot be read or has another architecture, or a merged value is not finite.
    """
    assert parents.base is not None  # `find_parents` ensures it for adapters
    of_adapters, path = AdapterUpdates(recipe, parents), parents.base.weights
    with open_tensors(path) as base:
        in_file = {file_name(name, base.config): name for name in of_adapters.shapes}
        shapes = {name: base.facts[name].shape if name in base.facts else None for name in in_file}
        if odd := [name for name, shape in shapes.items() if shape != of_adapters.shapes[in_file[name]]]:
            raise UserError(f"the adapters update {odd[0]}, but base {path} has no such tensor of that shape")
        planned = planned_like(base, recipe.dtype)

        def make(name: str) -> Tensor:
            weight = base.read(name)
            return weight.float() + of_adapters.merged(in_file[name]) if name in in_file else weight

        write_model(folder, base.config, (path, load_tokenizer(path)), planned, make, advanced, MAX_SHARD_BYTES)
    return sum(prod(facts.shape) for facts in planned.values())


def merge_into_adapter(
    recipe: MergeRecipe, parents: Parents, rank: int, out: Path, advanced: Advanced
) -> dict[str, Factors]:
    """Write the merged update as an adapter for peft and llama.cpp; return the factors by weight name.

    Args:
        recipe: Merge method and its settings.
        parents: Adapters and their base.
        rank: Rank of the new adapter.
        out: Folder of the stage.
        advanced: Callback for progress, called after each layer.

    Raises:
        UserError: An adapter cannot be read, the rank exceeds the size of a layer, or llama.cpp does not support
            adapters on a layer.
    """
    assert parents.base is not None  # `find_parents` ensures it for adapters
    of_adapters, base = AdapterUpdates(recipe, parents), parents.base
    config = LoraConfig(rank=rank, alpha=float(rank), targets=_targets(of_adapters.adapters))
    model = _bare(base.weights, config)
    factors: dict[str, Factors] = {}
    for n, name in enumerate(sorted(of_adapters.shapes), start=1):
        factors[name] = factorised(of_adapters.merged(name), rank)
        advanced(n, len(of_adapters.shapes))
    _put(model, factors)
    save_adapter(model, config, out / ADAPTER, base_sha256=base.sha256)
    write_gguf_adapter(model, config, out / ADAPTER_GGUF, name=recipe.name, base_sha256=base.sha256)
    return factors


def _folder(start: StartingPoint) -> Path:
    assert start.stage is not None  # adapters exist only as stages
    return start.stage.path / ADAPTER


def _targets(adapters: list[Adapter]) -> tuple[str, ...]:
    named = dict.fromkeys(target for adapter in adapters for target in adapter.config.targets)
    return (ALL_LINEAR,) if ALL_LINEAR in named else tuple(named)


def _bare(base: Path, config: LoraConfig) -> CausalLM:
    """Return a model with adapters on the meta device; only names and shapes of its layers are used."""
    of_base: ModelConfig = load_gguf(base).config if base.is_file() else load_config(base)
    with on_meta():
        model = CausalLM(of_base)
    add_lora(model, config)
    return model


def _put(model: CausalLM, factors: Mapping[str, Factors]) -> None:
    layers = dict(lora_layers(model))
    if odd := sorted({f"{name}.weight" for name in layers} ^ factors.keys()):
        raise UserError(f"{odd[0]} is in the adapters' configs or in their files, but not in both")
    for name, layer in layers.items():
        found = factors[f"{name}.weight"]
        layer.lora_A, layer.lora_B = nn.Parameter(found.a), nn.Parameter(found.b)
