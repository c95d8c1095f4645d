"""OpenAI's moderations: texts judged by the linear classifiers of the package, which need no model.

The classifiers know the hazards of MLCommons. Each stands for one or two categories of OpenAI, whose score is the
probability that the text asks for harm, times that of the hazards. Specialised advice (S6) is in no category. The
fields `hazards` and `flagged_at` are additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from modelstack.align.guards.assess import assess_hazards
from modelstack.inference.server.bodies import Body
from modelstack.inference.server.chat_completions import new_id
from modelstack.inference.server.errors import ApiError

POINT = "fpr_1"
"""Operating point at which a text is flagged: 1 % of ordinary texts are."""
MOST_TEXTS = 256
MODEL = "request-harm"
"""Name of the classifier, which answers whatever model is asked for."""
CATEGORIES = {
    "harassment": ("S5",),
    "harassment/threatening": (),
    "hate": ("S10",),
    "hate/threatening": (),
    "illicit": ("S2", "S7", "S8", "S13", "S14"),
    "illicit/violent": ("S1", "S9"),
    "self-harm": ("S11",),
    "self-harm/intent": (),
    "self-harm/instructions": ("S11",),
    "sexual": ("S3", "S12"),
    "sexual/minors": ("S4",),
    "violence": ("S1", "S9"),
    "violence/graphic": (),
}
"""Hazards by category; the classifiers do not tell those without apart."""
LEAST_SHARE = 0.3
"""Least probability of a category's hazards, given harm, at which the category of a flagged text is true."""


class TextInput(Body):
    """A text among several inputs."""

    type: Literal["text"]
    text: str


class ModerationsBody(Body):
    """Body of a request."""

    input: str | list[str] | list[TextInput]
    model: str | None = None


def moderation_texts(body: ModerationsBody) -> list[str]:
    """Return the texts of a request.

    Raises:
        ApiError: There are none, or too many.
    """
    given = [body.input] if isinstance(body.input, str) else body.input
    if not given or len(given) > MOST_TEXTS:
        raise ApiError(400, f"input has {len(given):,} texts; give 1 to {MOST_TEXTS}", "input")
    return [each if isinstance(each, str) else each.text for each in given]


def moderation_results(texts: Sequence[str]) -> dict[str, Any]:
    """Return the body of a response; it computes for about a millisecond a text.

    Raises:
        ClassifierFileError: The weights are missing or broken.
    """
    return {"id": new_id("modr-"), "model": MODEL, "results": [_result(text) for text in texts]}


def _result(text: str) -> dict[str, Any]:
    found, hazards = assess_hazards(text)
    flagged = POINT in found.flagged_at
    shares = {name: sum(hazards.get(code, 0.0) for code in codes) for name, codes in CATEGORIES.items()}
    return {
        "flagged": flagged,
        "categories": {name: flagged and share >= LEAST_SHARE for name, share in shares.items()},
        "category_scores": {name: found.probability * min(share, 1.0) for name, share in shares.items()},
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
        "hazards": {code: found.probability * share for code, share in hazards.items()},
        "flagged_at": list(found.flagged_at),
    }
