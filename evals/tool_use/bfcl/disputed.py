"""Items of BFCL v4 whose answer key is wrong or contradicts the question's own schema.

Scores are reported both ways.

There are three kinds:

- *Unreachable*: no call is accepted.
- *Against its schema*: no call that conforms to the schema is accepted, because the key expects another type, a
  value outside the `enum`, or nothing. A call decoded under a grammar always conforms to the schema.
- *Contested*: other authors report the item as wrong, with a reason, and it is unchanged in bfcl-eval 2026.3.23.

The first two kinds were found by checking every key against its schema; a test repeats this check. A multi-turn
conversation is disputed if its key makes a call that violates the schema, or calls a function that the model has
not been given yet.

Issue 1133 of ShishirPatil/gorilla (JakobGr, 2025) names further items. `MENDED` lists those whose question or key
has been changed since, so that the complaint no longer applies. They count like all other items.
"""

from __future__ import annotations

from collections.abc import Mapping

_TRUE_IS_TEXT = "the key wants the boolean true, the schema text out of 'True', 'False', 'dontcare'"
_NUMBER_IS_TEXT = "the key wants an integer, the schema text out of '1', '2', '3', 'dontcare'"

UNREACHABLE: Mapping[str, str] = {
    "simple_java_36": "the key's list holds numbers and booleans, but its elements' type is read as text",
    "simple_java_64": "the key gives text where it should list acceptable values, so only single letters match",
    "simple_java_65": "the key's list holds booleans, but its elements' type is read as text",
    "live_simple_106-63-0": "the key accepts no value for required parameters",
    "live_simple_112-68-0": "the key accepts no value for required parameters",
    "live_multiple_862-181-3": "the key demands a parameter that is not in the schema",
    "live_multiple_964-207-0": "the key lacks a required parameter and demands one that is not in the schema",
}
"""Items for which no call is accepted: id and reason."""

AGAINST_SCHEMA: Mapping[str, str] = {
    "parallel_multiple_21": "the key wants text (an expression) for parameters of type array",
    "parallel_multiple_94": "the key wants a list of text, the schema a list of integers",
    "live_simple_71-35-0": "the schema's enum lists text for a parameter of type array, so no array fits it",
    "live_multiple_87-38-4": "the key wants 'openai', which is not in the enum ('openapi' is)",
    "live_multiple_152-58-6": "the schema's enum lists text for a parameter of type array, so no array fits it",
    "live_multiple_507-149-4": "the key wants empty text for a required airport that the question names",
    "live_multiple_552-153-1": _TRUE_IS_TEXT,
    "live_multiple_595-158-1": _NUMBER_IS_TEXT,
    "live_multiple_596-158-2": _NUMBER_IS_TEXT,
    "live_multiple_731-167-2": _TRUE_IS_TEXT,
    "live_multiple_733-167-4": _TRUE_IS_TEXT,
    "live_multiple_735-167-6": _TRUE_IS_TEXT,
    "live_multiple_750-169-5": "the key wants the genre 'Any', which is not in the enum",
    "live_multiple_835-178-10": "the key wants the genre 'Reggaeton', which is not in the enum",
    "live_multiple_871-182-8": "the key wants the genre 'Play', which is not in the enum",
    "live_multiple_947-197-0": "the key wants '5 minutes', which is not in the enum",
    "live_multiple_1038-265-0": "the key wants null for a string, and does not let it be left out",
    "live_parallel_multiple_2-2-0": "the key wants a command that is not in the enum",
}
"""Items for which no call that conforms to the schema is accepted: id and reason."""

CONTESTED: Mapping[str, str] = {
    "parallel_155": "the key demands standardize=false, which is the parameter's default (gorilla issue 1133)",
    "parallel_178": "one entry accepts two companies, so the same calls are right in one order, wrong in another",
}
"""Items whose key contradicts the question or itself: id and reason."""

DISPUTED: Mapping[str, str] = {**UNREACHABLE, **AGAINST_SCHEMA, **CONTESTED}
"""All disputed single-turn items: id and reason."""

_TICKET_IS_TEXT = "the key closes the ticket 'ticket_001', the schema wants an integer"

MULTI_TURN_DISPUTED: Mapping[str, str] = {
    "multi_turn_base_173": _TICKET_IS_TEXT,
    "multi_turn_miss_func_173": _TICKET_IS_TEXT,
    "multi_turn_miss_param_173": _TICKET_IS_TEXT,
    "multi_turn_long_context_173": _TICKET_IS_TEXT,
    "multi_turn_miss_func_49": "the key calls tail in the second turn, which is held back until the fourth",
}
"""Conversations whose key calls an unknown function or violates a schema: id and reason."""

MENDED: Mapping[str, str] = {
    "live_simple_137-90-0": "asked for CEST; now asks for London time, as the key has it",
    "live_simple_138-91-0": "asked for CEST; now asks for London time, as the key has it",
    "parallel_84": "asked for four displacements; now for the three of the key",
    "parallel_158": "the key had two of four numbers; now it has all four",
    "parallel_170": "the principal was to grow; now all three calls begin with the same amount",
}
"""Items of issue 1133 that have been changed since: id and change."""
