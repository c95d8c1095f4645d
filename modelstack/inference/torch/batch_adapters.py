"""LoRA adapters of a batch: one product with the base for all tokens, a low-rank one for those of an adapter.

The rows of a step may belong to the base model and to any number of adapters (S-LoRA, arXiv 2311.03285). An
adapted layer computes the base's output for all tokens at once, packed weights included, and adds B A x to the
tokens of each adapter. Blocks of keys and values are found by the tokens of a request and by its adapter, because
an adapter changes keys and values.

Letters: N tokens of a step, I inputs and O outputs of a layer, r rank.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.projections import READ_DIRECTLY, SharesInput, projected
from modelstack.inference.engine import EngineError
from modelstack.inference.streams import StepRow
from modelstack.inference.torch.packing import PackedLinear


@dataclass(frozen=True, slots=True)
class LowRank:
    """Change of one layer: s B A."""

    a_rI: Tensor
    b_Or: Tensor
    """B times the scale s."""


class BatchAdapters:
    """Adapters of a model by name, and the tokens of the current step that each applies to."""

    def __init__(self, model: CausalLM) -> None:
        """Start without adapters; the model is unchanged until the first one is added."""
        self._model = model
        self._layers: dict[str, AdaptedLinear] = {}
        self._roots: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self._places: list[tuple[str, Tensor]] = []

    @property
    def is_active(self) -> bool:
        """Whether the current step has tokens of an adapter."""
        return bool(self._places)

    @property
    def places(self) -> Sequence[tuple[str, Tensor]]:
        """Adapters of the current step with the places of their tokens in the step's row."""
        return self._places

    def add(self, name: str, changes: Mapping[str, LowRank]) -> None:
        """Add an adapter.

        Args:
            name: Its name in requests.
            changes: Changes by the name of the layer in the model.

        Raises:
            EngineError: The name is taken, there is no change, or a layer is missing or has other sizes.
        """
        if name in self._roots:
            raise EngineError(f"there is an adapter {name!r} already; remove it first, or choose another name")
        if not changes:
            raise EngineError(f"adapter {name!r} changes no layer")
        layers = self._layers or _linear_layers(self._model)
        for layer, change in changes.items():
            if layer not in layers:
                raise EngineError(f"adapter {name!r} changes {layer}, which this model does not have as a layer")
            sizes = sizes_of(layers[layer])
            if (change.b_Or.shape[0], change.a_rI.shape[1]) != sizes or change.b_Or.shape[1] != len(change.a_rI):
                raise EngineError(
                    f"adapter {name!r} is of another base: {layer} has {sizes[1]} inputs and {sizes[0]} outputs, "
                    f"its change {list(change.a_rI.shape)} and {list(change.b_Or.shape)}"
                )
        if not self._layers:
            self._layers = {layer: AdaptedLinear(linear, self) for layer, linear in layers.items()}
            for layer, adapted in self._layers.items():
                parent, _, last = layer.rpartition(".")
                setattr(self._model.get_submodule(parent), last, adapted)
        weight = self._model.model.norm.get_parameter(
            "weight"
        )  # of the states' type, which packing may have widened
        for layer, change in changes.items():
            a, b = (each.to(weight.device, weight.dtype) for each in (change.a_rI, change.b_Or))
            self._layers[layer].changes[name] = LowRank(a, b)
        self._roots[name] = f"{name}\0{next(self._numbers)}".encode()

    def remove(self, name: str) -> None:
        """Remove an adapter; its cached blocks are never found again.

        Raises:
            EngineError: There is no such adapter.
        """
        self.root(name)
        del self._roots[name]
        for layer in self._layers.values():
            layer.changes.pop(name, None)

    def root(self, name: str | None) -> bytes:
        """Return the beginning of the digests of an adapter's blocks; of the base's: nothing.

        Raises:
            EngineError: There is no such adapter.
        """
        if name is None:
            return b""
        if name not in self._roots:
            known = ", ".join(map(repr, self._roots)) or "none"
            raise EngineError(f"there is no adapter {name!r}; this engine has {known}: call add_adapter")
        return self._roots[name]

    def select(self, rows: Sequence[StepRow], device: torch.device) -> None:
        """Note which tokens of the next step belong to which adapter.

        Args:
            rows: The rows in the order of their tokens.
            device: Device of the model.
        """
        places: dict[str, list[int]] = {}
        start = 0
        for row in rows:
            if row.stream.adapter is not None:
                places.setdefault(row.stream.adapter, []).extend(range(start, start + row.n_evaluated))
            start += row.n_evaluated
        self._places = [(name, torch.tensor(each, device=device)) for name, each in places.items()]

    def select_one(self, name: str | None, n_tokens: int, device: torch.device) -> None:
        """Note that all `n_tokens` tokens of the next step belong to one adapter; None: to the base."""
        self._places = [] if name is None else [(name, torch.arange(n_tokens, device=device))]


class AdaptedLinear(SharesInput, nn.Module):
    """A linear layer with the changes of several adapters."""

    def __init__(self, base: nn.Module, adapters: BatchAdapters) -> None:
        """Wrap a linear or packed layer."""
        super().__init__()
        self.base = base
        self.changes: dict[str, LowRank] = {}
        """Changes by the name of the adapter."""
        self._adapters = adapters

    def forward(self, x_1NI: Tensor) -> Tensor:
        """Return [1, N, O]."""
        return self._changed(x_1NI, self.base(x_1NI))

    @classmethod
    def together(cls, x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
        """Return the output of each layer; the bases are computed as one product where they are one."""
        adapted = [layer for layer in layers if isinstance(layer, AdaptedLinear)]
        outputs = projected(x, [layer.base for layer in adapted])
        return [layer._changed(x, output) for layer, output in zip(adapted, outputs, strict=True)]

    def _changed(self, x_1NI: Tensor, y_1NO: Tensor) -> Tensor:
        """Add the changes to the tokens of their adapters."""
        for name, places in self._adapters.places:
            if (change := self.changes.get(name)) is not None:
                y_1NO = y_1NO.index_add(1, places, x_1NI[:, places] @ change.a_rI.T @ change.b_Or.T)
        return y_1NO


def _linear_layers(model: CausalLM) -> dict[str, nn.Module]:
    """Return the plain and packed linear layers of a model's blocks by name, those that can be adapted."""
    named = model.model.layers.named_modules(prefix="model.layers")
    return {
        name: layer
        for name, layer in named
        if type(layer) in (nn.Linear, PackedLinear) and name.rpartition(".")[2] not in READ_DIRECTLY
    }


def sizes_of(layer: nn.Module) -> tuple[int, int]:
    """Return outputs and inputs of a linear layer: plain, packed or adapted."""
    if isinstance(layer, AdaptedLinear):
        return sizes_of(layer.base)
    assert isinstance(layer, nn.Linear | PackedLinear), "other layers are not adapted"
    return layer.out_features, layer.in_features
