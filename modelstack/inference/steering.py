"""Steering: vectors that are added to the outputs of layers while a model computes.

A direction of the hidden states, for example that of refusal (Arditi et al., 2406.11717), becomes a knob: added,
it makes what it stands for more likely, subtracted, less. llama.cpp calls it a control vector. States that a watch
reads are those after the addition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError


@dataclass(frozen=True, slots=True, eq=False)
class Steering:
    """A vector [D] for each of some layers, D the width of the model."""

    vectors: Mapping[int, NDArray[np.float32]]
    """Vectors by layer, from 1: llama.cpp cannot add one to the output of layer 0."""

    def __post_init__(self) -> None:
        """Check the vectors.

        Raises:
            EngineError: There is none, or a number is not finite.
        """
        if not self.vectors:
            raise EngineError("steering without vectors changes nothing: leave it out")
        for layer, vector in self.vectors.items():
            if vector.ndim != 1 or not np.isfinite(vector).all():
                raise EngineError(f"the steering vector of layer {layer} must be one row of finite numbers")

    def require_fitting(self, n_layers: int, width: int) -> None:
        """Check that a model has these layers, in this width.

        Raises:
            EngineError: It does not.
        """
        for layer, vector in self.vectors.items():
            if not 1 <= layer < n_layers:
                raise EngineError(
                    f"steering names layer {layer}; this model can be steered in the layers 1 to {n_layers - 1}"
                )
            if len(vector) != width:
                raise EngineError(
                    f"the steering vector of layer {layer} has {len(vector)} numbers, the model's states {width}"
                )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over layers and vectors: cached states of steered and unsteered models must not mix."""
        digest = hashlib.sha256()
        for layer in sorted(self.vectors):
            digest.update(f"{layer} ".encode() + self.vectors[layer].astype("<f4").tobytes())
        return digest.hexdigest()

    def rows(self, n_layers: int) -> NDArray[np.float32]:
        """Return the vectors of the layers from 1 on, [n_layers - 1, D], with zeros where there is none."""
        (width,) = next(iter(self.vectors.values())).shape
        rows = np.zeros((n_layers - 1, width), np.float32)
        for layer, vector in self.vectors.items():
            rows[layer - 1] = vector
        return rows
