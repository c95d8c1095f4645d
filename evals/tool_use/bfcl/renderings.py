"""Correct answers made from an answer key: the calls of a perfect model, and their variants.

A key lists acceptable values; for objects, it lists them per entry. The key writes Java and JavaScript values as
Python values, while a model gives literals, so they are written as literals here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.tool_use.bfcl.data import AnswerKey, Language, Question, language

Calls = list[dict[str, dict[str, Any]]]
"""Calls in the original's form: `[{name: {parameter: value}}]`."""


def first_rendering(question: Question) -> Calls:
    """Return calls with the first acceptable value of each parameter.

    A parameter that can only be omitted is omitted.
    """
    return [_call(question, entry, {}) for entry in _key(question)]


def terse_rendering(question: Question) -> Calls:
    """Return calls with the first entry of every list; a parameter is omitted if the key lists omission first."""
    changed = [
        {parameter: _LEFT_OUT for parameter, values in acceptable.items() if values and values[0] == ""}
        for acceptable in (next(iter(entry.values())) for entry in _key(question))
    ]
    return [_call(question, entry, left_out) for entry, left_out in zip(_key(question), changed, strict=True)]


def renderings(question: Question) -> Iterator[tuple[str, Calls]]:
    """Yield (kind, calls) of correct answers: first values, each value, optional ones omitted, other order."""
    first = first_rendering(question)
    yield "gold: first values", first
    yield "gold: first entries", terse_rendering(question)
    if len(first) > 1:
        yield "gold: calls reversed", first[::-1]
    for at, entry in enumerate(_key(question)):
        ((_, acceptable),) = entry.items()
        for parameter, values in acceptable.items():
            for value in variants(values):
                yield "gold: each value", _with(question, first, at, {parameter: value})
            if "" in values:
                yield "gold: optional left out", _with(question, first, at, {parameter: _LEFT_OUT})
        optional = {parameter: _LEFT_OUT for parameter, values in acceptable.items() if "" in values}
        if optional:
            yield "gold: all optional left out", _with(question, first, at, optional)


def literal(value: Any, schema: Mapping[str, Any], spoken: Language) -> Any:
    """Return a value of the key as a model writes it: a literal for Java and JavaScript, else the value itself."""
    if spoken == "python" or isinstance(value, str):
        return value
    return _java(value, schema) if spoken == "java" else _javascript(value, schema)


_LEFT_OUT = object()


def _key(question: Question) -> AnswerKey:
    if question.answer is None:
        raise ValueError(f"{question.id} has no answer key")
    return question.answer


def _with(question: Question, first: Calls, at: int, changed: Mapping[str, Any]) -> Calls:
    return [*first[:at], _call(question, _key(question)[at], changed), *first[at + 1 :]]


def _call(question: Question, entry: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    ((name, acceptable),) = entry.items()
    spoken = language(question.category)
    function = next(
        (function for function in question.functions if function["name"] == name), question.functions[0]
    )
    schemas = function["parameters"].get("properties", {})
    arguments: dict[str, Any] = {}
    for parameter, values in acceptable.items():
        value = changed.get(parameter, _first(values))
        if value is not _LEFT_OUT:
            arguments[parameter] = literal(value, schemas.get(parameter, {}), spoken)
    return {function["name"]: arguments}


def _first(values: Sequence[Any]) -> Any:
    return next(variants(values), _LEFT_OUT)


def variants(values: Any) -> Iterator[Any]:
    """Yield the acceptable values.

    For an object, the first values of all its entries, then each value of each entry.
    """
    for value in values:
        if isinstance(value, str) and value == "":
            continue
        if isinstance(value, Mapping):
            yield from _object_variants(value)
        elif isinstance(value, list):
            yield [_plain(element) for element in value]
        else:
            yield value


def _object_variants(option: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    first = _plain(option)
    yield first
    for key, values in option.items():
        if not isinstance(values, list):
            continue
        if "" in values and key in first:
            yield {other: value for other, value in first.items() if other != key}
        for value in values:
            if value != "":
                yield {**first, key: value}


def _plain(value: Any) -> Any:
    """Return a concrete object for an acceptable object: the first value of each entry that has one."""
    if not isinstance(value, Mapping):
        return value
    chosen = {key: _first(values) if isinstance(values, list) else values for key, values in value.items()}
    return {key: inner for key, inner in chosen.items() if inner is not _LEFT_OUT}


def _java(value: Any, schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "any")
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value}{ {'long': 'L', 'float': 'f'}.get(kind, '') }"
    inner = schema.get("items", {}) if isinstance(schema.get("items"), Mapping) else {}
    if isinstance(value, list):
        quoted = inner.get("type") == "String" and kind == "ArrayList"
        elements = ", ".join(
            f'"{element}"' if isinstance(element, str) and quoted else literal(element, inner, "java")
            for element in value
        )
        if kind == "ArrayList":
            return f"new ArrayList<>(Arrays.asList({elements}))" if value else "new ArrayList<>()"
        return f"new {inner.get('type', 'Object')}[]{{{elements}}}"
    puts = " ".join(
        f'put("{key}", {json.dumps(inner_value) if isinstance(inner_value, str) else _java(inner_value, {})});'
        for key, inner_value in value.items()
    )
    return f"new HashMap<String, Object>() {{{{ {puts} }}}}"


def _javascript(value: Any, schema: Mapping[str, Any]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and schema.get("type") == "Bigint":
        return f"{value}n"
    return json.dumps(value, ensure_ascii=False)
