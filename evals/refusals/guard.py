"""A classifier in front of the model: the probability that a request should be blocked.

A guard is one of the package's classifiers by name ("request-harm"), or a weights file. It only provides the
probability; the later sweep over thresholds decides which requests are blocked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from agentkit.errors import UserError
from modelstack.align.guards.assess import load_classifier
from modelstack.align.guards.linear_classifier import LinearClassifier
from modelstack.align.guards.weights_file import ClassifierFileError

Guard = Callable[[str], float]
HARM_LABELS = ("harmful", "harm", "unsafe")
"""Labels whose probability is used; for a classifier without them, the largest probability counts."""


@cache
def load_guard(name: str) -> Guard:
    """Return the guard with a name or from a weights file.

    Raises:
        UserError: the guard does not exist, or its file is damaged.
    """
    try:
        is_file = name.endswith(".safetensors")
        classifier = LinearClassifier.load(Path(name)) if is_file else load_classifier(name)
    except ClassifierFileError as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"guard {name!r}: {reason}. Name a classifier of requests, as request-harm, or a .safetensors file."
        ) from error

    def probability(prompt: str) -> float:
        probabilities = classifier.probabilities(prompt)
        for label in HARM_LABELS:
            if label in probabilities:
                return probabilities[label]
        return max(probabilities.values())

    return probability
