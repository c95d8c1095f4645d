"""Checkpoint folders in the format of transformers and vLLM: config.json, safetensors, tokenizer files.

Loading is strict: the tensors of the files and of the model must match in names and shapes. Tensors are read one
at a time (`filling`), so a load holds the weights, or a process's share of them, in memory only once. Quantised
weights (`compressed_tensors`) are dequantised as they are read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelstack.architecture.checkpoint_names import PARTS, Place, file_name, place_of
from modelstack.architecture.compressed_tensors import (
    CompressedTensors,
    check_can_store,
    quantization_config,
    tensors_of,
)
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.filling import HEAD, Filling, Spread, filling
from modelstack.architecture.presets.registry import from_hf, to_hf
from modelstack.architecture.rounded_weight import NumberFormat, RoundedWeight
from modelstack.errors import UserError
from modelstack.files import read_json_object, replacing_folder

MAX_SHARD_BYTES = 5 * 10**9
"""Maximum bytes of one file of weights; the default of the Hugging Face hub."""
MAX_JSON_BYTES = 64 * 2**20
"""Maximum bytes read from a config or index file; real ones are far smaller."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer_training.json",
)
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SCALE = ".weight_scale"
"""End of the name of a tensor of a quantised layer."""


def save_checkpoint(
    model: CausalLM,
    folder: str | Path,
    *,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype | None = None,
    training: Mapping[str, Any] | None = None,
    rounded: Mapping[str, RoundedWeight] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a checkpoint folder atomically and return its path.

    Args:
        model: The model to save; its weights and config are written.
        folder: Target folder; an existing one is replaced.
        tokenizer: A folder whose tokenizer files are copied.
        dtype: Type of floating-point weights; None: unchanged. Buffers keep their type.
        training: Origin of the checkpoint (recipe, hashes, cursor, metrics), written to `training.json`.
        rounded: Quantised weights by name, which are written in the place of the model's.
        max_shard_bytes: Maximum bytes of one file of weights.

    Raises:
        UserError: The family's config.json cannot express one of the model's settings, or quantised weights have
            a format that checkpoint folders do not hold.
    """
    config_json = to_hf(model.config) | {"dtype": _dtype_name(dtype or model.lm_head.weight.dtype)}
    if rounded:
        config_json["quantization_config"] = _quantization_entry(model, rounded)
    with replacing_folder(folder) as temporary:
        _write_json(temporary / "config.json", config_json)
        if training is not None:
            _write_json(temporary / "training.json", dict(training))
        if tokenizer is not None:
            for name in TOKENIZER_FILES:
                if (file := Path(tokenizer) / name).is_file():
                    shutil.copyfile(file, temporary / name)
        _write_weights(_tensors_for_files(model, dtype, rounded or {}), temporary, max_shard_bytes)
    return Path(folder)


def load_checkpoint(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    spread: Spread | None = None,
    rounded: dict[str, RoundedWeight] | None = None,
) -> CausalLM:
    """Read a checkpoint folder written by this project, by transformers, or downloaded from the Hugging Face hub.

    Args:
        folder: The folder with config.json and safetensors.
        dtype: Type of floating-point parameters; None: as in the files.
        spread: Distributes the model over processes, each of which keeps its share; None: the whole model.
        rounded: Receives the quantised weights of linear layers by name, for engines that compute with them.

    Raises:
        UserError: A file is missing or broken, the family is unknown, the weights have a quantisation that cannot
            be read, or tensors are missing, unexpected or of another shape.
    """
    folder = Path(folder)
    config, quantisation = _config_of(folder)
    if config.num_nextn_predict_layers and not _has_mtp(folder, config):
        # transformers drops these layers but keeps their number in the config.
        config = config.with_(num_nextn_predict_layers=0, mtp_steps=1)
    weights = filling(config, dtype, spread)
    unknown: list[str] = []
    parts: dict[str, set[Place]] = {}
    for name, read in _weights(folder, quantisation):
        place = place_of(name, config)
        if place.name is None or (place.name == HEAD and config.tie_word_embeddings):
            continue
        target = weights.expected.get(place.name)
        if target is None:
            unknown.append(name)
            continue
        value = read()
        if isinstance(value, RoundedWeight):
            if rounded is not None and place.expert is None:
                rounded[place.name] = value
            value = value.dequantised()
        tensor, offsets = _block(name, place, value, target)
        weights.put(place.name, tensor, offsets)
        if place.expert is not None:
            parts.setdefault(place.name, set()).add(place)
    _check_complete(config, weights, parts, unknown, folder)
    return weights.model()


def load_config(folder: str | Path) -> ModelConfig:
    """Read `config.json` of a folder with plain weights.

    Raises:
        UserError: The file is missing or broken, the family is unknown, or the weights are quantised.
    """
    config, quantisation = _config_of(folder)
    if quantisation is not None:
        raise UserError(f"{folder}: weights are quantised; this needs a folder with plain weights")
    return config


def _config_of(folder: str | Path) -> tuple[ModelConfig, CompressedTensors | None]:
    """Return the config of a folder, and the formats of its weights if they are quantised."""
    json_config = _read_json(Path(folder) / "config.json")
    entry = json_config.pop("quantization_config", None)
    return from_hf(json_config), None if not entry else CompressedTensors(entry, str(folder))


def _write_weights(tensors: Iterable[tuple[str, Tensor]], folder: Path, max_shard_bytes: int) -> None:
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    weight_map: dict[str, int] = {}
    size = total = 0

    def flush() -> None:
        save_file(shards[-1], folder / f"{len(shards)}.part", metadata={"format": "pt"})
        shards[-1] = {}

    for name, tensor in tensors:
        if size and size + tensor.nbytes > max_shard_bytes:
            flush()
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        weight_map[name] = len(shards)
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (folder / "1.part").rename(folder / _SINGLE)
        return
    names = {n: f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)}
    for n, name in names.items():
        (folder / f"{n}.part").rename(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {k: names[n] for k, n in weight_map.items()}}
    _write_json(folder / _INDEX, index)


def _tensors_for_files(
    model: CausalLM, dtype: torch.dtype | None, rounded: Mapping[str, RoundedWeight]
) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors under their names in files. Each has its own memory; packed experts come one at a time."""
    config = model.config
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if name == HEAD and config.tie_word_embeddings:
            continue
        if (weight := rounded.get(name)) is not None:
            scales = (part for _, part in _file_parts(name, weight.scale, config))
            for (part_name, values), scale in zip(_file_parts(name, weight.values, config), scales, strict=True):
                yield from tensors_of(part_name, RoundedWeight(weight.format, values, scale))
            continue
        tensor = tensor.detach()
        if dtype is not None and name in parameters:
            tensor = tensor.to(dtype)
        for part_name, part in _file_parts(name, tensor, config):
            yield part_name, part.clone().contiguous()


def _file_parts(name: str, tensor: Tensor, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts of a tensor that files store separately, as views: packed experts one by one."""
    packed = name.rpartition(".")[2]
    if not (".experts." in name and config.experts_layout == "packed"):
        yield file_name(name, config), tensor
        return
    for part, of, half in PARTS:
        if of != packed:
            continue
        for expert in range(tensor.shape[0]):
            yield file_name(name, config, part, expert), _half(tensor[expert], half)


def _quantization_entry(model: CausalLM, rounded: Mapping[str, RoundedWeight]) -> dict[str, Any]:
    """Return the entry `quantization_config` of config.json."""
    config = model.config
    formats: dict[str, NumberFormat] = {}
    for name, weight in rounded.items():
        check_can_store(weight.format)
        for part_name, _ in _file_parts(name, weight.values, config):
            formats[part_name.removesuffix(".weight")] = weight.format
    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    linear = {file_name(f"{name}.weight", config).removesuffix(".weight") for name in modules}
    return quantization_config(formats, linear - formats.keys())


def _weights(
    folder: Path, quantisation: CompressedTensors | None = None
) -> Iterator[tuple[str, Callable[[], Tensor | RoundedWeight]]]:
    """Yield each tensor's name and a function that reads it. Call the function before the next iteration.

    With `quantisation`, the tensors of a quantised layer are yielded as one, its rounded weight.
    """
    from safetensors import SafetensorError, safe_open

    path = folder
    try:
        with ExitStack() as stack:
            files: dict[str, Any] = {}
            for path in _weight_files(folder):
                file = stack.enter_context(safe_open(path, framework="pt"))
                files |= dict.fromkeys(file.keys(), file)
            quantised: dict[str, dict[str, Callable[[], Tensor]]] = {
                name.rpartition(".")[0]: {} for name in files if quantisation and name.endswith(_SCALE)
            }
            for name, file in files.items():
                layer, _, last = name.rpartition(".")
                if layer in quantised and last.startswith("weight"):
                    quantised[layer][last] = partial(file.get_tensor, name)
                else:
                    yield name, partial(file.get_tensor, name)
            for layer, parts in quantised.items():
                assert quantisation is not None, "else nothing is in `quantised`"
                yield f"{layer}.weight", partial(_rounded, quantisation, layer, parts)
    except SafetensorError as error:
        raise UserError(f"{path} is not a valid safetensors file: {error}") from error


def _rounded(
    quantisation: CompressedTensors, layer: str, parts: Mapping[str, Callable[[], Tensor]]
) -> RoundedWeight:
    return quantisation.read(layer, {last: read() for last, read in parts.items()})


def _has_mtp(folder: Path, config: ModelConfig) -> bool:
    places = (place_of(name, config).name for name, _ in _weights(folder))
    return any(name is not None and name.startswith("mtp.") for name in places)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        raise UserError(f"{folder} holds neither {_SINGLE} nor {_INDEX}; only safetensors can be read")
    names = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder / _INDEX} names {name!r}, which does not exist in this folder")
    return [folder / name for name in names]


def _block(name: str, place: Place, tensor: Tensor, target: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a file's tensor as a block of a tensor in memory, and the start of the block.

    Raises:
        UserError: The shapes do not match, or the model has fewer experts.
    """
    if place.expert is None:
        _check_shape(name, tensor, target.shape)
        return tensor, (0,) * tensor.ndim
    if place.expert >= target.shape[0]:
        raise UserError(f"{name}: expert {place.expert} is out of range; the config has {target.shape[0]} experts")
    rows = _half(target[place.expert], place.half)
    _check_shape(name, tensor, rows.shape)
    return tensor[None], (place.expert, len(rows) if place.half == "up" else 0, *(0 for _ in rows.shape[1:]))


def _half(gate_up: Tensor, half: str | None) -> Tensor:
    if half is None:
        return gate_up
    gate, up = gate_up.chunk(2, dim=0)
    return gate if half == "gate" else up


def _check_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise UserError(f"{name} has shape {list(tensor.shape)}; by config.json it must be {list(shape)}")


def _check_complete(
    config: ModelConfig, weights: Filling, parts: Mapping[str, set[Place]], unknown: list[str], folder: Path
) -> None:
    missing = [name for name in weights.expected if name not in weights.filled]
    for name, places in parts.items():
        wanted = (config.n_routed_experts or 0) * (2 if name.endswith("gate_up_proj") else 1)
        if len(places) != wanted:
            missing.append(f"{name} ({wanted - len(places)} of {wanted} parts)")
    if missing or unknown:
        raise UserError(
            f"{folder} does not match its config.json: "
            f"{len(missing)} tensors missing ({_few(missing)}), {len(unknown)} not known ({_few(unknown)})"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; a checkpoint folder must contain it")
    return read_json_object(path, MAX_JSON_BYTES)
