"""Merges models into a checkpoint folder one tensor at a time, with only that tensor of each parent in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from modelstack.architecture.checkpoint import MAX_SHARD_BYTES, TOKENIZER_FILES
from modelstack.architecture.checkpoint_names import file_name
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.meta import on_meta
from modelstack.architecture.presets.registry import to_hf
from modelstack.errors import UserError
from modelstack.files import replacing_folder
from modelstack.reasoning.merging.methods import merged
from modelstack.reasoning.merging.parents import Parents, one_tokenizer, require_one_architecture
from modelstack.reasoning.merging.recipe import MergeRecipe
from modelstack.reasoning.merging.tensor_files import ModelTensors, TensorFacts, open_tensors, write_tensors
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer

Advanced = Callable[[int, int], object]
"""Callback for progress: number of finished tensors, total number."""


def merge_models(
    recipe: MergeRecipe,
    parents: Parents,
    folder: Path,
    advanced: Advanced,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Write the merged model; return its number of parameters.

    Args:
        recipe: Merge method and its settings.
        parents: Models to merge.
        folder: Checkpoint folder; replaced if it exists.
        advanced: Callback for progress, called after each tensor.
        max_shard_bytes: Maximum size of a weights file in bytes.

    Raises:
        UserError: The parents have different architectures or tokenizers, or a merged value is not finite.
    """
    paths = [start.weights for start in parents.starts]
    base_path = None if parents.base is None else parents.base.weights
    with ExitStack() as files:
        models = [files.enter_context(open_tensors(path)) for path in paths]
        base = None if base_path is None else files.enter_context(open_tensors(base_path))
        every = [*zip(paths, models, strict=True), *([(base_path, base)] if base_path and base else [])]
        require_one_architecture([(str(path), model) for path, model in every])
        tokenizer = one_tokenizer([path for path, _ in every])
        planned = planned_like(models[0], recipe.dtype)

        def make(name: str) -> Tensor:
            tensors = [model.read(name) for model in models]
            if not tensors[0].is_floating_point():
                return _the_same(name, tensors)
            wide = [tensor.float() for tensor in tensors]
            of_base = None if base is None else base.read(name).float()
            return merged(recipe, name, wide, of_base, parents.ids)

        write_model(folder, models[0].config, (paths[0], tokenizer), planned, make, advanced, max_shard_bytes)
    return sum(prod(facts.shape) for facts in planned.values())


def write_model(
    folder: Path,
    config: ModelConfig,
    tokenizer: tuple[Path, TextTokenizer],
    planned: Mapping[str, TensorFacts],
    make: Callable[[str], Tensor],
    advanced: Advanced,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: Checkpoint folder; replaced if it exists.
        config: Configuration of the model.
        tokenizer: Path of the tokenizer's model, and the loaded tokenizer.
        planned: Shape and dtype of each tensor.
        make: Makes a tensor, in any floating-point type.
        advanced: Callback for progress, called after each tensor.
        max_shard_bytes: Maximum size of a weights file in bytes.

    Raises:
        UserError: A tensor has a value that is not finite, also after conversion to its dtype.
    """
    n_done = 0

    @torch.no_grad()
    def made(name: str) -> Tensor:
        nonlocal n_done
        tensor = make(name).to(planned[name].dtype)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"the merged {name} has values that are not finite in {_dtype_name(tensor.dtype)}: a parent has "
                f"such values, or weights and scale are too large for the type"
            )
        n_done += 1
        advanced(n_done, len(planned))
        return tensor

    widths = [facts.dtype for facts in planned.values() if facts.dtype.is_floating_point]
    dtype = max(set(widths), key=widths.count)
    with replacing_folder(folder) as temporary:
        hf = to_hf(config) | {"dtype": _dtype_name(dtype)}
        (temporary / "config.json").write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _write_tokenizer(*tokenizer, temporary)
        write_tensors(temporary, planned, made, max_shard_bytes=max_shard_bytes)


def planned_like(model: ModelTensors, dtype: str | None) -> dict[str, TensorFacts]:
    """Return shape and dtype of each tensor to write; buffers keep their dtype."""
    if dtype is None:
        return dict(model.facts)
    with on_meta():
        buffers = {file_name(name, model.config) for name, _ in CausalLM(model.config).named_buffers()}
    return {
        name: TensorFacts(facts.shape, getattr(torch, dtype))
        if facts.dtype.is_floating_point and name not in buffers
        else facts
        for name, facts in model.facts.items()
    }


def _write_tokenizer(source: Path, tokenizer: TextTokenizer, folder: Path) -> None:
    if source.is_file():
        save_text_tokenizer(tokenizer, folder)
        return
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _the_same(name: str, tensors: list[Tensor]) -> Tensor:
    if not all(torch.equal(tensors[0], tensor) for tensor in tensors):
        raise UserError(
            f"{name} is an integer tensor and differs between the parents: integers cannot be averaged"
        )
    return tensors[0]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
