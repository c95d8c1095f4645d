r"""Validation of values against schemas after decoding, in linear time for any pattern.

jsonschema's own `pattern` uses backtracking `re`, in which `(a+)+$` takes hours. Here `pattern` and
`patternProperties` use the automaton of `regex`, and `format` uses the table of `formats`. A pattern that the
automaton refuses is one that only llguidance understands (`\p{L}`). It was enforced exactly while decoding, and is
not checked again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelstack.toolcalls.grammar.formats import FORMATS
from modelstack.toolcalls.grammar.pointers import join
from modelstack.toolcalls.grammar.regex import RegexError, compile_regex

if TYPE_CHECKING:
    # jsonschema is imported on first use: it takes 0.1 s, and 1 s with its extra `format-nongpl`, as in Jupyter.
    from jsonschema.exceptions import ValidationError

MAX_REMEMBERED = 10_000
"""Schemas whose problems are remembered, at about 200 bytes each."""
_problems: dict[bytes, tuple[str, str] | None] = {}
"""Result of `check_schema` by the hash of a schema."""


class SchemaValidator:
    """Validates against a schema in its original form and in its closed form."""

    def __init__(self, schema: Any, closed: Any) -> None:
        """Prepare both schemas."""
        # An empty registry: a reference to another document is an error and is not fetched.
        self._validators = [_validator_class()(_without_ids(schema)), _validator_class()(closed)]

    def errors(self, value: Any) -> list[str]:
        """Return one line for each violation, beginning with its place in the value."""
        found: dict[str, None] = {}
        for validator in self._validators:
            for error in validator.iter_errors(value):
                place = join("", *error.absolute_path)
                found[f"{place}: {error.message[:200]}"] = None
        for place in _not_finite(value, ""):
            found[f"{place}: the number is too large to be represented"] = None
        return list(found)

    def errors_in_json(self, text: str) -> list[str]:
        """Return the violations of a JSON text."""
        try:
            return self.errors(json.loads(text))
        except (ValueError, RecursionError) as error:
            return [f": not a JSON value: {error}"]


def check_schema(schema: Any) -> tuple[str, str] | None:
    """Return pointer and message of the first error in `schema` as a Draft 2020-12 schema; None if it is valid.

    Results are remembered: to check a tool takes milliseconds, and the same tools come with each request.
    """
    key = hashlib.sha256(repr(schema).encode()).digest()
    if key not in _problems:
        if len(_problems) == MAX_REMEMBERED:
            _problems.clear()
        _problems[key] = _problem(schema)
    return _problems[key]


def _problem(schema: Any) -> tuple[str, str] | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        hint = f"{error.message[:200]}; for schemas of BFCL use dialects.from_bfcl"
        return join("", *error.absolute_path), hint
    return None


def _violation(message: str, **place: Any) -> ValidationError:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message, **place)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield _violation(f"{instance[:60]!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, Mapping):
        for pattern, subschema in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, rest: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, Mapping):
        return
    patterns = schema.get("patternProperties", {})
    for key, value in instance.items():
        if key in schema.get("properties", {}) or any(_matches(pattern, key) for pattern in patterns):
            continue
        if rest is False:
            yield _violation(f"property {key[:60]!r} is not allowed", path=[key])
        else:
            yield from validator.descend(value, rest, path=key)


def _format(validator: Any, name: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and name in FORMATS and not _matches(FORMATS[name], instance):
        yield _violation(f"{instance[:60]!r} is not a valid {name}")


@functools.cache
def _validator_class() -> Any:
    """Return the class of validators with these keywords."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(
        Draft202012Validator,
        {
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional_properties,
            "format": _format,
        },
    )


def _matches(pattern: str, text: str) -> bool:
    try:
        return compile_regex(pattern).search(text)
    except RegexError:
        return True


def _without_ids(schema: Any) -> Any:
    """Remove `$id` and `$schema`, which would change the base of `$ref`."""
    if isinstance(schema, Mapping):
        return {key: value for key, value in schema.items() if key not in ("$id", "$schema", "id")}
    return schema


def _not_finite(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, Mapping):
        for key, sub in value.items():
            yield from _not_finite(sub, join(place, key))
    elif isinstance(value, list):
        for i, sub in enumerate(value):
            yield from _not_finite(sub, join(place, i))
