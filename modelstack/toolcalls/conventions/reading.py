"""Reader of replies in the form of their convention."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.toolcalls.convention import (
    BLANKS,
    ParsedResponse,
    ResponseFormat,
    ResponseParseError,
    ToolSpec,
)
from modelstack.toolcalls.conventions.form import CallForm
from modelstack.toolcalls.conventions.parameters import types_of

_DECODER = json.JSONDecoder(strict=True)


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call in the text of a reply."""

    start: int
    """Index of its first character: for the first call that of the opening, for others the end of the separator.
    """
    name: str
    arguments: str | None
    """JSON text; None if it is not complete."""
    end: int
    """Index after the call; of an incomplete one, after what is written of its arguments."""
    arguments_at: int | None = None
    """Index at which the arguments begin; None if the text before them is not complete."""


def words_end(text: str, form: CallForm) -> int | None:
    """Return the index at which calls begin in a reply; None if there are none."""
    if form.trigger:
        at = text.find(form.trigger)
        return at if at >= 0 else None
    return 0 if text.startswith(form.opening) else None


def written_calls(text: str, form: CallForm, tools: Sequence[ToolSpec] = ()) -> Iterator[WrittenCall]:
    """Yield the calls of a reply whose names are complete; the last call may be incomplete.

    Args:
        text: The reply.
        form: How its calls are written.
        tools: Their schemas identify texts where the form does not.
    """
    schemas = {tool.name: tool.parameters for tool in tools}
    start = words_end(text, form)
    if start is None or not text.startswith(form.opening, start):
        return
    at = start + len(form.opening)
    while text.startswith(form.name_prefix, at):
        named = at + len(form.name_prefix)
        end = text.find(form.name_suffix[0], named)
        if end < 0:
            return
        name, at = text[named:end], end + len(form.name_suffix)
        is_named = text.startswith(form.name_suffix, end)
        read = _arguments(text, at, form, schemas.get(name)) if is_named else None
        if read is None or not text.startswith(form.call_end, read[1]):
            end = len(text) if read is None else read[1]
            yield WrittenCall(start, name, None, end, at if is_named else None)
            return
        arguments_at, at = at, read[1] + len(form.call_end)
        yield WrittenCall(start, name, read[0], at, arguments_at)
        if not text.startswith(form.separator, at):
            return
        start = at = at + len(form.separator)


def _arguments(text: str, at: int, form: CallForm, schema: Mapping[str, Any] | None) -> tuple[str, int] | None:
    """Return the JSON of the arguments at `at` and the index after them; None if they are not complete."""
    if form.parameters is not None:
        read = form.parameters.read(text, at, None if schema is None else types_of(schema))
        return None if read is None else (json.dumps(read[0], ensure_ascii=False), read[1])
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (json.JSONDecodeError, RecursionError):
        return None
    return (text[at:end], end) if isinstance(value, dict) else None


def read_reply(text: str, response_format: ResponseFormat, form: CallForm) -> ParsedResponse:
    """Parse a reply.

    Raises:
        ResponseParseError: the reply has none of the forms that `response_format` allows.
    """
    if response_format.answer_schema is not None and text.startswith(form.result_prefix):
        return _structured(text, form)
    start = words_end(text, form) if response_format.tools else None
    if start is not None:
        return _calls(text, start, response_format, form)
    if not text.strip(BLANKS):
        raise ResponseParseError("the reply is empty")
    if response_format.answer == "text":
        return ParsedResponse(answer=text, kind="text")
    if response_format.abstain:
        return ParsedResponse(answer=text, kind="abstention", abstained=True)
    raise ResponseParseError(f"a text answer is not allowed here; the reply is {text[:40]!r}")


def _calls(text: str, start: int, response_format: ResponseFormat, form: CallForm) -> ParsedResponse:
    calls = list(written_calls(text, form, response_format.tools))
    known = {tool.name for tool in response_format.tools}
    read: list[tuple[str, str]] = []
    for number, call in enumerate(calls, 1):
        if call.name not in known:
            raise ResponseParseError(f"call {number} names the unknown tool {call.name!r}; known: {sorted(known)}")
        if call.arguments is None:
            raise ResponseParseError(f"the arguments of call {number} ({call.name}) are not complete")
        read.append((call.name, call.arguments))
    end = calls[-1].end if calls else start
    if not calls or text[end:] not in (form.closing, form.closing + form.trailing):
        raise ResponseParseError(f"expected {form.closing!r} at character {end}, found {text[end : end + 20]!r}")
    if len(read) > form.call_limit(response_format.call_limit):
        raise ResponseParseError(
            f"the reply has {len(read)} calls; at most {response_format.call_limit} are allowed"
        )
    return ParsedResponse(calls=tuple(read), lead=text[:start])


def _structured(text: str, form: CallForm) -> ParsedResponse:
    try:
        value: Any
        value, end = _DECODER.raw_decode(text, len(form.result_prefix))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ResponseParseError(f"no JSON value after {form.result_prefix!r}: {error}") from error
    if text[end:] != "}":
        raise ResponseParseError(f"text after the reply at character {end}: {text[end:][:20]!r}")
    return ParsedResponse(answer=value, kind="structured")
