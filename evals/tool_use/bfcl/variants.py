"""Variants of questions that show which information a score depends on.

Random names: a model that has memorised names fails if the name carries no meaning, so the score measures how it
reads descriptions (Hammer, arXiv 2410.04587, on models misled by names). Names depend only on the question's id,
so that every model gets the same question.

Right function removed: abstention is correct, and it is hard because the other functions are similar. A model that
always calls scores well on questions with an answer, so a good model must pass both this variant and the original
question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from evals.tool_use.bfcl.data import Question

_FIRST, _OTHERS = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123456789_"
_LENGTHS = range(4, 11)
"""Number of characters of a name."""


def with_random_names(question: Question) -> Question:
    """Return a question with random names for all functions and their own parameters, in functions and key."""
    rng = Random(f"random names {question.id}")
    taken: set[str] = set()
    functions: list[Mapping[str, Any]] = []
    of_function: dict[str, str] = {}
    of_parameter: dict[str, dict[str, str]] = {}
    for function in question.functions:
        name, parameters = function["name"], dict(function["parameters"])
        of_function[name] = _new(rng, taken)
        keys = of_parameter[name] = {key: _new(rng, taken) for key in parameters.get("properties", {})}
        parameters["properties"] = {keys[key]: schema for key, schema in parameters.get("properties", {}).items()}
        if "required" in parameters:
            parameters["required"] = [keys.get(key, key) for key in parameters["required"]]
        functions.append({**function, "name": of_function[name], "parameters": parameters})
    answer = question.answer and tuple(
        {
            of_function.get(name, name): {of_parameter.get(name, {}).get(k, k): v for k, v in values.items()}
            for name, values in call.items()
        }
        for call in question.answer
    )
    return replace(question, functions=tuple(functions), answer=answer)


def without_right_function(question: Question) -> Question | None:
    """Return a question without its right functions, in an irrelevance category.

    None if no other function remains.
    """
    right = {name for call in question.answer or () for name in call}
    left = tuple(function for function in question.functions if function["name"] not in right)
    if not right or not left:
        return None
    category = f"{question.category}_irrelevance"  # scored like irrelevance: no call is correct
    return replace(question, id=f"{question.id}-removed", category=category, functions=left, answer=None)


def _new(rng: Random, taken: set[str]) -> str:
    while True:
        name = rng.choice(_FIRST) + "".join(rng.choice(_OTHERS) for _ in range(rng.choice(_LENGTHS) - 1))
        if name not in taken:
            taken.add(name)
            return name
