"""A module for multi-token prediction beside a model that was trained without one, to draft tokens for it.

The module is that of DeepSeek-V3 (`mtp`). Like EAGLE's head (arXiv 2401.15077) it reads the model's last state and
the embedding of the next token, runs one decoder layer, and shares the model's embedding; the norms on inputs and
output are as in EAGLE-3.1. A draft vocabulary (EAGLE-3, 2503.01840) keeps the head small: the module predicts only
frequent tokens.

Letters: D model width, V vocabulary, N tokens of the draft vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.mtp import DraftVocabulary, MtpModule, MultiTokenPrediction
from modelstack.errors import UserError, first_difference

MODULE_FILE, FACTS_FILE = "module.safetensors", "drafter.json"
_DRAFT_IDS = "draft_ids"


@torch.no_grad()
def add_draft_module(model: CausalLM, draft_ids: Tensor | None, *, n_steps: int = 1, seed: int = 0) -> None:
    """Give a model a module that begins as a copy of its last layer.

    Args:
        model: The model, in place; it must have no such module.
        draft_ids: Tokens that the module predicts, [N]; None: all tokens.
        n_steps: Number of tokens that the module is trained to predict by recursion.
        seed: Seed of the weights that are drawn.

    Raises:
        UserError: The model has a module, or states that are several streams.
    """
    module = _attached(model, draft_ids, n_steps)
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * model.config.initializer_range)
    last = model.model.layers[-1].state_dict()
    own = module.block.state_dict()
    if {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in last.items()}:
        module.block.load_state_dict(last)
    module.norm.load_state_dict(model.model.norm.state_dict())
    D = model.config.hidden_size
    module.eh_proj.weight[:, D:] = torch.eye(D)  # begins with the state, and learns what the token adds


def _attached(model: CausalLM, draft_ids: Tensor | None, n_steps: int) -> MtpModule:
    """Give a model a module with torch's default weights, and return it."""
    if model.mtp is not None:
        raise UserError("this model has a module for multi-token prediction already, which drafts (--drafter mtp)")
    if model.config.norm_placement == "hyper":
        raise UserError(
            "a model with hyper-connections has states of several streams, which no drafter here reads"
        )
    weight = model.lm_head.weight
    model.config = model.config.with_(num_nextn_predict_layers=1, mtp_steps=n_steps)
    model.mtp = MultiTokenPrediction(model.config).to(weight.device, weight.dtype)
    if draft_ids is not None:
        model.draft_vocabulary = DraftVocabulary(model.lm_head, draft_ids)
    return model.mtp[0]  # pyright: ignore[reportReturnType]


def save_draft_module(model: CausalLM, folder: Path, base_sha256: str) -> None:
    """Write a model's module, without the head that it shares with the model."""
    modules = model.mtp
    assert modules is not None
    tensors = {name: value.contiguous() for name, value in modules[0].state_dict().items()}
    if model.draft_vocabulary is not None:
        tensors[_DRAFT_IDS] = model.draft_vocabulary.ids.to(torch.int32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / MODULE_FILE)
    facts = {"base_sha256": base_sha256, "mtp_steps": model.config.mtp_steps}
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_draft_module(model: CausalLM, folder: Path, base_sha256: str) -> None:
    """Give a model the module of a folder, in the model's number type.

    Args:
        model: The model, in place.
        folder: Folder of `save_draft_module`.
        base_sha256: Hash of the model's weights.

    Raises:
        UserError: The folder is no drafter, is damaged, or belongs to another model.
    """
    try:
        facts: Any = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / MODULE_FILE)
        n_steps, trained_on = int(facts["mtp_steps"]), str(facts["base_sha256"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read as a drafter of `modelstack drafter`: {error}") from error
    if trained_on != base_sha256:
        raise UserError(
            f"the drafter {folder} was trained for weights with SHA-256 {trained_on[:12]}..., these have "
            f"{base_sha256[:12]}...: drafts for other weights would be refused; train one for these"
        )
    draft_ids = tensors.pop(_DRAFT_IDS, None)
    if draft_ids is not None and not (
        draft_ids.ndim == 1
        and draft_ids.dtype == torch.int32
        and len(draft_ids)
        and 0 <= int(draft_ids.min()) <= int(draft_ids.max()) < model.config.vocab_size
    ):
        raise UserError(
            f"{folder / MODULE_FILE}: {_DRAFT_IDS} must be ids of the model's {model.config.vocab_size} tokens"
        )
    module = _attached(model, None if draft_ids is None else draft_ids.long(), n_steps)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{folder / MODULE_FILE} does not fit the model: {first_difference(error)}") from error
