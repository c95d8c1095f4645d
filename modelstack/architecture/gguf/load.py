"""Import of a GGUF file: a config, a state dict with Hugging Face's names and the tokenizer's metadata.

The file is untrusted. The metadata give a config, the config's model gives the expected shapes, and only tensors
with exactly these names and shapes are read. A file that declares more data than it holds is rejected before
memory is allocated for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.expected import expected_shapes
from modelstack.architecture.gguf.family import Stored, read_config
from modelstack.architecture.gguf.numbers import decode
from modelstack.architecture.gguf.registry import family_in_file
from modelstack.architecture.gguf.rules import Array, Rule
from modelstack.errors import UserError
from modelstack.gguf_file import GGUFFile, open_gguf

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from modelstack.architecture.decoder import CausalLM
    from modelstack.architecture.filling import Spread

BANDS = "rope_freqs.weight"
MAX_BANDS = 4096
"""Half the largest supported head dim."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model read from a file."""

    model: CausalLM
    """The model; float32 unless `load_gguf` was given another type."""
    tokenizer: dict[str, Any]
    """Metadata `tokenizer.*`."""
    name: str | None
    """Value of `general.name`."""

    @property
    def config(self) -> ModelConfig:
        """Config of the model."""
        return self.model.config

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of the model, without a copy."""
        return self.model.state_dict()


def load_gguf(
    path: str | os.PathLike[str], *, dtype: torch.dtype | None = None, spread: Spread | None = None
) -> Loaded:
    """Read a model and dequantise it.

    Args:
        path: The file.
        dtype: Type of the weights; None: float32. Only one tensor at a time is float32, so bfloat16 halves the
            peak memory.
        spread: Distributes the model over processes, each of which keeps its share; None: the whole model.

    Raises:
        UserError: The file is not GGUF, is damaged, belongs to an unknown family, or computes a different function
            than our model would.
    """
    from modelstack.architecture.filling import filling

    with open_gguf(path) as file:
        family = family_in_file(file.fields.get("general.architecture"))
        shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
        config = read_config(family, file.fields, Stored(shapes, _bands(file)))
        rules = list(family.rules(config))
        _refuse_other_tensors(rules, expected_shapes(config), shapes)
        tokenizer = {key: value for key, value in file.fields.items() if key.startswith("tokenizer.")}
        _check_tokens(tokenizer, config.vocab_size)
        weights = filling(config, dtype, spread)
        for rule in rules:
            shape = weights.expected[rule.name].shape
            for rows in weights.rows(rule.name) if rule.keeps_rows and len(shape) > 1 else [None]:
                first = 0 if rows is None else rows[0]
                weights.put(rule.name, _tensor(file, rule, config, rows), (first, *(0 for _ in shape[1:])))
        name = file.fields.get("general.name")
    return Loaded(weights.model(), tokenizer, name if isinstance(name, str) else None)


def _bands(file: GGUFFile) -> Array | None:
    stored = file.tensors.get(BANDS)
    if stored is None:
        return None
    if len(stored.shape) != 1 or stored.shape[0] > MAX_BANDS:
        raise UserError(
            f"GGUF tensor {BANDS} has shape {stored.shape}; it must be one axis of at most {MAX_BANDS} factors"
        )
    return _decoded(file, BANDS, None)


def _refuse_other_tensors(
    rules: list[Rule], expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    names = {name for rule in rules for name in rule.stored}
    if missing := sorted(names - found.keys()):
        raise UserError(
            f"GGUF tensors are missing: {', '.join(missing[:5])}; the file is damaged or one of several parts"
        )
    if foreign := sorted(found.keys() - names - {BANDS}):
        raise UserError(f"GGUF tensors are not known: {', '.join(foreign[:5])}; this model does not contain them")
    for rule in rules:
        shape, stored = expected[rule.name], [found[name] for name in rule.stored]
        # Compare the counts first: shapes beyond available memory must not reach numpy.
        if prod(shape) != sum(map(prod, stored)) or rule.stored_shapes(shape) != stored:
            raise UserError(f"GGUF {', '.join(rule.stored)} has shape {stored}, but {rule.name} must have {shape}")


def _check_tokens(tokenizer: Mapping[str, Any], vocab_size: int) -> None:
    tokens = tokenizer.get("tokenizer.ggml.tokens")
    if tokens is not None and (not isinstance(tokens, list) or len(tokens) != vocab_size):
        n = len(tokens) if isinstance(tokens, list) else tokens
        raise UserError(f"GGUF key tokenizer.ggml.tokens has {n} tokens, but the embedding has {vocab_size} rows")


def _tensor(file: GGUFFile, rule: Rule, config: ModelConfig, rows: tuple[int, int] | None) -> Tensor:
    """Return a tensor of ours, or some rows of one that is stored unchanged."""
    import torch

    parts = tuple(_decoded(file, name, rows) for name in rule.stored)
    if rule.holds_experts != (parts[0].dtype == np.int64):
        type_name = file.tensors[rule.stored[0]].ggml_type
        raise UserError(f"GGUF tensor {rule.stored[0]} has numbers of the wrong type {type_name}")
    if rule.holds_experts and not 0 <= parts[0].min() <= parts[0].max() < (config.n_routed_experts or 0):
        raise UserError(
            f"GGUF tensor {rule.stored[0]} contains expert numbers outside 0..{(config.n_routed_experts or 0) - 1}"
        )
    return torch.from_numpy(np.ascontiguousarray(rule.join(parts)))


def _decoded(file: GGUFFile, name: str, rows: tuple[int, int] | None) -> Array:
    stored = file.tensors[name]
    shape = stored.shape if rows is None else (rows[1] - rows[0], *stored.shape[1:])
    return decode(file.raw(name, rows), stored.ggml_type, shape)
