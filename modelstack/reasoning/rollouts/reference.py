"""Frozen copy of the trained weights, which can temporarily replace the current ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Reference:
    """Copy of a model's trained weights."""

    def __init__(self, model: nn.Module) -> None:
        """Copy the trained weights: those of the adapter, a few million numbers, or all of them."""
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._values = [parameter.detach().clone() for parameter in self._parameters]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the copied weights in the model within the block."""
        own = [parameter.data for parameter in self._parameters]
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.data = value
        try:
            yield
        finally:
            for parameter, value in zip(self._parameters, own, strict=True):
                parameter.data = value
