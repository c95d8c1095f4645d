"""A mix written as TOML for a training recipe: source weights, and those of the annealing part."""

from __future__ import annotations

import json
from collections.abc import Mapping

from modelstack.data.mix import MixPlan, MixRecipe
from modelstack.data.source_tokens import SOURCE_FIELD, SourceTokens
from modelstack.errors import UserError

DIGITS = 6
"""Significant digits of a weight: an error of at most a thousand tokens in a billion."""


def training_fragment(plan: MixPlan, recipe: MixRecipe, sources: SourceTokens) -> str:
    """Return TOML for the table `data` of a `modelstack train` recipe.

    Raises:
        UserError: A source name cannot be represented in TOML.
    """
    lines = [
        f"# A mix of {recipe.n_tokens:,} tokens: let steps x rows x data.row_tokens be as many.",
        "[data]",
    ]
    if sources.text:
        lines.append(f"text = [{', '.join(_text(str(path)) for path in sources.text)}]")
        lines.append(f"source_field = {_text(SOURCE_FIELD)}")
    if plan.anneal is not None:
        lines.append(f"anneal_share = {recipe.anneal_share!r}")
    lines += ["", "[data.weights]", *_weights(plan.stable.weights)]
    if plan.anneal is not None:
        lines += ["", "[data.anneal_weights]", *_weights(plan.anneal.weights)]
    return "\n".join(lines) + "\n"


def _weights(weights: Mapping[str, float]) -> list[str]:
    return [f"{_text(name)} = {float(f'{weight:.{DIGITS}g}')!r}" for name, weight in weights.items()]


def _text(text: str) -> str:
    """Return a TOML basic string: JSON's escaping plus DEL, which JSON leaves unescaped."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{text!r} contains a lone surrogate, which TOML cannot represent; rename it") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
