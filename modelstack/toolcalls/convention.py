"""The convention that modelstack teaches for replies: its types, writer and reader.

A reply is exactly one of
- calls: `[{"name":"x","arguments":{...}},{"name":"y","arguments":{...}}]`, compact JSON, keys in schema order;
- an abstention: `[]`, if the format allows it;
- a structured answer: `{"result":<value>}`, if the format has a schema for answers;
- a text answer: any text that does not begin with `[`, `{` or ASCII white space.

The first character therefore identifies the form, and calls and prose cannot be confused. The form is that of
Hammer and Needle (arXiv 2410.04587; cactus-compute/needle): an explicit `[]` is a decision that can be scored, an
unparsable reply is not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelstack.toolcalls.grammar.pointers import resolve

JsonSchema = Mapping[str, Any]
BLANKS = " \t\r\n\v\f"
"""Whitespace that no reply begins with; a reply of blanks alone is empty."""
NOT_FIRST_IN_TEXT = "[{" + BLANKS
"""Characters that a text answer must not begin with."""
CALL_PREFIX = '{"name":"'
ARGUMENTS_PREFIX = '","arguments":'
RESULT_PREFIX = '{"result":'
DEFAULT_MAX_CALLS = 8
"""Maximum number of calls in a reply; BFCL's widest parallel case has 8."""
MAX_DIGITS = 20
"""Maximum number of digits before a number's point; 64 bits have 20. Without a limit a small model may write 300.
"""
MOST_DIGITS = 40
"""The same limit in answers, and if the request contains longer numbers; bounds of a schema may raise it."""

_ILLEGAL_IN_NAME = re.compile(r'["\\\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_LONG_NUMBER = re.compile(f"[0-9]{{{MAX_DIGITS + 1},}}")
_DECODER = json.JSONDecoder(strict=True)
_SPACE = re.compile(r"[ \t\r\n]*")


def digits_wanted(texts: Iterable[str]) -> int:
    """Return the limit of digits for a reply to texts: as many as their longest number has, within limits."""
    runs = [len(run) for text in texts for run in _LONG_NUMBER.findall(text)]
    return min(MOST_DIGITS, max(runs, default=MAX_DIGITS))


class ResponseParseError(ValueError):
    """A reply does not follow the convention; the message names the place and the expected text."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """The description of a tool for a model."""

    name: str
    description: str
    parameters: JsonSchema
    """JSON Schema (Draft 2020-12) of the arguments object."""

    def __post_init__(self) -> None:
        """Check that the name can be written between quotes without escapes.

        Raises:
            ValueError: the name is empty or contains a quote, backslash, control character or lone surrogate.
        """
        found = _ILLEGAL_IN_NAME.search(self.name)
        if not self.name or found:
            what = f"contains {found.group()!r}" if found else "is empty"
            raise ValueError(
                f"tool name {self.name!r} {what}; names are written without escapes: "
                "use letters, digits, and any of _ - . / :"
            )


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The replies that are legal at the moment; recompiled when the set of tools changes."""

    tools: tuple[ToolSpec, ...] = ()
    answer: Literal["text"] | JsonSchema | None = "text"
    """Free text, a JSON Schema for `{"result":...}`, or no answer."""
    parallel: bool = True
    """Whether a reply may contain several calls; otherwise exactly one."""
    max_calls: int = DEFAULT_MAX_CALLS
    abstain: bool = False
    """Whether abstaining is legal: by `[]`, or by words in conventions without another way."""
    max_digits: int = MAX_DIGITS
    """Maximum number of digits before a number's point in arguments, unless bounds of the schema have more."""

    def __post_init__(self) -> None:
        """Check that some reply is legal and that names are unique.

        Raises:
            ValueError: no reply would be legal, a name is given twice, or `max_calls` is below 1.
        """
        object.__setattr__(self, "tools", tuple(self.tools))
        names = [tool.name for tool in self.tools]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tool name {twice[0]!r} is given twice; names must be unique")
        if self.max_calls < 1:
            raise ValueError(f"max_calls is {self.max_calls}; it must be at least 1")
        if not names and self.answer is None and not self.abstain:
            raise ValueError("no reply would be legal: give tools, an answer form, or abstain=True")

    @property
    def call_limit(self) -> int:
        """Maximum number of calls in a reply."""
        if not self.tools:
            return 0
        return self.max_calls if self.parallel else 1

    @property
    def answer_schema(self) -> JsonSchema | None:
        """The schema of a structured answer; None for other forms."""
        return None if self.answer is None or isinstance(self.answer, str) else self.answer

    def tool(self, name: str) -> ToolSpec:
        """Return the tool called `name`.

        Raises:
            KeyError: there is no such tool.
        """
        for tool in self.tools:
            if tool.name == name:
                return tool
        raise KeyError(name)

    def fingerprint(self) -> str:
        """Return the SHA-256 of this format; the order of keys counts, since it is the order of properties."""
        content: list[Any] = [
            [[tool.name, tool.description, tool.parameters] for tool in self.tools],
            self.answer,
            self.parallel,
            self.max_calls,
            self.abstain,
        ]
        if self.max_digits != MAX_DIGITS:
            content.append(self.max_digits)
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A parsed reply."""

    calls: tuple[tuple[str, str], ...] = ()
    """Name and arguments of each call; arguments are the original JSON text."""
    answer: Any = None
    """The text, or the value of a structured answer."""
    abstained: bool = False
    kind: Literal["calls", "text", "structured", "abstention"] = "calls"
    lead: str = ""
    """Words before the calls."""


def render_calls(calls: Sequence[tuple[str, Mapping[str, Any]]], tools: Sequence[ToolSpec] = ()) -> str:
    """Return calls as the grammar accepts them: compact, keys in the order of each tool's schema.

    Used for history and as the target of training. Tools that are not in `tools` keep their key order.

    Raises:
        ValueError: a value is not JSON (NaN, infinity, lone surrogate).
    """
    schemas = {tool.name: tool.parameters for tool in tools}
    parts = []
    for name, arguments in calls:
        schema = schemas.get(name)
        value = arguments if schema is None else in_schema_order(arguments, schema, schema)
        parts.append(f"{CALL_PREFIX}{name}{ARGUMENTS_PREFIX}{render_json(value)}}}")
    return "[" + ",".join(parts) + "]"


def render_answer(answer: Any, response_format: ResponseFormat) -> str:
    """Return an answer as text; `Answer: ` precedes a text that would begin like a call.

    Raises:
        ValueError: the format has no answer, or the text is empty.
    """
    schema = response_format.answer_schema
    if schema is not None:
        return f"{RESULT_PREFIX}{render_json(in_schema_order(answer, schema, schema))}}}"
    if response_format.answer is None:
        raise ValueError("this format has no answer form")
    text = str(answer).lstrip(" \t\r\n\v\f")
    if not text:
        raise ValueError("a text answer cannot be empty")
    return f"Answer: {text}" if text[0] in "[{" else text


def parse_response(text: str, response_format: ResponseFormat) -> ParsedResponse:
    """Parse a reply.

    Raises:
        ResponseParseError: the reply has none of the forms that `response_format` allows.
    """
    if text[:1] == "[":
        return _parse_list(text, response_format)
    if text[:1] == "{":
        return _parse_result(text, response_format)
    if response_format.answer != "text":
        raise ResponseParseError(f"a text answer is not allowed here; the reply is {text[:40]!r}")
    if not text or text[0] in NOT_FIRST_IN_TEXT:
        raise ResponseParseError("a text answer must begin with a character that is not white space")
    return ParsedResponse(answer=text, kind="text")


def render_json(value: Any, *, comma: str = ",", colon: str = ":") -> str:
    """Return JSON in the only spelling that the grammars accept.

    Raises:
        ValueError: the value contains NaN, infinity, or a lone surrogate.
    """
    text = json.dumps(value, separators=(comma, colon), ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"lone surrogate at character {error.start} of {text[:40]!r}") from error
    return text.replace("\x7f", "\\u007f")


def in_schema_order(value: Any, schema: Any, root: Any) -> Any:
    """Return `value` with the keys of objects in the order of `schema`'s properties, undeclared keys last."""
    if isinstance(value, Mapping):
        properties = _all_properties(schema, root, value, ())
        keys = [key for key in properties if key in value]
        keys += [key for key in value if key not in properties]
        return {key: in_schema_order(value[key], properties.get(key, {}), root) for key in keys}
    schema = resolve(schema, root)
    if isinstance(value, list | tuple):
        items = schema.get("items", {}) if isinstance(schema, Mapping) else {}
        prefix = schema.get("prefixItems", ()) if isinstance(schema, Mapping) else ()
        return [in_schema_order(x, prefix[i] if i < len(prefix) else items, root) for i, x in enumerate(value)]
    whole = isinstance(value, float) and value.is_integer()
    if whole and isinstance(schema, Mapping) and schema.get("type") == "integer":
        return int(value)
    return value


def _all_properties(schema: Any, root: Any, value: Mapping[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
    """Return the properties of an object schema in the order of `schemas.normalise`.

    The order is: properties of a `$ref`, its own, those of `allOf`, those of the branch that fits `value` best.
    """
    if not isinstance(schema, Mapping):
        return {}
    properties: dict[str, Any] = {}
    parts: list[Any] = [{"properties": schema.get("properties", {})}] if "$ref" not in schema else []
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in inside:
        inside = (*inside, reference)
        parts = [resolve({"$ref": reference}, root), {"properties": schema.get("properties", {})}]
    parts += schema.get("allOf", ())
    for keyword in ("anyOf", "oneOf"):
        branches = [_all_properties(branch, root, value, inside) for branch in schema.get(keyword, ())]
        branches.sort(key=lambda branch: len(set(value) - set(branch)))
        parts += [{"properties": branch} for branch in branches[:1]]
    for part in parts:
        own = part.get("properties", {}) if isinstance(part, Mapping) else {}
        deeper = isinstance(part, Mapping) and set(part) != {"properties"}
        found = _all_properties(part, root, value, inside) if deeper else own
        for key, sub in found.items():
            properties.setdefault(key, sub)
    return properties


def _parse_list(text: str, response_format: ResponseFormat) -> ParsedResponse:
    """Parse `[]` or a list of calls, with the original text of the arguments."""
    reader = _Reader(text)
    reader.expect("[")
    calls: list[tuple[str, str]] = []
    if reader.skip("]"):
        reader.end()
        if not response_format.abstain:
            raise ResponseParseError("the reply is []; this format does not allow an abstention")
        return ParsedResponse(abstained=True, kind="abstention")
    known = {tool.name for tool in response_format.tools}
    while True:
        for piece in ("{", '"name"', ":"):
            reader.expect(piece)
        name, _ = reader.value()
        if not isinstance(name, str) or name not in known:
            raise ResponseParseError(
                f"call {len(calls) + 1} names the unknown tool {name!r}; known: {sorted(known)}"
            )
        for piece in (",", '"arguments"', ":"):
            reader.expect(piece)
        arguments, written = reader.value()
        if not isinstance(arguments, dict):
            raise ResponseParseError(f"the arguments of call {len(calls) + 1} ({name}) are not an object")
        calls.append((name, written))
        reader.expect("}")
        if not reader.skip(","):
            break
    reader.expect("]")
    reader.end()
    if len(calls) > response_format.call_limit:
        raise ResponseParseError(
            f"the reply has {len(calls)} calls; at most {response_format.call_limit} are allowed"
        )
    return ParsedResponse(calls=tuple(calls))


def _parse_result(text: str, response_format: ResponseFormat) -> ParsedResponse:
    """Parse `{"result":<value>}`."""
    if response_format.answer_schema is None:
        raise ResponseParseError("a structured answer is not allowed here")
    reader = _Reader(text)
    for piece in ("{", '"result"', ":"):
        reader.expect(piece)
    value, _ = reader.value()
    reader.expect("}")
    reader.end()
    return ParsedResponse(answer=value, kind="structured")


class _Reader:
    """A cursor over JSON text that returns values with their original text."""

    def __init__(self, text: str) -> None:
        """Start before the first character."""
        self.text = text
        self.at = 0

    def skip(self, piece: str) -> bool:
        """Step over `piece` if it comes next."""
        self._space()
        if not self.text.startswith(piece, self.at):
            return False
        self.at += len(piece)
        return True

    def expect(self, piece: str) -> None:
        """Step over `piece`.

        Raises:
            ResponseParseError: something else comes next.
        """
        if not self.skip(piece):
            found = self.text[self.at : self.at + 20] or "the end"
            raise ResponseParseError(f"expected {piece!r} at character {self.at}, found {found!r}")

    def value(self) -> tuple[Any, str]:
        """Read one JSON value; return it and its text."""
        self._space()
        start = self.at
        try:
            value, self.at = _DECODER.raw_decode(self.text, start)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ResponseParseError(f"no JSON value at character {start}: {error}") from error
        return value, self.text[start : self.at]

    def end(self) -> None:
        """Check that nothing follows."""
        self._space()
        if self.at != len(self.text):
            raise ResponseParseError(f"text after the reply at character {self.at}: {self.text[self.at :][:20]!r}")

    def _space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
