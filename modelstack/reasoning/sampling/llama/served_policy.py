"""Keeps llama.cpp's copy of the weights in training up to date.

If an adapter is trained on a GGUF base, the base stays loaded as it will be served, and only the adapter is
written and swapped: a tenth of a second for a model with 135 million parameters. If all weights are trained, or
the adapter uses DoRA, which llama.cpp does not support, the whole model is written and loaded. Changes are
detected by a digest of the weights, so it does not matter what changed them: an optimizer, a loaded checkpoint
or a hook.

Files are written to a temporary folder and read once.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import export_gguf
from modelstack.inference.llama.model import KVType, LlamaContext, LlamaWeights, rearranges_q4_0
from modelstack.inference.llama.rollouts import RolloutWriter
from modelstack.posttrain.base import Base
from modelstack.posttrain.lora.adapters import lora_layers, merge_lora
from modelstack.reasoning.sampling.llama.q4_1_split import has_q4_1, write_split
from modelstack.reasoning.sampling.llama.rollout_adapter import write_rollout_adapter
from modelstack.tokenizer.gguf_tokenizer import gguf_fields

RolloutType = Literal[
    "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k"
]
"""Names in `architecture.gguf.numbers`."""
MAX_ROWS = 255
"""`LLAMA_MAX_SEQ` of llama.cpp, minus one for the shared prefix."""
N_BATCH = 512
"""Prompt tokens per evaluation."""


class LlamaSampling(BaseModel, frozen=True, extra="forbid"):
    """Settings of llama.cpp as the sampler of a model in training."""

    type_name: RolloutType = "q8_0"
    """Number type of weights that are not yet in a GGUF file: all weights in full training, or the base in a
    checkpoint folder. An adapter on a GGUF base is sampled with the types of that file."""
    max_rows: int = Field(default=16, ge=1, le=MAX_ROWS)
    """Maximum number of replies in a batch, from one prompt or several."""
    kv_type: KVType = "f16"
    """Number type of the KV cache. With f16 and q8_0, flash attention is used, which skips the cells of other
    replies: 1.1 times the speed with 8 replies, 1.7 times with 16 replies of 256 tokens (SmolLM2-135M, after 438
    tokens). Flash attention computes in f16, so f32 does without it."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None: as many as torch uses."""


class ServedPolicy:
    """Copy of one model in llama.cpp; see the module."""

    def __init__(self, base: Base, plan: LlamaSampling) -> None:
        """Store the settings without loading anything.

        Args:
            base: Base whose model is in training; if it is a GGUF file under an adapter, that file is served.
            plan: Settings of llama.cpp.
        """
        self._base, self._plan = base, plan
        self._digest: bytes | None = None
        self._weights: LlamaWeights | None = None
        self._adapter: Any = None
        self._missing: Mapping[str, NDArray[np.float32]] = {}
        self._context: LlamaContext | None = None
        self._writer: RolloutWriter | None = None
        self._room = (0, 0)
        self._prefix: tuple[int, ...] = ()

    def follow(self) -> bool:
        """Update llama.cpp's weights; return whether they had changed.

        Raises:
            UserError: llama.cpp does not support the model.
            EngineError: llama.cpp cannot load it.
        """
        digest = weights_digest(self._base.model)
        if digest == self._digest:
            return False
        self._digest = None
        with tempfile.TemporaryDirectory(prefix="rollouts.") as folder:
            if not _is_swapped(self._base.model):
                self._load_whole(Path(folder))
            else:
                if self._weights is None:
                    self._load_base(Path(folder))
                self._swap(Path(folder))
        self._digest = digest
        return True

    def writer(self, n_cells: int, n_rows: int, prefix: Sequence[int]) -> RolloutWriter:
        """Return a writer of replies with the weights of the last `follow`, which must be called first.

        Args:
            n_cells: Required number of KV cells.
            n_rows: Number of replies in a batch.
            prefix: Token ids that stay cached between calls.

        Raises:
            EngineError: There is not enough memory.
        """
        prefix = tuple(prefix)
        has_room = self._room[0] >= n_cells and self._room[1] >= n_rows
        if self._writer is not None and has_room and prefix == self._prefix:
            return self._writer
        assert self._weights is not None
        self._drop_context()
        context = self._context = LlamaContext(
            self._weights,
            n_cells=n_cells,
            n_sequences=n_rows + 1,
            n_batch=max(N_BATCH, n_rows),
            kv_type=self._plan.kv_type,
            flash_attention=self._plan.kv_type != "f32",
        )
        threads = self._plan.threads or torch.get_num_threads()
        context.set_threads(threads, threads)
        if self._adapter is not None:
            context.put_on(self._adapter)
        self._writer = RolloutWriter(context, n_rows, prefix)
        self._room, self._prefix = (n_cells, n_rows), prefix
        return self._writer

    def close(self) -> None:
        """Free the memory. Idempotent."""
        self._drop_context()
        if self._weights is not None:
            self._weights.free()
        self._weights = self._adapter = self._digest = None

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.free()
        self._context = self._writer = None

    def _load_base(self, folder: Path) -> None:
        """Load the base of the adapter: its own GGUF file, or one exported from a checkpoint."""
        model, file = self._base.model, self._base.path
        if self._base.kind == "checkpoint":
            file = self._exported(model, _without_adapters(model), folder)
        if rearranges_q4_0() and has_q4_1(file):
            self._missing = write_split(file, folder / "split.gguf")
            file = folder / "split.gguf"
        self._weights = LlamaWeights(file)

    def _load_whole(self, folder: Path) -> None:
        self.close()
        model = self._base.model
        if next(lora_layers(model), None) is not None:
            model = merge_lora(model)
        self._weights = LlamaWeights(self._exported(model, model.state_dict(), folder))

    def _swap(self, folder: Path) -> None:
        assert self._weights is not None
        file = folder / "adapter.gguf"
        write_rollout_adapter(self._base.model, self._missing, file)
        before, self._adapter = self._adapter, self._weights.load_adapter(file)
        if self._context is not None and self._writer is not None:
            self._context.put_on(self._adapter)
            self._writer.forget()
        if before is not None:
            self._weights.free_adapter(before)

    def _exported(self, model: CausalLM, state: Mapping[str, Tensor], folder: Path) -> Path:
        fields = gguf_fields(self._base.tokenizer)
        return export_gguf(model.config, state, fields, folder / "model.gguf", type_name=self._plan.type_name).path


@torch.no_grad()
def weights_digest(model: CausalLM) -> bytes:
    """Return a hash of the contents of all trained parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _is_swapped(model: CausalLM) -> bool:
    """Return whether only an adapter changes that llama.cpp can apply."""
    layers = [layer for _, layer in lora_layers(model)]
    return bool(layers) and all(layer.lora_magnitude is None for layer in layers)


def _without_adapters(model: CausalLM) -> dict[str, Tensor]:
    own = {
        f"{name}.{leaf}"
        for name, layer in lora_layers(model)
        for leaf in ("lora_A", "lora_B", "lora_magnitude")
        if getattr(layer, leaf) is not None
    }
    return {name: tensor for name, tensor in model.state_dict().items() if name not in own}
