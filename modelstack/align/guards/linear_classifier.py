"""A linear classifier over hashed features: int8 weights, calibrated probabilities, thresholds, one file.

The file is safetensors. One JSON string in its header describes the tensors: feature spec, labels, calibration,
thresholds, training rows. Weights are int8 with one scale for each label. Probabilities are Platt's (1999):
sigmoid(slope * logit + intercept). Operating points are thresholds on the probability, named after their
false-positive rate on ordinary texts.

Letters: L labels, B buckets, D dense features.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.align.guards.hashed_features import DENSE, FeatureSpec, WindowFeatures, windows
from modelstack.align.guards.weights_file import ClassifierFileError, read_weights, remedy, write_weights

FORMAT = "modelstack.align.linear/1"
MADE_BY = "python -m tools.classifiers.train DATA_DIR"
OPERATING_POINTS: Mapping[str, float] = {"fpr_0.5": 0.005, "fpr_1": 0.01, "fpr_5": 0.05}
"""Largest share of ordinary texts that each named threshold may flag."""


@dataclass(frozen=True, slots=True)
class Platt:
    """Calibration of one label after Platt."""

    slope: float = 1.0
    intercept: float = 0.0

    def probabilities(self, logits: NDArray[Any] | np.floating[Any]) -> NDArray[np.float64]:
        """Return calibrated probabilities."""
        scaled = np.clip(self.slope * np.asarray(logits, np.float64) + self.intercept, -50, 50)
        return 1 / (1 + np.exp(-scaled))


@dataclass(frozen=True, slots=True, eq=False)
class LinearClassifier:
    """Weights with their features, calibration and thresholds."""

    name: str
    version: str
    spec: FeatureSpec
    labels: tuple[str, ...]
    weights: NDArray[np.int8]
    """(B, L)"""
    scales: NDArray[np.float32]
    """(L,)"""
    dense_weights: NDArray[np.float32]
    """(D, L)"""
    bias: NDArray[np.float32]
    """(L,)"""
    calibration: tuple[Platt, ...]
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """Least flagged probability by label and operating point."""
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Data hashes, counts and metrics; inference does not use them."""

    def __post_init__(self) -> None:
        """Check that all parts fit each other.

        Raises:
            ValueError: a shape, a type or a number is wrong.
        """
        n_labels = len(self.labels)
        if not n_labels or len(set(self.labels)) != n_labels:
            raise ValueError(f"labels {self.labels!r}: at least one is needed, each once")
        expected = {
            "weights": (self.weights, np.int8, (self.spec.n_buckets, n_labels)),
            "scales": (self.scales, np.float32, (n_labels,)),
            "dense_weights": (self.dense_weights, np.float32, (len(DENSE), n_labels)),
            "bias": (self.bias, np.float32, (n_labels,)),
        }
        for name, (array, dtype, shape) in expected.items():
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype}{array.shape}; {np.dtype(dtype)}{shape} is needed")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite")
        if len(self.calibration) != n_labels:
            raise ValueError(f"{len(self.calibration)} calibrations for {n_labels} labels")
        if not all(
            math.isfinite(p.slope) and math.isfinite(p.intercept) and p.slope > 0 for p in self.calibration
        ):
            raise ValueError(f"calibration {self.calibration!r}: finite numbers with positive slopes are needed")
        for label, points in self.thresholds.items():
            if label not in self.labels or not all(0 <= value <= 1 for value in points.values()):
                raise ValueError(f"thresholds of {label!r} are {dict(points)!r}: known label, values of 0 to 1")

    def window_logits(self, window: WindowFeatures) -> NDArray[np.float32]:
        """Return the logits (L,) of one window, before calibration."""
        sparse = window.values @ self.weights[window.buckets]
        return np.asarray(sparse * self.scales + window.dense @ self.dense_weights + self.bias, np.float32)

    def logits(self, text: str) -> NDArray[np.float32]:
        """Return the largest logit (L,) over all windows of all views, before calibration."""
        return np.max([self.window_logits(window) for window in windows(text, self.spec)], axis=0)

    def probabilities(self, text: str) -> dict[str, float]:
        """Return the calibrated probability of each label."""
        logits = self.logits(text)
        return {
            label: float(platt.probabilities(logits[i]))
            for i, (label, platt) in enumerate(zip(self.labels, self.calibration, strict=True))
        }

    def threshold(self, label: str, operating_point: str) -> float:
        """Return the least probability that is flagged.

        Raises:
            KeyError: the classifier has no such label or operating point.
        """
        try:
            return self.thresholds[label][operating_point]
        except KeyError:
            known = {name: sorted(points) for name, points in self.thresholds.items()}
            raise KeyError(
                f"classifier {self.name!r} has no threshold {operating_point!r} for {label!r}; it has {known}"
            ) from None

    @property
    def n_bytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(a.nbytes for a in (self.weights, self.scales, self.dense_weights, self.bias))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file under a temporary name, rename it, and return its path."""
        stated = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "spec": self.spec.to_json(),
            "spec_sha256": self.spec.digest,
            "labels": list(self.labels),
            "calibration": [[p.slope, p.intercept] for p in self.calibration],
            "thresholds": {label: dict(points) for label, points in self.thresholds.items()},
            "training": dict(self.training),
        }
        arrays = {
            "bias": self.bias,
            "dense_weights": self.dense_weights,
            "scales": self.scales,
            "weights": self.weights,
        }
        return write_weights(path, "classifier", stated, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearClassifier:
        """Read a file that `save` wrote.

        Raises:
            ClassifierFileError: the file is missing, broken, or made for other features.
        """
        stated, arrays = read_weights(path, "classifier", made_by=MADE_BY)
        try:
            return cls._of(stated, arrays)
        except ClassifierFileError as error:
            raise ClassifierFileError(f"{path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClassifierFileError(
                f"{path} is no classifier: {type(error).__name__}: {error}. {remedy(MADE_BY)}"
            ) from error

    @classmethod
    def _of(cls, stated: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> LinearClassifier:
        if stated["format"] != FORMAT:
            raise ClassifierFileError(f"format {stated['format']!r} is not known; this code reads {FORMAT!r}")
        spec = FeatureSpec.from_json(stated["spec"])
        if spec.digest != stated["spec_sha256"]:
            raise ClassifierFileError(
                f"made for features {stated['spec_sha256'][:12]}, this code has {spec.digest[:12]}: fit it anew"
            )
        return cls(
            name=str(stated["name"]),
            version=str(stated["version"]),
            spec=spec,
            labels=tuple(str(label) for label in stated["labels"]),
            weights=arrays["weights"],
            scales=arrays["scales"],
            dense_weights=arrays["dense_weights"],
            bias=arrays["bias"],
            calibration=tuple(Platt(float(slope), float(intercept)) for slope, intercept in stated["calibration"]),
            thresholds={
                str(label): {str(name): float(value) for name, value in points.items()}
                for label, points in stated["thresholds"].items()
            },
            training=dict(stated["training"]),
        )
