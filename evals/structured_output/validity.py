"""Checks whether a value fits a JSON Schema (Draft 2020-12), as given and closed.

"Valid" uses the schema as given; keywords of Draft 4 to 7 are interpreted by their original meaning. "Closed"
additionally requires that all properties are declared: most schemas forget `additionalProperties: false`, so that
`{"anything": 1}` would be valid. Schema and value are untrusted: patterns run in linear time, so patterns with
look-around or back-references are skipped (`modelstack.toolcalls.grammar.validation`), and nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from referencing.exceptions import Unresolvable

from modelstack.toolcalls.grammar.dialects import modernise
from modelstack.toolcalls.grammar.pointers import SchemaReferenceError
from modelstack.toolcalls.grammar.schemas import MergeError, normalise
from modelstack.toolcalls.grammar.validation import SchemaValidator, check_schema

MAX_VALIDATORS = 256
"""Number of schemas whose validators are cached; a case is checked several times in a row, then never again."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Verdict on one value."""

    valid: bool
    closed: bool
    """Valid, and without properties that the schema does not declare."""
    why: str = ""
    """The first error."""


def check(schema: Mapping[str, Any], value: Any) -> Validity:
    """Check a value; under an invalid schema, or one that refers to another document, no value is valid."""
    try:
        given, closed = _validators(json.dumps(schema))
        problems = given.errors(value)
        if problems:
            return Validity(False, False, problems[0])
        problems = closed.errors(value)
    except _BadSchema as error:
        return Validity(False, False, str(error))
    except Unresolvable as error:
        return Validity(False, False, f"the schema's reference {error.ref!r} leads nowhere in it")
    except RecursionError:
        return Validity(False, False, "nested too deeply to be checked")
    return Validity(True, not problems, problems[0] if problems else "")


class _BadSchema(ValueError):
    """Raised if the given schema is not a JSON Schema."""


@lru_cache(MAX_VALIDATORS)
def _validators(schema_text: str) -> tuple[SchemaValidator, SchemaValidator]:
    schema = modernise(json.loads(schema_text))
    problem = check_schema(schema)
    if problem is not None:
        raise _BadSchema(f"the schema is not a JSON Schema at {problem[0] or '/'}: {problem[1]}")
    try:
        closed: Any = normalise(schema, is_arguments=False)
    except (MergeError, SchemaReferenceError):
        closed = True  # a schema that cannot be folded is not closed either
    return SchemaValidator(schema, True), SchemaValidator(schema, closed)
