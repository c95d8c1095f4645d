"""A classifier in front of the model: the probability that a request should be blocked.

A guard is named as the package's classifiers are ("request-harm"), or is a file of weights. It is only asked for
its probability; whether that blocks is decided by the sweep over thresholds afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from agentkit.errors import UserError
from modelstack import align
from modelstack.align.linear import ClassifierFileError, LinearClassifier

Guard = Callable[[str], float]
HARM_LABELS = ("harmful", "harm", "unsafe")
"""A classifier with one of these labels is asked for it; of another the most likely label counts."""


@cache
def load_guard(name: str) -> Guard:
    """Return the guard of a name or of a weights file.

    Raises:
        UserError: there is none, or its file is broken.
    """
    path = Path(name) if name.endswith(".safetensors") else _packaged(name)
    try:
        classifier = LinearClassifier.load(path)
    except ClassifierFileError as error:
        raise UserError(f"guard {name!r}: {error}") from error

    def probability(prompt: str) -> float:
        probabilities = classifier.probabilities(prompt)
        for label in HARM_LABELS:
            if label in probabilities:
                return probabilities[label]
        return max(probabilities.values())

    return probability


def _packaged(name: str) -> Path:
    folder = Path(align.__file__).parent / "weights"
    wanted = name.replace("-", "_")
    for path in sorted(folder.glob("*.safetensors")):
        if path.stem.replace("-", "_") == wanted and wanted != "refusal":
            return path
    known = ", ".join(p.stem for p in sorted(folder.glob("*.safetensors")) if p.stem != "refusal") or "none"
    raise UserError(
        f"guard {name!r} is not in this package (it has: {known}); name one of them or a .safetensors file."
    )
