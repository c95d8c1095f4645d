"""Base of a training: a GGUF file or a checkpoint folder, loaded as a model with its tokenizer and hash.

The weights of a GGUF file are dequantised to the numbers that llama.cpp multiplies by. An adapter is therefore
trained on the weights that it will be served with. This is QLoRA's idea (arXiv 2305.14314) with the server's
number type instead of NF4. The hash of the base is stored with every adapter, because an adapter fits only these
weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.filling import Spread
from modelstack.architecture.gguf.load import load_gguf
from modelstack.architecture.rounded_weight import RoundedWeight
from modelstack.posttrain.base_hash import base_sha256, require_same_base
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.chat_template import chat_format_of
from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer


@dataclass(frozen=True)
class Base:
    """A model to train, with its tokenizer and hash."""

    model: CausalLM
    tokenizer: TextTokenizer
    sha256: str
    """Hash of the GGUF file, or of the hashes of a folder's files."""
    kind: Literal["gguf", "checkpoint"]
    path: Path
    rounded: Mapping[str, RoundedWeight] = field(default_factory=dict[str, RoundedWeight])
    """Quantised weights of a checkpoint folder by name; the model holds them dequantised."""

    @property
    def config(self) -> ModelConfig:
        """Config of the model."""
        return self.model.config

    @cached_property  # the format is found by rendering probes, which takes 15 ms
    def encoder(self) -> ChatEncoder:
        """Encoder of conversations in the base's chat format."""
        chat_format = chat_format_of(self.tokenizer)
        return ChatEncoder(chat_format, self.tokenizer.vocabulary, self.tokenizer.encode_template)


def load_base(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    expected_sha256: str | None = None,
    spread: Spread | None = None,
) -> Base:
    """Read a base model.

    Args:
        source: A GGUF file, or a checkpoint folder with its tokenizer.
        dtype: Number type of the weights in memory. bfloat16 halves the memory, and doubles the speed on a CPU
            that supports it.
        expected_sha256: Hash that an adapter or a recipe requires.
        spread: Distributes the model over processes, each of which reads its share; None: the whole model.

    Raises:
        UserError: The base is missing, cannot be read, has no tokenizer, or has another hash than expected.
    """
    path = Path(source)
    sha256 = base_sha256(path)
    if expected_sha256 is not None:
        require_same_base(expected_sha256, sha256)
    if path.is_dir():
        rounded: dict[str, RoundedWeight] = {}
        model = load_checkpoint(path, dtype=dtype, spread=spread, rounded=rounded)
        return Base(model, load_tokenizer(path), sha256, "checkpoint", path, rounded)
    loaded = load_gguf(path, dtype=dtype, spread=spread)
    return Base(loaded.model, tokenizer_from_fields(loaded.tokenizer, path), sha256, "gguf", path)
