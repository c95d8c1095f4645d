"""Verifiers of format: reasoning in its tags, JSON by a schema. They are best used as gates (`composition`).

A format is easy to satisfy and does not show that the answer is correct; as a summand, a policy would exploit
it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.rewards import END_OF_THOUGHT, THINK, Completion, Item, Reward, final_part
from modelstack.toolcalls.grammar.pointers import SchemaReferenceError
from modelstack.toolcalls.grammar.schemas import MergeError, normalise
from modelstack.toolcalls.grammar.validation import SchemaValidator, check_schema

MAX_JSON_CHARS = 1 << 20


class ThinkFormat:
    """Verifier that returns 1 if a completion is one block of reasoning followed by an answer.

    TRL's `think_format_reward` also accepts an empty answer and a second closing tag.
    """

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return reward 1 or 0."""
        text = completion.text
        if not text.startswith(THINK) or text.count(THINK) != 1 or text.count(END_OF_THOUGHT) != 1:
            return Reward(0.0, f"not one {THINK} ... {END_OF_THOUGHT} at the beginning")
        if not text.partition(END_OF_THOUGHT)[2].strip():
            return Reward(0.0, "no answer after the reasoning")
        return Reward(1.0, "reasoning, then an answer")


class StrictJson:
    """Verifier that returns 1 if the answer after any reasoning is one JSON value that fits the item's schema."""

    def __init__(self, schema_of: Callable[[Item[Any]], Mapping[str, Any]]) -> None:
        """Store the function that returns an item's schema (Draft 2020-12)."""
        self._schema_of = schema_of

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return reward 1 or 0.

        Fences, surrounding words, duplicate keys and NaN are rejected. Properties that the schema does not name
        are rejected unless it allows them.

        Raises:
            UserError: The item's schema is invalid.
        """
        validator = _validator(json.dumps(self._schema_of(item)))
        said = final_part(completion.text)
        if said is None or len(said) > MAX_JSON_CHARS:
            return Reward(0.0, "no answer after the reasoning" if said is None else "too long for JSON")
        try:
            value = json.loads(said, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            return Reward(0.0, f"not JSON: {error}"[:200], said[:1_000])
        errors = validator.errors(value)
        return Reward(float(not errors), errors[0][:200] if errors else "fits the schema", said[:1_000])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=256)
def _validator(written: str) -> SchemaValidator:
    schema = json.loads(written)
    if wrong := check_schema(schema):
        raise UserError(f"an item's schema is invalid, at {wrong[0] or 'the root'}: {wrong[1]}")
    try:
        return SchemaValidator(schema, normalise(schema, is_arguments=False))
    except (MergeError, SchemaReferenceError) as error:
        raise UserError(f"an item's schema is not supported: {error}") from error
