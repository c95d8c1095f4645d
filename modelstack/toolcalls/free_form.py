"""Reader of replies written without a grammar, which tolerates the deviations that models are known for.

Calls may stand in a code fence or after some words. The list around one call or each of them may be missing,
`parameters` may stand for `arguments`, and an offered tool may lack both. Nothing is repaired: text that is not
JSON is text. Used to measure the worth of the grammar, and for weights whose replies should not be masked.

The text is the raw output of a model in this process, so it is the only place where calls can be.
`agentkit.run.text_calls` is for text from servers, which have parsed calls already: there text counts as calls
only if it contains nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any, cast

from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat, ResponseParseError
from modelstack.toolcalls.conventions import JSON_LIST, Convention

MAX_STARTS = 32
"""Maximum number of places at which JSON is looked for; a reply with more brackets is prose or noise."""

_START = re.compile(r"[\[{]")
_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*|\s*```\s*$")
_DECODER = json.JSONDecoder()


def read_free_reply(
    text: str, response_format: ResponseFormat, convention: Convention = JSON_LIST
) -> ParsedResponse:
    """Read a reply that was written without a grammar; it is a text answer if it has no other form.

    Tool names are not checked here: the runtime rejects a call of an unknown tool.
    """
    if convention is not JSON_LIST:
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
    """Return the JSON values in `text`, without values inside other values."""
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
    """Return the calls that a JSON value represents; empty for other data.

    Only an offered tool may lack arguments: `{"name": "Sea Green"}` is data.
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
