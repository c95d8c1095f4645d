"""LoRA adapters as GGUF files for llama.cpp, written and read.

Format: llama.cpp's src/llama-adapter.cpp and convert_lora_to_gguf.py. Each adapted weight NAME of the base has two
tensors, `NAME.lora_a` [r, I] and `NAME.lora_b` [O, r]. The rows of B have the order in which the base's family
stores the rows of the weight (for llama's q and k see `gguf.rules.pairs_beside_each_other`). llama.cpp multiplies
by `adapter.lora.alpha` / r, so the larger factor of rsLoRA is included in alpha. It does not support DoRA: such an
adapter can only be merged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.numbers import PlannedTensor, decode, encode, number_type
from modelstack.architecture.gguf.registry import family_of
from modelstack.architecture.gguf.rules import Rule
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.gguf_file import open_gguf
from modelstack.posttrain.lora.adapters import PEFT_PREFIX, lora_layers
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import Adapter

NUMBER_TYPE_NAMES = ("f32", "f16", "bf16")
"""Number types of adapters. Quantised types need blocks of more numbers than the r of a row of B."""
ALPHA_KEY, BASE_KEY = "adapter.lora.alpha", "modelstack.base.sha256"


def write_gguf_adapter(
    model: CausalLM,
    config: LoraConfig,
    path: str | os.PathLike[str],
    *,
    type_name: str = "f16",
    name: str | None = None,
    base_sha256: str | None = None,
) -> Path:
    """Write a model's adapter for llama.cpp and return the path.

    Args:
        model: Model with adapters, of a family that GGUF supports.
        config: Configuration of the adapters.
        path: Target file, replaced only if writing succeeds.
        type_name: f32, f16 or bf16.
        name: Value of `general.name`.
        base_sha256: Hash of the base, stored in the file.

    Raises:
        UserError: The adapter uses DoRA, the model has no adapters, llama.cpp does not support an adapter on one
            of the layers, or a number is infinite or too large for the type.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.gguf_writer import GGUFWriter

    if config.dora:
        raise UserError(
            "the adapter uses DoRA, which llama.cpp does not support: merge it into the base (`merge_adapter`) "
            "and export the merged model as GGUF, or train with dora = false"
        )
    layers = dict(lora_layers(model))
    if not layers:
        raise UserError("the model has no adapters to write: call add_lora first")
    ggml_type = _number_type(type_name)
    rules = _rules(model.config)
    family = family_of(model.config.model_type)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, closing(GGUFWriter(temporary, family.arch)) as writer:
        writer.add_type("adapter")
        if name:
            writer.add_name(name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32(ALPHA_KEY, config.scale * config.rank)
        if base_sha256:
            writer.add_string(BASE_KEY, base_sha256)
        for layer_name, layer in layers.items():
            rule = _rule(rules, layer_name)
            a, b = (factor.detach().float().cpu().numpy() for factor in (layer.lora_A, layer.lora_B))
            for part, array in (("lora_a", a), ("lora_b", rule.split(b)[0])):
                tensor = PlannedTensor(f"{rule.stored[0]}.{part}", array.shape, ggml_type)
                writer.add_tensor(tensor.name, encode(array, tensor), raw_dtype=GGMLQuantizationType(ggml_type))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return path


def read_gguf_adapter(path: str | os.PathLike[str], config: ModelConfig) -> Adapter:
    """Read an adapter file written here or by llama.cpp's converter.

    Args:
        path: The file.
        config: Configuration of the base.

    Raises:
        UserError: The file is not a LoRA adapter, is damaged, belongs to another architecture, or has different
            ranks.
    """
    path = Path(path)
    with open_gguf(path) as file:
        fields = file.fields
        if fields.get("general.type") != "adapter" or fields.get("adapter.type") != "lora":
            raise UserError(f"{path} is not a LoRA adapter: general.type is {fields.get('general.type')!r}")
        family = family_of(config.model_type)
        if fields.get("general.architecture") != family.arch:
            raise UserError(
                f"{path} is an adapter for {fields.get('general.architecture')!r}; the base is {family.arch!r}"
            )
        stored = {
            name: torch.from_numpy(decode(file.raw(name), tensor.ggml_type, tensor.shape).copy())
            for name, tensor in file.tensors.items()
        }
    layers = _pairs(stored, path)
    by_stored = {rule.stored[0]: rule for rule in _rules(config).values() if len(rule.stored) == 1}
    ranks = {len(a) for a, _ in layers.values()}
    if len(ranks) != 1:
        raise UserError(f"{path}: layers have ranks {sorted(ranks)}; only one rank for all layers is supported")
    rank = ranks.pop()
    state: dict[str, Tensor] = {}
    for name, (a, b) in layers.items():
        rule = by_stored.get(name)
        if rule is None:
            raise UserError(f"{path}: {name} is not a weight of a {family.arch!r} model")
        layer = rule.name.removesuffix(".weight")
        state[f"{PEFT_PREFIX}{layer}.lora_A.weight"] = a
        state[f"{PEFT_PREFIX}{layer}.lora_B.weight"] = torch.from_numpy(rule.join((b.numpy(),)).copy())
    targets = sorted({name.split(".")[-3] for name in state})
    alpha = fields.get(ALPHA_KEY)
    # llama.cpp uses the factor 1 if alpha is missing.
    blocks = tuple(sorted({int(name.removeprefix(PEFT_PREFIX).split(".")[2]) for name in state}))
    found = LoraConfig(
        rank=rank,
        alpha=float(alpha) if alpha else float(rank),
        targets=tuple(targets),
        layers_to_transform=None if len(blocks) == config.num_hidden_layers else blocks,
    )
    sha256 = fields.get(BASE_KEY)
    return Adapter(found, state, sha256 if isinstance(sha256, str) else None)


def _pairs(stored: Mapping[str, Tensor], path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the tensors A and B by the name of the adapted weight."""
    names = {name.rpartition(".")[0] for name in stored}
    if not names or stored.keys() != {f"{name}.{part}" for name in names for part in ("lora_a", "lora_b")}:
        raise UserError(f"{path}: an adapter has two tensors for each weight, NAME.lora_a and NAME.lora_b")
    pairs = {name: (stored[f"{name}.lora_a"], stored[f"{name}.lora_b"]) for name in sorted(names)}
    for name, (a, b) in pairs.items():
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise UserError(
                f"{path}: {name} has lora_a {list(a.shape)} and lora_b {list(b.shape)}, expected [r, I] and [O, r]"
            )
    return pairs


def _rules(config: ModelConfig) -> dict[str, Rule]:
    return {rule.name: rule for rule in family_of(config.model_type).rules(config)}


def _rule(rules: Mapping[str, Rule], layer: str) -> Rule:
    """Return the rule by which a layer's rows are stored.

    Raises:
        UserError: The layer is not stored as one tensor.
    """
    rule = rules.get(f"{layer}.weight")
    if rule is None or len(rule.stored) != 1:
        raise UserError(f"llama.cpp has no separate weight for {layer}: leave it out of the targets, or merge")
    return rule


def _number_type(name: str) -> int:
    if name not in NUMBER_TYPE_NAMES:
        raise UserError(f"number type {name!r} is not for adapters: use one of {', '.join(NUMBER_TYPE_NAMES)}")
    return number_type(name).ggml_type
