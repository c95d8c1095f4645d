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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import export_gguf
from modelstack.inference.llama.batch import MAX_REPLY_BATCH
from modelstack.inference.llama.model import KVType, LlamaContext, LlamaWeights, rearranges_q4_0
from modelstack.inference.llama.sequence_queue import SequenceQueue
from modelstack.inference.sequences import PrefixCache, Slot
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

    def __init__(self, base: Base, plan: LlamaSampling, prefix: Sequence[int] = ()) -> None:
        """Store the settings without loading anything.

        Args:
            base: Base whose model is in training; if it is a GGUF file under an adapter, that file is served.
            plan: Settings of llama.cpp.
            prefix: Token ids that stay cached between calls.
        """
        self._base, self._plan, self._prefix = base, plan, tuple(prefix)
        self._digest: bytes | None = None
        self._weights: LlamaWeights | None = None
        self._adapter: Any = None
        self._missing: Mapping[str, NDArray[np.float32]] = {}
        self._context: LlamaContext | None = None
        self._queue: SequenceQueue | None = None
        self._prefix_slot: Slot | None = None
        self._has_prefix = False
        """Whether the prefix is cached with the current weights."""

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

    @contextmanager
    def queue(self, n_cells: int) -> Iterator[SequenceQueue]:
        """Yield an empty queue of requests, evaluated with the model's current weights.

        Args:
            n_cells: Required number of KV cells, those of the prefix included.

        Raises:
            UserError: llama.cpp does not support the model.
            EngineError: There is not enough memory, or llama.cpp failed.
        """
        if self.follow():
            self._has_prefix = False
        try:
            if self._queue is None or self._queue.n_cells < n_cells:
                self._queue = self._new_queue(n_cells)
            if not self._has_prefix:
                self._read_prefix(self._queue)
            yield self._queue
        except BaseException:
            self._drop_context()
            raise

    def _new_queue(self, n_cells: int) -> SequenceQueue:
        assert self._weights is not None
        self._drop_context()
        n_rows = self._plan.max_rows
        context = self._context = LlamaContext(
            self._weights,
            n_cells=n_cells,
            n_sequences=n_rows + 1,  # one for the prefix
            n_batch=max(N_BATCH, n_rows),
            kv_type=self._plan.kv_type,
            flash_attention=self._plan.kv_type != "f32",
        )
        threads = self._plan.threads or torch.get_num_threads()
        context.set_threads(threads, threads)
        if self._adapter is not None:
            context.put_on(self._adapter)
        cache = PrefixCache(context, n_rows + 1)
        return SequenceQueue(
            context, cache, n_cells, N_BATCH, n_reply_batch=max(n_rows, MAX_REPLY_BATCH), keeps_ended=False
        )

    def _read_prefix(self, queue: SequenceQueue) -> None:
        """Evaluate the prefix in a sequence that stays open, so that requests borrow it and none takes it."""
        if self._prefix:
            if self._prefix_slot is not None:
                queue.cache.shorten(self._prefix_slot, 0)
            slot = self._prefix_slot = self._prefix_slot or queue.cache.open("prefix", self._prefix)
            assert slot is not None  # nothing runs
            for start in range(0, len(self._prefix), N_BATCH):
                queue.evaluate_alone(slot, self._prefix[start : start + N_BATCH], 0)
        self._has_prefix = True

    def close(self) -> None:
        """Free the memory. Idempotent."""
        self._drop_context()
        if self._weights is not None:
            self._weights.free()
        self._weights = self._adapter = self._digest = None

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.free()
        self._context = self._queue = self._prefix_slot = None
        self._has_prefix = False

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
        if self._context is not None:
            self._context.put_on(self._adapter)
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
