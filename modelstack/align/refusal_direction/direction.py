"""A direction of refusal, kept in a file, and the steering that it gives.

Letters: D width of the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.align.guards.weights_file import ClassifierFileError, read_weights, write_weights
from modelstack.errors import UserError
from modelstack.inference.steering import Steering

FORMAT = "modelstack.align.refusal_direction/1"
MADE_BY = "modelstack direction MODEL --rows ROWS"
_KEY, _UNIT = "refusal_direction", "unit"


@dataclass(frozen=True, slots=True, eq=False)
class RefusalDirection:
    """A unit vector in the output of one layer: harmful requests lie further along it than harmless ones."""

    layer: int
    """Layer, from 0."""
    unit_D: NDArray[np.float32]
    size: float
    """Distance between the means of harmful and harmless requests."""
    weights_sha256: str
    """Hash of the weights and the adapter that it was found in; states of other weights do not compare."""
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Figures of all layers, as JSON data."""

    def steering(self, strength: float) -> Steering:
        """Return the steering that moves all tokens along the direction.

        Args:
            strength: 1 moves by the distance between harmless and harmful requests, towards refusals; a negative
                number moves away from them.
        """
        return Steering({self.layer: (strength * self.size * self.unit_D).astype(np.float32)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the direction; equal directions give equal bytes."""
        stated = {
            "format": FORMAT,
            "layer": self.layer,
            "size": self.size,
            "weights_sha256": self.weights_sha256,
            "card": dict(self.card),
        }
        write_weights(path, _KEY, stated, {_UNIT: self.unit_D.astype(np.float32)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RefusalDirection:
        """Read a direction.

        Raises:
            UserError: The file is missing, broken, or of another format.
        """
        try:
            stated, arrays = read_weights(path, _KEY, made_by=MADE_BY)
        except ClassifierFileError as error:
            raise UserError(str(error)) from error
        try:
            if stated["format"] != FORMAT:
                raise ValueError(f"format {stated['format']!r}, not {FORMAT!r}")
            unit_D, layer, size = arrays[_UNIT], int(stated["layer"]), float(stated["size"])
            if unit_D.ndim != 1 or not np.isclose(np.linalg.norm(unit_D), 1, atol=1e-3) or not size > 0:
                raise ValueError("the vector is not of length 1, or its size is not positive")
            return cls(layer, unit_D, size, str(stated["weights_sha256"]), dict(stated["card"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no direction of refusal ({error}): write it with `{MADE_BY}`") from error
