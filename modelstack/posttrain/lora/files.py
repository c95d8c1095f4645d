"""Adapter folders in peft's format: `adapter_config.json` and `adapter_model.safetensors`.

peft loads folders written here without a warning. Folders written by peft are read here. They are refused if a key
asks for something that these adapters lack: different ranks per layer, trained biases, or whole saved modules. The
hash of the base is in the metadata of the safetensors file, which peft ignores; peft's config has no key for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.files import read_json_object, replacing_folder
from modelstack.posttrain.base import require_same_base
from modelstack.posttrain.lora.adapters import (
    PEFT_NAMES,
    PEFT_PREFIX,
    add_lora,
    load_lora_state,
    lora_layers,
    lora_state,
)
from modelstack.posttrain.lora.config import LoraConfig

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
"""Limit of a config's size; those of peft have about one kilobyte."""
_BASE_KEY = "base_sha256"
_OURS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "use_dora": "dora",
    "target_modules": "targets",
    "layers_to_transform": "layers_to_transform",
}
_FIXED: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"}
_IGNORED_KEYS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "inference_mode",
        "loftq_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "use_rslora",
    }
)
"""Keys that do not change the meaning of the weights, or that are read separately."""
_KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initial values that leave the base unchanged; PiSSA, OLoRA, CorDA and LoftQ change its weights."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter without its base."""

    config: LoraConfig
    state: Mapping[str, Tensor]
    """Tensors by peft's names."""
    base_sha256: str | None = None
    """Hash of the base that it was trained on; None: not in the file."""
    base_name: str | None = None


def save_adapter(
    model: CausalLM,
    config: LoraConfig,
    folder: str | os.PathLike[str],
    *,
    base_sha256: str | None = None,
    base_name: str | None = None,
) -> Path:
    """Write a model's adapter as a folder, atomically, and return its path.

    Args:
        model: Model with adapters.
        config: Configuration of the adapters.
        folder: Target folder, replaced if it exists.
        base_sha256: Hash of the base.
        base_name: Folder or hub name of the base, for peft.

    Raises:
        UserError: The model has no adapters.
    """
    from safetensors.torch import save_file

    layers = dict(lora_layers(model))
    if not layers:
        raise UserError("the model has no adapters to save: call add_lora first")
    alpha = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    told = _FIXED | {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.scaling == "rslora",
        "use_dora": config.dora,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers})
        if all("." not in target for target in config.targets)
        else sorted(config.targets),
        "layers_to_transform": None if config.layers_to_transform is None else list(config.layers_to_transform),
    }
    metadata = {"format": "pt"} | ({_BASE_KEY: base_sha256} if base_sha256 else {})
    with replacing_folder(folder) as temporary:
        text = json.dumps(told, indent=2, sort_keys=True) + "\n"
        (temporary / CONFIG_FILE).write_text(text, encoding="utf-8")
        tensors = {name: tensor.cpu().contiguous() for name, tensor in lora_state(model).items()}
        save_file(tensors, temporary / WEIGHTS_FILE, metadata=metadata)
        _sort_metadata(temporary / WEIGHTS_FILE)
    return Path(folder)


def _sort_metadata(path: Path) -> None:
    """Sort the keys of the metadata, so that equal adapters give equal files; safetensors orders them randomly."""
    with path.open("r+b") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_bytes))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(n_bytes)
        assert len(text) == n_bytes  # same content and same formatting
        file.seek(8)
        file.write(text)


def read_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """Read an adapter folder written here or by peft.

    Raises:
        UserError: A file is missing or broken, or the adapter is of an unsupported kind.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    folder = Path(folder)
    told = _read_json(folder / CONFIG_FILE)
    config = _config_of(told, folder / CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(f"{weights} is missing: the weights of an adapter must be a safetensors file")
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = file.metadata() or {}
        state = load_file(weights)
    except SafetensorError as error:
        raise UserError(f"{weights} is not a valid safetensors file: {error}") from error
    name = told.get("base_model_name_or_path")
    return Adapter(config, state, metadata.get(_BASE_KEY), name if isinstance(name, str) else None)


def matrix_pairs(adapter: Adapter, where: object) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A [r, I] and B [O, r] of each layer by the layer's name in the model, fp32.

    Args:
        adapter: Adapter without DoRA.
        where: Its path, for error messages.

    Raises:
        UserError: A tensor has no partner, or there are others.
    """
    leaf_a, leaf_b = (f".{PEFT_NAMES[part]}" for part in ("lora_A", "lora_B"))
    layers = sorted(name.removesuffix(leaf_a) for name in adapter.state if name.endswith(leaf_a))
    if adapter.state.keys() != {f"{layer}{leaf}" for layer in layers for leaf in (leaf_a, leaf_b)}:
        raise UserError(f"{where}: an adapter must have an A and a B for each layer, and no other tensors")
    state = adapter.state
    return {
        layer.removeprefix(PEFT_PREFIX): (state[f"{layer}{leaf_a}"].float(), state[f"{layer}{leaf_b}"].float())
        for layer in layers
    }


def put_adapter(model: CausalLM, adapter: Adapter, *, base_sha256: str | None = None) -> None:
    """Add an adapter to its base, in place.

    Args:
        model: The base.
        adapter: Adapter read from a file.
        base_sha256: Hash of the base; checked if the adapter records one too.

    Raises:
        UserError: The base has another hash, or the tensors do not fit.
    """
    if adapter.base_sha256 is not None and base_sha256 is not None:
        require_same_base(adapter.base_sha256, base_sha256)
    add_lora(model, adapter.config)
    load_lora_state(model, adapter.state)


def _config_of(told: Mapping[str, Any], path: Path) -> LoraConfig:
    for key, wanted in _FIXED.items():
        if told.get(key, wanted) not in (wanted, None):
            raise UserError(f"{path}: {key} is {told[key]!r}; only {wanted!r} is supported")
    if (first := told.get("init_lora_weights")) not in _KEEPS_BASE:
        raise UserError(
            f"{path}: init_lora_weights is {first!r}, which changes the weights of the base; save the adapter in "
            f"peft with `path_initial_model_for_weight_conversion`, which converts it to plain LoRA"
        )
    read = _OURS.keys() | _FIXED.keys() | _IGNORED_KEYS | {"init_lora_weights"}
    if other := sorted(key for key, value in told.items() if value and key not in read):
        raise UserError(
            f"{path}: {other[0]} is {told[other[0]]!r}, which is not supported; merge the adapter in peft "
            f"(merge_and_unload) and load the merged model"
        )
    targets = told.get("target_modules")
    keys = {ours: told[theirs] for theirs, ours in _OURS.items() if told.get(theirs) is not None}
    if isinstance(one := keys.get("layers_to_transform"), int):
        keys["layers_to_transform"] = (one,)
    keys["targets"] = (targets,) if isinstance(targets, str) else targets
    keys["scaling"] = "rslora" if told.get("use_rslora") else "lora"
    try:
        return LoraConfig.model_validate(keys)
    except ValidationError as error:
        first_error = error.errors()[0]
        place = ".".join(map(str, first_error["loc"]))
        raise UserError(f"{path} does not describe an adapter: {place}: {first_error['msg']}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing: an adapter folder of peft has a {CONFIG_FILE}")
    return read_json_object(path, MAX_CONFIG_BYTES)
