"""Linear probes on hidden states: one for the request, at the end of the prompt, one for each token of a reply.

The states of a few layers give one log-odds per token, a product of some thousand numbers. For replies these are
smoothed by an exponential mean, whose largest value so far counts (Constitutional Classifiers++, arXiv
2601.04603).

A probe fits one model: the same states come only from the same weights and adapter, so its file names their
fingerprints, and other engines are refused.

Letters: L layers, D width of the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.align.guards.weights_file import ClassifierFileError, read_weights, write_weights
from modelstack.errors import UserError

FORMAT = "modelstack.align.monitor/1"
MADE_BY = "python -m tools.guard_model.monitor DATA_DIR"
REQUEST, REPLY = "request", "reply"
_KEY = "monitor"


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """A linear function of the states of a token."""

    weights_LD: NDArray[np.float32]
    bias: float

    def log_odds(self, states_LD: NDArray[np.float32]) -> float:
        """Return the log-odds of `unsafe` of a token."""
        return float(np.vdot(self.weights_LD, states_LD)) + self.bias


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Both probes of a model, and their thresholds."""

    layers: tuple[int, ...]
    """Layers whose outputs are read, from 0."""
    request: Direction
    reply: Direction
    window: int
    """Tokens M of the exponential mean, whose factor is 2 / (M + 1)."""
    thresholds: Mapping[str, Mapping[str, float]]
    """Least flagged log-odds by `request` or `reply` and operating point.

    "fpr_0.1" flags 0.1 % of ordinary traffic.
    """
    fingerprints: tuple[str, ...]
    """Fingerprints of the engines whose states the probe was fitted on."""
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Data and figures of the fit, as JSON data."""

    def require_fitted_to(self, fingerprint: str, layers: Sequence[int]) -> None:
        """Check that an engine gives the states that the probe was fitted on.

        Args:
            fingerprint: `Engine.fingerprint`, which covers weights and adapter.
            layers: The engine's `state_layers`.

        Raises:
            UserError: It is another model or adapter, or other layers.
        """
        if fingerprint not in self.fingerprints:
            raise UserError(
                f"the monitor was fitted on the states of another model or adapter ({self.fingerprints[0][:12]}, "
                f"not {fingerprint[:12]}): states of different weights do not compare; fit one with `{MADE_BY}`"
            )
        if tuple(layers) != self.layers:
            raise UserError(
                f"the monitor reads layers {self.layers} and the engine gives {tuple(layers)}: load the engine "
                f"with state_layers={self.layers}"
            )

    def threshold(self, what: str, point: str) -> float:
        """Return the least flagged log-odds of an operating point.

        Raises:
            UserError: There is no such point.
        """
        known = self.thresholds[what]
        if point not in known:
            raise UserError(f"operating point {point!r} is not in this monitor; it has {', '.join(sorted(known))}")
        return known[point]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the probe; equal probes give equal bytes."""
        stated = {
            "format": FORMAT,
            "layers": list(self.layers),
            "window": self.window,
            "thresholds": {what: dict(points) for what, points in self.thresholds.items()},
            "fingerprints": list(self.fingerprints),
            "card": dict(self.card),
        }
        arrays: dict[str, NDArray[Any]] = {}
        for name, direction in ((REQUEST, self.request), (REPLY, self.reply)):
            arrays[f"{name}.weights"] = direction.weights_LD.astype(np.float32)
            arrays[f"{name}.bias"] = np.array([direction.bias], np.float32)
        write_weights(path, _KEY, stated, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Probe:
        """Read a probe.

        Raises:
            UserError: The file is missing, broken, or of another format.
        """
        try:
            stated, arrays = read_weights(path, _KEY, made_by=MADE_BY)
            if stated["format"] != FORMAT:
                raise ClassifierFileError(f"{path} has format {stated['format']!r}; {FORMAT!r} is needed")
            layers = tuple(map(int, stated["layers"]))
            directions = [
                Direction(arrays[f"{name}.weights"], float(arrays[f"{name}.bias"][0])) for name in (REQUEST, REPLY)
            ]
            for direction in directions:
                shape = direction.weights_LD.shape
                if len(shape) != 2 or shape[0] != len(layers) or not np.isfinite(direction.weights_LD).all():
                    raise ClassifierFileError(f"{path}: weights of shape {shape} do not fit {len(layers)} layers")
            return cls(
                layers,
                *directions,
                window=int(stated["window"]),
                thresholds={
                    what: {name: float(value) for name, value in stated["thresholds"][what].items()}
                    for what in (REQUEST, REPLY)
                },
                fingerprints=tuple(map(str, stated["fingerprints"])),
                card=stated["card"],
            )
        except ClassifierFileError as error:
            raise UserError(str(error)) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is no monitor: {error!r}; fit one with `{MADE_BY}`") from error
