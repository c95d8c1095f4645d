"""Quality classifier: one weight per bucket, a probability as output, a safetensors file that records its data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.data.quality_model.features import features
from modelstack.errors import UserError
from modelstack.files import replacing

MAX_FILE_BYTES = 64 << 20
_KEY = "modelstack_quality"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class QualityModel:
    """Linear classifier of reference texts against raw ones."""

    weights_F: NDArray[np.float32]
    bias: float
    stated: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Training texts and evaluation results of the model."""

    def score(self, text: str) -> float:
        """Return the probability that a text is of the reference kind."""
        buckets, values = features(text, len(self.weights_F))
        logit = float(self.weights_F[buckets] @ values) + self.bias
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    def save(self, path: Path) -> None:
        """Write the file; equal models give equal bytes."""
        from safetensors.numpy import save

        stated = {"version": _VERSION, "bias": self.bias, "stated": dict(self.stated)}
        data = save(
            {"weights": self.weights_F}, metadata={_KEY: json.dumps(stated, sort_keys=True, allow_nan=False)}
        )
        with replacing(path) as temporary:
            temporary.write_bytes(data)

    @classmethod
    def load(cls, path: Path) -> QualityModel:
        """Read a file.

        Raises:
            UserError: The file is missing, too large, or not a quality model.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes, too large for a quality model")
            data = path.read_bytes()
            weights = load(data)["weights"]
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            found = json.loads(header["__metadata__"][_KEY])
            if (
                found["version"] != _VERSION
                or weights.ndim != 1
                or weights.dtype != np.float32
                or not len(weights)
            ):
                raise ValueError(f"version {found['version']}, weights {weights.dtype} {weights.shape}")
            bias = float(found["bias"])
            if not (np.isfinite(weights).all() and math.isfinite(bias)):
                raise ValueError("a weight is not finite")
            return cls(weights, bias, found["stated"])
        except OSError as error:
            raise UserError(
                f"quality model {path} cannot be read: {error.strerror}; `modelstack data quality` makes one"
            ) from error
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no quality model ({error}); `modelstack data quality` makes one"
            ) from error
