"""Assessments of a text by the shipped classifiers.

    load_classifier("request-harm")                # any of the weights, as a LinearClassifier
    assess_request("How do I ...")                 # Assessment: probability, operating points, hazard, reasons
    assess_jailbreak(...), assess_injection(...)

Weights are read on first use and kept. Needs numpy and safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from modelstack.align.guards.hashed_features import windows, word_grams
from modelstack.align.guards.linear_classifier import LinearClassifier
from modelstack.align.guards.normalise import views
from modelstack.align.guards.weights_file import ClassifierFileError

N_REASONS = 5
MIN_HAZARD_PROBABILITY = 0.2
"""Least probability of a hazard that is named; a harmful request below it is of a kind unknown to the
classifier."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """Result of one classifier for a text."""

    classifier: str
    probability: float
    """Probability, calibrated on the mix of the classifier's training rows; other sources differ (see its
    card)."""
    flagged_at: tuple[str, ...]
    """Operating points that flag the text, strictest first: ("fpr_0.5", "fpr_1", "fpr_5") or fewer."""
    hazard: str | None
    """MLCommons hazard S1 to S14, A1 (injection) or A2 (jailbreak); None if no operating point flags the text."""
    reasons: tuple[str, ...]
    """Words and word pairs with the largest weights; empty if no operating point flags the text."""
    encodings: tuple[str, ...]
    """Encodings of the judged reading, outermost first."""
    n_unread_characters: int
    """Number of characters of a very long text that were not read."""


@lru_cache(maxsize=16)
def load_classifier(name: str) -> LinearClassifier:
    """Return a classifier of the package: "request-harm", "request-hazard", "jailbreak", "injection" and others.

    Raises:
        ClassifierFileError: the name is unknown, or the file is broken.
    """
    folder = Path(__file__).parent / "weights"
    known = sorted(path.stem for path in folder.glob("*.safetensors"))
    if name not in known:
        raise ClassifierFileError(
            f"classifier {name!r} is not in {folder}; there are {', '.join(known) or 'none'}"
        )
    return LinearClassifier.load(folder / f"{name}.safetensors")


def assess_request(text: str) -> Assessment:
    """Judge whether a request asks for harm, and name the hazard.

    Raises:
        ClassifierFileError: the weights are missing or broken.
    """
    assessment, reading = _assess(text, "request-harm")
    if not assessment.flagged_at:
        return assessment
    return _with_likeliest(assessment, load_classifier("request-hazard").probabilities(reading))


def assess_hazards(text: str) -> tuple[Assessment, dict[str, float]]:
    """Judge a request as `assess_request` does; also return the probability of each hazard, given harm.

    Raises:
        ClassifierFileError: the weights are missing or broken.
    """
    assessment, reading = _assess(text, "request-harm")
    hazards = load_classifier("request-hazard").probabilities(reading)
    return (_with_likeliest(assessment, hazards) if assessment.flagged_at else assessment), hazards


def _with_likeliest(assessment: Assessment, hazards: dict[str, float]) -> Assessment:
    hazard, probability = max(hazards.items(), key=lambda item: item[1])
    named = hazard if probability >= MIN_HAZARD_PROBABILITY else None
    return _with_hazard(assessment, named)


def assess_jailbreak(text: str) -> Assessment:
    """Judge whether a message tries to unlock the model: personas without rules, suffixes found by search.

    Raises:
        ClassifierFileError: the weights are missing or broken.
    """
    assessment, _ = _assess(text, "jailbreak")
    return _with_hazard(assessment, "A2") if assessment.flagged_at else assessment


def assess_injection(text: str) -> Assessment:
    """Judge whether a document or tool result carries instructions for the model.

    Raises:
        ClassifierFileError: the weights are missing or broken.
    """
    assessment, _ = _assess(text, "injection")
    return _with_hazard(assessment, "A1") if assessment.flagged_at else assessment


def _with_hazard(assessment: Assessment, hazard: str | None) -> Assessment:
    return Assessment(
        assessment.classifier,
        assessment.probability,
        assessment.flagged_at,
        hazard,
        assessment.reasons,
        assessment.encodings,
        assessment.n_unread_characters,
    )


def _assess(text: str, name: str) -> tuple[Assessment, str]:
    """Return the assessment by a classifier of one label, and the window with the largest logit."""
    classifier = load_classifier(name)
    label = classifier.labels[0]
    readings = views(text, decode=classifier.spec.decode)
    scored = [
        (float(classifier.window_logits(window)[0]), window) for window in windows(readings, classifier.spec)
    ]
    logit, window = max(scored, key=lambda pair: pair[0])
    probability = float(classifier.calibration[0].probabilities(np.float32(logit)))
    points = classifier.thresholds.get(label, {})
    flagged = tuple(
        point for point, least in sorted(points.items(), key=lambda item: -item[1]) if probability >= least
    )
    view = readings.views[window.view]
    reading = view.text[window.start : window.start + classifier.spec.window_characters]
    assessment = Assessment(
        classifier=name,
        probability=probability,
        flagged_at=flagged,
        hazard=None,
        reasons=_reasons(classifier, reading) if flagged else (),
        encodings=view.encodings,
        n_unread_characters=readings.n_unread,
    )
    return assessment, reading


def _reasons(classifier: LinearClassifier, reading: str) -> tuple[str, ...]:
    grams = dict(word_grams(reading, classifier.spec))
    weights = {gram: int(classifier.weights[bucket, 0]) for gram, bucket in grams.items()}
    strongest = sorted((gram for gram in weights if weights[gram] > 0), key=lambda gram: (-weights[gram], gram))
    return tuple(strongest[:N_REASONS])
