"""Reading a reply that no grammar held: the same convention, with the deviations that models are known for.

Calls may stand in a code fence or behind some words, one call or each may lack its list, and `parameters` may
stand for `arguments`; an offered tool may lack both. Nothing is repaired: text that is no JSON is text. Used to
measure what the grammar is worth, and for weights whose replies should not be masked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any, cast

from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat, ResponseParseError
from modelstack.toolcalls.conventions import OURS, Convention

MAX_STARTS = 32
"""Places at which JSON is looked for; a reply with more brackets than that is prose or noise."""

_START = re.compile(r"[\[{]")
_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*|\s*```\s*$")
_DECODER = json.JSONDecoder()


def read_free_reply(text: str, response_format: ResponseFormat, convention: Convention = OURS) -> ParsedResponse:
    """Read an unmasked reply; what is neither calls, abstention nor structured answer is a text answer.

    Names of tools are not checked: a call of an unknown tool is a call, and the runtime says what is wrong.
    """
    if convention is not OURS:
        with suppress(ResponseParseError):
            parsed = convention.parse(text, response_format)
            if parsed.kind == "calls":
                return parsed
    bare = _FENCE.sub("", text).strip()
    if response_format.abstain and bare == "[]":
        return ParsedResponse(abstained=True, kind="abstention")
    values = _values(bare)
    offered = {tool.name for tool in response_format.tools}
    if offered and (calls := tuple(call for value in values for call in _calls(value, offered))):
        return ParsedResponse(calls=calls)
    for value in values:
        if response_format.answer_schema is not None and isinstance(value, dict):
            answer = value["result"] if set(value) == {"result"} else value
            return ParsedResponse(answer=answer, kind="structured")
    return ParsedResponse(answer=text, kind="text")


def _values(text: str) -> list[Any]:
    """Return the JSON values in `text` that do not lie inside an earlier one."""
    values, at = [], 0
    for _ in range(MAX_STARTS):
        start = _START.search(text, at)
        if start is None:
            break
        try:
            value, at = _DECODER.raw_decode(text, start.start())
            values.append(value)
        except (json.JSONDecodeError, RecursionError):
            at = start.end()
    return values


def _calls(value: Any, offered: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return the calls that a JSON value spells, none if any part of it is something else.

    Without arguments only an offered name makes a call: `{"name": "Sea Green"}` is data.
    """
    items = value if isinstance(value, list) else [value]
    calls = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            return ()
        item = cast("dict[str, Any]", item)
        arguments = item.get("arguments", item.get("parameters", {} if item["name"] in offered else None))
        if not isinstance(arguments, dict):
            return ()
        calls.append((item["name"], json.dumps(arguments, ensure_ascii=False)))
    return tuple(calls)
