"""Decoder with a scalar head: reward models, and critics of PPO.

The head is a linear layer on the state after the final norm. At the last token of a conversation its output is the
reward of the reply (Ziegler et al., 1909.08593; Ouyang et al., 2203.02155), at every token it is a critic's value.
On disk it is a checkpoint folder with an additional `value_head.safetensors`, so the body loads like any model.
Head and output are fp32, because the rewards of two good replies differ by less than the precision of bf16.

Letters: B rows, T tokens, D model width.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.posttrain.lora.adapters import lora_layers, lora_optimizer, merge_lora
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.merge import Merged, write_merged_folder
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig

HEAD_FILE = "value_head.safetensors"
_WEIGHT, _BIAS, _NORMALISED = "score.weight", "score.bias", "normalised"
"""Names in the file; the first two are those of transformers' sequence classifiers."""


class Normalisation(BaseModel, frozen=True, extra="forbid"):
    """Statistics of the rewards before they were shifted to mean 0; the shift keeps the order within a pair."""

    mean: FiniteFloat
    """Mean that was subtracted."""
    deviation: FiniteFloat
    """Standard deviation of the same rewards, the unit for coefficients that are added to rewards."""
    n: int = Field(ge=1)


class ValueModel(nn.Module):
    """Decoder with a scalar head."""

    def __init__(self, body: CausalLM) -> None:
        """Wrap a decoder; the scalar head outputs 0, and the decoder's vocabulary head is unused."""
        super().__init__()
        self.body = body
        device = next(body.parameters()).device
        self.score = nn.Linear(body.config.hidden_size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return a value for each position, from the tokens up to and including it, [B, T], fp32."""
        hidden_BTD = self.body(ids_BT, with_logits=False).hidden_BTD
        return F.linear(hidden_BTD.float(), self.score.weight.float(), self.score.bias.float())[..., 0]


def draw_head(model: ValueModel, seed: int) -> None:
    """Draw the head's initial weights with standard deviation 1 / sqrt(D + 1) (Stiennon et al., 2009.01325)."""
    generator = torch.Generator().manual_seed(seed)
    D = model.score.in_features
    drawn_1D = torch.randn((1, D), generator=generator) / (D + 1) ** 0.5
    with torch.no_grad():
        model.score.weight.copy_(drawn_1D)


def value_groups(model: ValueModel, lora: LoraConfig | None, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the optimizer groups of a value model: its head, and its adapters or all weights.

    Args:
        model: Value model, with adapters if `lora` is given.
        lora: Form of the adapters; None: all weights are trained.
        optimizer: The recipe's values.
    """
    if lora is None:
        return build_optimizer(model, optimizer).param_groups
    head = {
        "params": [model.score.weight, model.score.bias],
        "names": ["score.weight", "score.bias"],
        "method": "adamw",
        "lr": optimizer.lr,
        "betas": optimizer.betas,
        "eps": optimizer.eps,
        "weight_decay": optimizer.vector_weight_decay,
    }
    return [*lora_optimizer(model.body, lora, optimizer).param_groups, head]


def save_value_model(
    model: ValueModel, tokenizer: TextTokenizer, folder: Path, normalised: Normalisation | None = None
) -> Path:
    """Write body, tokenizer and head; adapters are merged in fp32 and rounded to the body's number type.

    Args:
        model: The model.
        tokenizer: The model's tokenizer.
        folder: Target folder, replaced if it exists.
        normalised: Statistics of the shifted rewards.

    Raises:
        UserError: The family's config.json cannot express one of the model's decisions.
    """
    from safetensors.torch import save_file

    dtype = model.body.lm_head.weight.dtype
    has_adapters = next(lora_layers(model.body), None) is not None
    body = merge_lora(model.body) if has_adapters else model.body
    write_merged_folder(Merged(body, tokenizer), folder, dtype=dtype)
    parts = {_WEIGHT: model.score.weight, _BIAS: model.score.bias}
    tensors = {name: part.detach().float().cpu().contiguous() for name, part in parts.items()}
    # At most one entry: safetensors writes several entries in a random order.
    metadata = {} if normalised is None else {_NORMALISED: normalised.model_dump_json()}
    with replacing(folder / HEAD_FILE) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return folder


def load_value_model(folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> ValueModel:
    """Read a folder written by `save_value_model`.

    Args:
        folder: Folder with a checkpoint and a head.
        dtype: Number type of the body's weights; None: as in the file.

    Raises:
        UserError: There is no head, a file is broken, or the head has another width.
    """
    model = ValueModel(load_checkpoint(Path(folder), dtype=dtype))
    load_head(model, folder)
    return model


def head_file(folder: str | os.PathLike[str]) -> Path:
    """Return the path of a folder's head.

    Raises:
        UserError: The folder has no head.
    """
    file = Path(folder) / HEAD_FILE
    if not file.is_file():
        raise UserError(
            f"{folder} is not a reward model: it has no {HEAD_FILE}; name the folder of a stage that `modelstack "
            f"reward` made"
        )
    return file


def load_head(model: ValueModel, folder: str | os.PathLike[str]) -> None:
    """Load the head of a folder into a model.

    Raises:
        UserError: There is no head, it is broken, or it has another width.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = head_file(folder)
    try:
        found = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is not a valid safetensors file: {error}") from error
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    D = model.score.in_features
    if shapes != {_WEIGHT: (1, D), _BIAS: (1,)}:
        raise UserError(
            f"{file} holds {shapes}; the head of a model of width {D} is {_WEIGHT} (1, {D}), {_BIAS} (1,)"
        )
    with torch.no_grad():
        model.score.weight.copy_(found[_WEIGHT])
        model.score.bias.copy_(found[_BIAS])


def read_normalisation(folder: str | os.PathLike[str]) -> Normalisation | None:
    """Return the statistics of a head's shifted rewards; None if the file has none.

    Raises:
        UserError: The file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    file = head_file(folder)
    try:
        with safe_open(file, "pt") as stored:
            told = (stored.metadata() or {}).get(_NORMALISED)
        return None if told is None else Normalisation.model_validate_json(told)
    except (OSError, SafetensorError, ValidationError) as error:
        raise UserError(f"{file} cannot be read as the head of a reward model: {error}") from error
