"""Frozen copy of the trained weights, put in the place of later ones for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Reference:
    """The trained weights of a model at one moment."""

    def __init__(self, model: nn.Module) -> None:
        """Copy the trained weights: of a model with an adapter a few million numbers, else all of them."""
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._values = [parameter.detach().clone() for parameter in self._parameters]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the copied weights within the block."""
        own = [parameter.data for parameter in self._parameters]
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.data = value
        try:
            yield
        finally:
            for parameter, value in zip(self._parameters, own, strict=True):
                parameter.data = value
