"""Base and adapter merged into one model: a checkpoint folder, or a GGUF file in the number type that is served.

The base is read in fp32 and summed in fp32, whatever number type the adapter was trained with. Rounding the sum to
four bits again loses part of the training, because the steps of a four-bit grid are larger than most updates.
Serving the base unchanged with a separate adapter file (`lora.gguf`) keeps exactly the trained model.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import Exported, export_gguf
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.adapters import merge_lora
from modelstack.posttrain.lora.files import put_adapter, read_adapter
from modelstack.tokenizer.gguf_tokenizer import gguf_fields
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer


@dataclass(frozen=True, slots=True)
class Merged:
    """A plain model with its tokenizer."""

    model: CausalLM
    """Model in fp32."""
    tokenizer: TextTokenizer


def merge_adapter(base: str | os.PathLike[str], adapter: str | os.PathLike[str]) -> Merged:
    """Return a base with an adapter folder merged into it.

    Raises:
        UserError: One of them cannot be read, or the adapter belongs to another base.
    """
    read = read_adapter(adapter)
    loaded = load_base(base, expected_sha256=read.base_sha256)
    put_adapter(loaded.model, read)
    return Merged(merge_lora(loaded.model), loaded.tokenizer)


def write_merged_folder(
    merged: Merged, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """Write a merged model in the format of transformers; return the folder's path.

    Raises:
        UserError: The family's config.json cannot express one of the model's decisions.
    """
    with tempfile.TemporaryDirectory() as tokenizer:
        save_text_tokenizer(merged.tokenizer, tokenizer)
        return save_checkpoint(merged.model, Path(folder), tokenizer=tokenizer, dtype=dtype)


def write_merged_gguf(
    merged: Merged, path: str | os.PathLike[str], *, type_name: str = "q8_0", name: str | None = None
) -> Exported:
    """Write a merged model for llama.cpp, quantised.

    Raises:
        UserError: llama.cpp does not support this model, or not in this number type.
    """
    fields = gguf_fields(merged.tokenizer)
    return export_gguf(
        merged.model.config, merged.model.state_dict(), fields, path, type_name=type_name, name=name
    )
