"""Differences between the generations of Gemini models, read off a model's name.

From Google's guides "Thought signatures", "Thinking", "Function calling" and "Structured output". An alias such
as `gemini-flash-latest` names the newest generation. Gemma models follow the rules of the oldest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from agentkit.models.capabilities import capabilities_of

PROVIDER = "gcp.gemini"
"""Provider in OpenTelemetry's terms; signatures are kept under this name."""
ThinkingLevel = Literal["minimal", "low", "medium", "high"]
"""Values of `thinkingLevel`; not every model has all of them."""
FIRST_SIGNING: tuple[int, int] = (3, 0)
"""The first version that refuses a history whose calls lack their signatures."""
FIRST_VALIDATING: tuple[int, int] = (2, 5)
"""The first version with the mode VALIDATED."""


@dataclass(frozen=True, slots=True)
class GeminiDialect:
    """Request fields and rules of a generation of Gemini models."""

    thinking: Literal["level", "budget", "none"] = "level"
    """Form in which thinking is limited: `thinkingLevel`, or `thinkingBudget` in tokens. The API refuses the wrong
    one. "none": the model does not think."""
    least_level: ThinkingLevel = "low"
    """Lowest `thinkingLevel` of the model; stands for no thinking, which cannot be turned off."""
    signed_calls: bool = True
    """The first call of each response must carry its `thoughtSignature`. Calls of other models get the value with
    which Google's guide skips the check."""
    validated_calls: bool = True
    """Has the mode VALIDATED: a free choice of answer or call, calls held to their schemas and to some tools.
    False: tools that may not be called are left out, and only the runtime checks arguments."""
    output_with_tools: bool = True
    """Calls are possible beside a response schema. False: the prompt holds the schema if there are tools."""
    files_in_results: bool = True
    """Images and documents may stand inside a function response. False: they follow it in the same turn."""


GEMINI_3 = GeminiDialect()
"""Gemini 3 and newer."""
GEMINI_2 = GeminiDialect(thinking="budget", signed_calls=False, output_with_tools=False, files_in_results=False)
"""Gemini 2.5."""
OLDEST = replace(GEMINI_2, thinking="none", validated_calls=False)
"""Gemini 2.0 and older, and Gemma."""


def dialect_of(model_name: str) -> GeminiDialect:
    """Return the dialect of a model; that of the newest generation if the name does not tell."""
    found = re.search(r"gemini-(\d{1,3})(?:\.(\d{1,3}))?(?!\d)", model_name)
    version = (int(found[1]), int(found[2] or 0)) if found else FIRST_SIGNING
    if "gemma" in model_name or version < FIRST_VALIDATING:
        return OLDEST
    if version < FIRST_SIGNING:
        return GEMINI_2
    known = capabilities_of(PROVIDER, model_name)
    if known is not None and known.least_thinking == "minimal":
        return replace(GEMINI_3, least_level="minimal")
    return GEMINI_3
