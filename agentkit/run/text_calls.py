"""Calls that a model wrote as text: in a code fence, as bare JSON, or between tags of some convention.

Servers that do not know a model's convention return its calls as text, and models imitate calls that they have
seen. Such a reply is parsed as calls if it contains nothing else: each names a known tool, and its arguments are
an object that fits the tool's schema. Fences, tags and blanks may surround the calls. Parsed calls are treated
like any other: guardrails, taint and approvals apply.

`modelstack.toolcalls.free_form` reads the raw output of a model in this process that wrote without a grammar:
there calls count among words too.

A reply that begins like calls of a known tool and cannot be parsed is not an answer. Prose that contains such a
call is an answer, perhaps an explanation; an event reports it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from agentkit.errors import ModelRetry
from agentkit.messages import ToolCallPart
from agentkit.tools.tool import Tool

MAX_CHARS = 100_000
"""Length in characters beyond which a text is not searched for calls: a long answer is not a call."""

_OPENINGS = "{[<`"
"""First characters of all forms."""
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_TAG = re.compile(r"<(tool_calls?|function_calls?)>(.*?)(?:</\1>|\Z)", re.DOTALL)
_NAME_KEYS = ("name", "tool", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "tool_input")
_OTHER_KEYS = frozenset({"id", "type", "index", "call_id", "tool_call_id"})
_BETWEEN = re.compile(r"[\s;,]*")
_NAMED = re.compile(rf"""["']?\b(?:{"|".join(_NAME_KEYS)})["']?\s*[:=]\s*["']?([^"'\s,}}>]+)""")
_ARGUED = re.compile(rf"""["']?\b(?:{"|".join(_ARGUMENT_KEYS)})["']?\s*[:=]|<parameter""")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class TextCalls:
    """Calls found in a text."""

    tool_names: tuple[str, ...]
    calls: tuple[ToolCallPart, ...] = ()
    """Parsed calls, if the text consists only of calls and they fit their tools."""
    problem: str | None = None
    """Reason why a text that begins like calls cannot be parsed."""


def text_calls(text: str, tools: Mapping[str, Tool]) -> TextCalls | None:
    """Return the calls of known tools in the text of a reply; None if there are none."""
    if len(text) > MAX_CHARS or not any(name in text for name in tools):
        return None
    bare = text.strip()
    begins = bare[:1] in _OPENINGS and bare != ""
    if begins and (read := _read(bare, tools)) is not None:
        return read
    named = tuple(dict.fromkeys(name for name in _NAMED.findall(text) if name in tools))
    if not named or not _ARGUED.search(text):
        return None
    if not begins or _ends_in_words(bare):
        return TextCalls(named)
    return TextCalls(named, problem="it is not the JSON of a call.")


def unfenced(text: str) -> str:
    """Return the text without a surrounding code fence."""
    bare = text.strip()
    found = _FENCE.fullmatch(bare)
    return found[1].strip() if found else bare


def _read(text: str, tools: Mapping[str, Tool]) -> TextCalls | None:
    """Return the calls of a text that consists only of calls; None for other text or without a known tool."""
    written = _written(text)
    if written is None:
        written = _by_convention(text, tools)
    if written is None:
        return None
    names = tuple(dict.fromkeys(name for name, _ in written if name in tools))
    if not names:
        return None
    calls: list[ToolCallPart] = []
    for name, arguments in written:
        if name not in tools:
            return TextCalls(names, problem=f"there is no tool {name[:80]!r}.")
        if arguments is None:
            return TextCalls(names, problem=f"the arguments of {name!r} are not a JSON object.")
        try:
            tools[name].validate(arguments)
        except ModelRetry as error:
            return TextCalls(names, problem=f"{name!r}: {error}")
        calls.append(ToolCallPart(name, arguments))
    return TextCalls(names, tuple(calls))


_Written = tuple[str, str | None]
"""Name and arguments of a call; None: not an object."""


def _written(text: str) -> list[_Written] | None:
    """Return the calls of a text of only JSON calls, bare or in fences or tags; None for other text."""
    for form, group in ((_FENCE, 1), (_TAG, 2)):
        if form.match(text):
            if form.sub("", text).strip():
                return None
            inner = [_written(found[group].strip()) for found in form.finditer(text)]
            return None if any(each is None for each in inner) else [call for each in inner for call in each or ()]
    calls: list[_Written] = []
    at = 0
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        for item in _items(value):
            if (call := _call(item)) is None:
                return None
            calls.append(call)
        at = cast("re.Match[str]", _BETWEEN.match(text, at)).end()
    return calls or None


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, dict) and set(cast("dict[str, Any]", value)) == {"tool_calls"}:
        value = cast("dict[str, Any]", value)["tool_calls"]
    return cast("list[Any]", value) if isinstance(value, list) and value else [value]


def _call(value: Any) -> _Written | None:
    """Return the call that a JSON value represents; None for other data."""
    if not isinstance(value, dict):
        return None
    fields = {key: item for key, item in cast("dict[str, Any]", value).items() if key not in _OTHER_KEYS}
    if set(fields) == {"function"} and isinstance(fields["function"], dict):
        fields = cast("dict[str, Any]", fields["function"])
    names = [key for key in _NAME_KEYS if isinstance(fields.get(key), str)]
    given = [key for key in _ARGUMENT_KEYS if key in fields]
    if len(names) != 1 or len(given) > 1 or len(fields) != len(names) + len(given):
        return None
    arguments: Any = fields[given[0]] if given else None
    if isinstance(arguments, str):  # OpenAI's format: JSON in a string
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    name = cast("str", fields[names[0]])
    return name, json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else None


def _by_convention(text: str, tools: Mapping[str, Tool]) -> list[_Written] | None:
    """Return the calls of a text in one of the known tool-call conventions; None for other text."""
    from modelstack.toolcalls.convention import ResponseFormat, ResponseParseError, ToolSpec
    from modelstack.toolcalls.conventions import CONVENTIONS

    specs: list[ToolSpec] = []
    for name, tool in tools.items():
        with suppress(ValueError):  # a name that no convention can represent
            specs.append(ToolSpec(name, "", tool.definition.parameters_json_schema))
    wanted = ResponseFormat(tuple(specs), max_calls=len(text))
    for convention in CONVENTIONS.values() if specs else ():
        trigger = convention.form.trigger
        if trigger and text.startswith(trigger) and (calls := _written(text.removeprefix(trigger).strip())):
            return calls  # tolerates blanks and ids that differ from the convention
        for spelling in _spellings(text, convention.form.opening):
            with suppress(ResponseParseError):
                parsed = convention.parse(spelling, wanted)
                if parsed.kind == "calls" and parsed.calls and not parsed.lead.strip():
                    return list(parsed.calls)
    return None


def _spellings(text: str, opening: str) -> Iterator[str]:
    """Yield the text unchanged, and with the blanks that the convention's opening requires."""
    yield text
    if opening[-1:].isspace() and text.startswith(opening.rstrip()) and not text.startswith(opening):
        yield opening + text[len(opening.rstrip()) :].lstrip()


def _ends_in_words(text: str) -> bool:
    """Return whether a text that begins like a call ends in prose; a call that was cut off has an open brace."""
    if text.count("{") > text.count("}"):
        return False
    end = max(text.rfind(closing) for closing in "}]>`")
    return any(char.isalpha() for char in text[end + 1 :])
