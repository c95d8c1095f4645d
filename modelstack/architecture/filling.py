"""Tensors of a file in a model: adopted whole, or copied into this process's share of a distributed model.

A reader of files (`checkpoint`, `gguf.load`) puts one tensor after the other. One process adopts them, so a load
holds the weights in memory only once. A model that several processes share is created on the meta device,
distributed and given memory first. Each tensor is then read, this process's part of it is copied, and the rest is
dropped, so no process ever holds the whole model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import OwnPart, whole_part
from modelstack.architecture.meta import on_meta

Spread = Callable[[CausalLM], Callable[[Tensor], OwnPart]]
"""Distributes a model on the meta device and gives it memory; returns the function that finds this process's part
of a parameter or buffer.
"""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
READ_AT_ONCE = 2**22
"""Approximate numbers per chunk of rows: 16 MiB in fp32."""


class Filling(ABC):
    """A model that is being filled with the tensors of a file."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the model on the meta device."""
        with on_meta():
            self._model = CausalLM(config)
        self._model.requires_grad_(True).eval()
        self.expected: dict[str, Tensor] = self._model.state_dict()
        """Tensors of the model by name, on the meta device; a tied head is left out."""
        if config.tie_word_embeddings:
            del self.expected[HEAD]
        self.filled: set[str] = set()
        """Names of the tensors that were put, whole or in part."""

    @abstractmethod
    def rows(self, name: str) -> Iterator[tuple[int, int]]:
        """Yield the rows of a tensor that this process needs, in ranges (first, end) to read one at a time."""

    @abstractmethod
    def put(self, name: str, tensor: Tensor, offsets: Sequence[int]) -> None:
        """Take a tensor of the model, or a block of one.

        Args:
            name: A name in `expected`.
            tensor: The block, with as many axes as the whole tensor.
            offsets: Start of the block in the whole tensor, for each axis.
        """

    @abstractmethod
    def model(self) -> CausalLM:
        """Return the filled model, in evaluation mode, with trainable parameters."""


def filling(config: ModelConfig, dtype: torch.dtype | None, spread: Spread | None) -> Filling:
    """Return a model to fill.

    Args:
        config: Config of the model.
        dtype: Type of floating-point parameters; buffers keep their type. None: as in the file, or float32 in a
            distributed model.
        spread: Distributes the model over processes; None: this process has all of it.
    """
    return _Whole(config, dtype) if spread is None else _Share(config, dtype, spread)


class _Whole(Filling):
    """A model that adopts the tensors of the file without a copy."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None) -> None:
        super().__init__(config)
        self._dtype = dtype
        self._parameters = {name for name, _ in self._model.named_parameters()}
        self._found: dict[str, Tensor] = {}

    def rows(self, name: str) -> Iterator[tuple[int, int]]:
        yield 0, len(self.expected[name])

    def put(self, name: str, tensor: Tensor, offsets: Sequence[int]) -> None:
        self.filled.add(name)
        is_weight = name in self._parameters and tensor.is_floating_point()
        dtype = self._dtype if self._dtype is not None and is_weight else tensor.dtype
        shape = self.expected[name].shape
        if tensor.shape == shape:
            self._found[name] = tensor.to(dtype)
            return
        if name not in self._found:
            self._found[name] = torch.empty(shape, dtype=dtype)
        whole_part(self._found[name]).keep(tensor, offsets)

    def model(self) -> CausalLM:
        if self._model.config.tie_word_embeddings:
            self._found[HEAD] = self._found[EMBEDDING]
        self._model.load_state_dict(self._found, strict=True, assign=True)
        self._model.tie_weights()
        return self._model.requires_grad_(True)


class _Share(Filling):
    """A distributed model, of which this process holds a part of each parameter."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None, spread: Spread) -> None:
        super().__init__(config)
        if dtype is not None:
            for parameter in self._model.parameters():
                parameter.data = parameter.data.to(dtype)
        self._own_part = spread(self._model)
        self._targets = dict(self._model.named_parameters()) | dict(self._model.named_buffers())

    def rows(self, name: str) -> Iterator[tuple[int, int]]:
        own = self._own_part(self._targets[name])
        at_once = max(1, READ_AT_ONCE // max(1, self.expected[name].shape[1:].numel()))
        first, end = own.offsets[0], own.offsets[0] + len(own.values)
        for start in range(first, end, at_once):
            yield start, min(start + at_once, end)

    @torch.no_grad()
    def put(self, name: str, tensor: Tensor, offsets: Sequence[int]) -> None:
        self.filled.add(name)
        self._own_part(self._targets[name]).keep(tensor, offsets)

    def model(self) -> CausalLM:
        return self._model
