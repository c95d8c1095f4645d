"""llguidance's rules for arguments that are written parameter by parameter.

Numbers, objects and texts between double quotes are `%json`, as everywhere; what a convention writes otherwise is
spelled out. Parameters come in the order of the schema, like the properties of objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelstack.toolcalls.conventions.parameters import ParameterForm
from modelstack.toolcalls.formats import FORMATS
from modelstack.toolcalls.shape_builder import types_allowed

Embed = Callable[[Mapping[str, Any]], str]
"""Writes a schema as the text of a `%json` piece."""
_OF_TEXTS = ("minLength", "maxLength", "pattern", "format")


class ParameterRules:
    """The rules of one tool's arguments, whose names begin with `name`."""

    def __init__(self, name: str, form: ParameterForm, embed: Embed) -> None:
        """Start with none."""
        self._name = name
        self._form = form
        self._embed = embed
        self._rules: list[str] = []
        self._references: dict[str, str] = {}
        self._inner: ParameterRules | None = None
        self._open = ""

    def rules(self, schema: Mapping[str, Any]) -> list[str]:
        """Return rules of which `name` is the arguments of a normalised schema.

        Raises:
            ValueError: a keyword cannot be said in this form; the message says which.
        """
        required = schema.get("required", ())
        declared = {name: sub for name, sub in schema.get("properties", {}).items() if sub is not False}
        rest_first, rest_more = "", ""
        closing = quoted(self._form.closing)
        for at, (name, sub) in reversed(list(enumerate(declared.items()))):
            key = quoted(self._form.key(name))
            one = f"{key} {self._value(sub, schema)}"
            separator = f"{quoted(self._form.separator)} " if self._form.separator else ""
            more = self._add(f"more_{at}", rest_more) if rest_more else ""
            if name in required:
                first = f"{one} {more}"
                rest_more = f"{separator}{one} {more}"
            else:
                first = f"{one} {more} | {rest_first}" if rest_first else f"({one} {more})?"
                rest_more = f"({separator}{one})? {more}"
            rest_first = self._add(f"first_{at}", first)
        return [f"{self._name}: {rest_first} {closing}", *self._all()]

    def _all(self) -> list[str]:
        return [*self._rules, *(self._inner._all() if self._inner is not None else ())]

    def _add(self, name: str, body: str) -> str:
        """Keep a rule; return its name."""
        full = f"{self._name}_{name}"
        self._rules.append(f"{full}: {body}")
        return full

    def _fresh(self, kind: str, body: str) -> str:
        return self._add(f"{kind}_{len(self._rules)}", body)

    def _value(self, schema: Any, root: Mapping[str, Any]) -> str:
        """Return an expression for a value with what ends it."""
        if schema is True or not set(schema) - {"$defs"}:
            return self._anything(root)
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            if name not in self._references:
                self._references[name] = f"{self._name}_ref_{len(self._references)}"
                body = self._value(root["$defs"][name], root)
                self._rules.append(f"{self._references[name]}: {body}")
            return self._references[name]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                options = [self._value(one, root) for one in schema[keyword] if one is not False]
                return self._fresh("any", " | ".join(options))
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self._fresh("enum", " | ".join(quoted(self._form.value(value)) for value in values))
        options = [self._typed(name, schema, root) for name in types_allowed(schema)]
        return options[0] if len(options) == 1 else self._fresh("types", " | ".join(options))

    def _anything(self, root: Mapping[str, Any]) -> str:
        if not self._open:
            self._open = f"{self._name}_anything"
            body = " | ".join(self._typed(name, {}, root) for name in types_allowed({}))
            self._rules.append(f"{self._open}: {body}")
        return self._open

    def _typed(self, name: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
        if name == "string":
            return self._text(schema)
        if name in ("boolean", "null"):
            values = (None,) if name == "null" else (True, False)
            return self._fresh("word", " | ".join(quoted(self._form.value(value)) for value in values))
        if name == "array" and self._form.text_in_list is not None:
            if self._form.inner == self._form:
                return self._list(schema, root)
            self._inner = self._inner or ParameterRules(f"{self._name}_in", self._form.inner, self._embed)
            return self._inner._list(schema, root)
        value = self._fresh(
            "json", f"%json {self._embed({**schema, 'type': name, '$defs': root.get('$defs', {})})}"
        )
        return f"{value} {quoted(self._form.value_end)}" if self._form.value_end else value

    def _list(self, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
        """Return a list of values: its first items may have schemas of their own."""
        prefix = list(schema.get("prefixItems", ()))
        others = schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if others is False:
            most = len(prefix) if most is None else min(most, len(prefix))
        if most is not None:
            prefix = prefix[:most]
        values = [self._value(one, root) for one in prefix]
        item = "" if others is False else self._value(others, root)
        low = max(0, least - len(prefix))
        high = "" if most is None else str(most - len(prefix))
        if not values:
            if most == 0:
                return '"[" "]"'
            more = f'(", " {item}){{{max(0, low - 1)},{"" if high == "" else int(high) - 1}}}'
            inside = f"{item} {more}"
            return f'"[" {inside} "]"' if low else f'"[" ({inside})? "]"'
        tail = f'(", " {item}){{{low},{high}}}' if item and high != "0" else ""
        for at in range(len(values) - 1, -1, -1):
            separator = '", " ' if at else ""
            tail = f"{separator}{values[at]} {tail}" if at < least else f"({separator}{values[at]} {tail})?"
        return f'"[" {tail} "]"'

    def _text(self, schema: Mapping[str, Any]) -> str:
        text = self._form.text
        constrained = {key: schema[key] for key in _OF_TEXTS if key in schema}
        if not text.is_raw and text.closing == '"':
            return self._fresh("text", f"%json {self._embed({**constrained, 'type': 'string'})}")
        low, high = constrained.get("minLength", 0), constrained.get("maxLength", "")
        count = f"{{{low},{high}}}" if low or high != "" else "*"
        patterns = [constrained["pattern"]] if "pattern" in constrained else []
        patterns += [FORMATS[constrained["format"]]] if constrained.get("format") in FORMATS else []
        inside = [_anchored(pattern) for pattern in patterns]
        if text.is_raw:
            return self._raw(count, inside)
        quote = escaped(text.closing)
        plain = rf"[^{quote}\\\x00-\x1f\x7f]"
        character = plain if constrained else rf"({plain}|\\[\\bfnrt{quote}]|\\u00(?:[01][0-9a-f]|7f))"
        bodies = [f"{character}{count}", *(f"({one})" for one in inside)]
        return self._terminal("TEXT", " & ".join(f"/{quote}{body}{quote}/" for body in bodies))

    def _raw(self, count: str, patterns: Sequence[str]) -> str:
        """Return a text that stands as it is and ends at its first closing."""
        text = self._form.text
        closing = escaped(text.closing)
        parts = [f"/(?s:.){count}/", f"~/(?s:.)*{closing}(?s:.)*/", *(f"/{pattern}/" for pattern in patterns)]
        terminal = self._terminal("RAW", " & ".join(parts))
        lazy = f"{self._name}_raw_{len(self._rules)}"
        # Lazy: the text ends where its closing is written for the first time.
        self._rules.append(f"{lazy}[lazy]: {terminal} {quoted(text.closing)}")
        return f"{quoted(text.opening)} {lazy}" if text.opening else lazy

    def _terminal(self, kind: str, body: str) -> str:
        full = f"{self._name.upper()}_{kind}_{len(self._rules)}"
        self._rules.append(f"{full}: {body}")
        return full


def _anchored(pattern: str) -> str:
    """Return a pattern of JSON Schema, which may match anywhere, as one of a whole text.

    Raises:
        ValueError: it has an anchor inside, or looks around.
    """
    body = pattern.removeprefix("^")
    ends = body.endswith("$") and not body.endswith("\\$")
    body = body[:-1] if ends else body
    if any(sign in body.replace("\\^", "").replace("\\$", "").replace("[^", "") for sign in "^$") or "(?" in body:
        raise ValueError(f"the pattern {pattern!r} has anchors inside or looks around")
    before = "" if pattern.startswith("^") else "(?s:.)*"
    return f"{before}({body.replace('/', chr(92) + '/')}){'' if ends else '(?s:.)*'}"


def escaped(text: str) -> str:
    """Return a text as part of a regular expression in a grammar."""
    return "".join(c if c.isalnum() or c in "_ " else f"\\x{{{ord(c):x}}}" for c in text)


def quoted(text: str) -> str:
    """Return a text as a terminal of a grammar."""
    return json.dumps(text, ensure_ascii=False)
