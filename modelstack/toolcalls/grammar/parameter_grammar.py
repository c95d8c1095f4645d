"""llguidance's rules for arguments that are written parameter by parameter.

Numbers, texts between double quotes, and objects in most conventions are `%json`, as everywhere; what a convention
writes otherwise is spelled out. Parameters come in the order of the schema, like the properties of objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelstack.toolcalls.conventions.parameters import NOT_IN_BARE_KEYS, ParameterForm
from modelstack.toolcalls.grammar.formats import FORMATS
from modelstack.toolcalls.grammar.shape_builder import declared_members, types_allowed
from modelstack.toolcalls.marks import Marks

Embed = Callable[[Mapping[str, Any]], str]
"""Writes a schema as the text of a `%json` piece."""
_OF_TEXTS = ("minLength", "maxLength", "pattern", "format")


class ParameterRules:
    """The rules of one tool's arguments, whose names begin with `name`."""

    def __init__(self, name: str, form: ParameterForm, embed: Embed, marks: Marks) -> None:
        """Start with none."""
        self._name = name
        self._form = form
        self._embed = embed
        self._marks = marks
        self._rules: list[str] = []
        self._references: dict[str, str] = {}
        self._inner: ParameterRules | None = None
        self._open = ""

    def rules(self, schema: Mapping[str, Any]) -> list[str]:
        """Return rules of which `name` is the arguments of a normalised schema.

        Raises:
            ValueError: a keyword cannot be said in this form; the message says which.
        """
        closed = {key: value for key, value in schema.items() if key != "patternProperties"}
        members = self._members({**closed, "additionalProperties": False}, schema)
        return [f"{self._name}: {members}", *self._all()]

    def _members(self, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
        """Return an expression for arguments, or the inside of an object that is written like them, to its end."""
        required, declared = schema.get("required", ()), declared_members(schema)
        separator = self._write(self._form.separator)
        extra = self._extra(schema, declared, root)
        # What may stand in front of a declared one: nothing written yet, and behind something.
        leads, between = (f"({extra} {separator})*", f"({separator} {extra})*") if extra else ("", "")
        rest_first, rest_more = (f"({extra} {between})?", between) if extra else ("", "")
        for at, (name, sub) in reversed(list(enumerate(declared.items()))):
            one = f"{self._write(self._form.key(name))} {self._value(sub, root)}"
            more = self._fresh(f"more_{at}", rest_more) if rest_more else ""
            behind = f"{between} {separator} {one}"
            if name in required:
                first = f"{leads} {one} {more}"
                rest_more = f"{behind} {more}"
            else:
                first = f"{leads} {one} {more} | {rest_first}" if rest_first else f"({one} {more})?"
                rest_more = f"({behind})? {more}"
            rest_first = self._fresh(f"first_{at}", first)
        return f"{rest_first} {self._write(self._form.closing)}"

    def _extra(self, schema: Mapping[str, Any], declared: Mapping[str, Any], root: Mapping[str, Any]) -> str:
        """Return an expression for a member that is not declared, empty where there is none.

        Raises:
            ValueError: a keyword limits which names there are, or how many.
        """
        values = schema.get("additionalProperties", True)
        most = len(declared) if values is False else math.inf
        is_binding = {
            "patternProperties": "patternProperties" in schema,
            "minProperties": schema.get("minProperties", 0) > len(schema.get("required", ())),
            "maxProperties": schema.get("maxProperties", math.inf) < most,
        }
        for keyword, binds in is_binding.items():
            if binds:
                raise ValueError(f"{keyword!r} cannot be enforced in an object that is not written as JSON")
        if values is False:
            return ""
        name = f"/[^{''.join(sorted(map(escaped, NOT_IN_BARE_KEYS)))}]+/"
        if declared:
            name += f" & ~/({'|'.join(map(escaped, declared))})/"
        key = self._terminal("KEY", name)
        return self._fresh("extra", f"{key} {self._write(self._form.key_suffix)} {self._value(values, root)}")

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
            return self._fresh("enum", " | ".join(self._write(self._form.value(value)) for value in values))
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
            return self._fresh("word", " | ".join(self._write(self._form.value(value)) for value in values))
        if name == "array" and self._form.text_in_list is not None:
            return self._inside._list(schema, root)
        if name == "object" and self._form.object_opening:
            members = self._inside._members(schema, root)
            return self._fresh("object", f"{self._write(self._form.object_opening)} {members}")
        value = self._fresh(
            "json", f"%json {self._embed({**schema, 'type': name, '$defs': root.get('$defs', {})})}"
        )
        return f"{value} {quoted(self._form.value_end)}" if self._form.value_end else value

    @property
    def _inside(self) -> ParameterRules:
        """The rules of what stands in a list, or in an object that is written like arguments."""
        if self._form.inner == self._form:
            return self
        self._inner = self._inner or ParameterRules(f"{self._name}_in", self._form.inner, self._embed, self._marks)
        return self._inner

    def _write(self, text: str) -> str:
        return sequence(text, self._marks)

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
        comma = quoted(self._form.comma)
        if not values:
            if most == 0:
                return '"[" "]"'
            more = f"({comma} {item}){{{max(0, low - 1)},{'' if high == '' else int(high) - 1}}}"
            inside = f"{item} {more}"
            return f'"[" {inside} "]"' if low else f'"[" ({inside})? "]"'
        tail = f"({comma} {item}){{{low},{high}}}" if item and high != "0" else ""
        for at in range(len(values) - 1, -1, -1):
            separator = f"{comma} " if at else ""
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
        closing = escaped(text.spelled or text.closing)
        parts = [f"/(?s:.){count}/", f"~/(?s:.)*{closing}(?s:.)*/", *(f"/{pattern}/" for pattern in patterns)]
        terminal = self._terminal("RAW", " & ".join(parts))
        if text.spelled:  # a mark ends it, which no text holds
            return f"{self._write(text.opening)} {terminal} {self._write(text.closing)}"
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


def sequence(text: str, marks: Marks) -> str:
    """Return a fixed text as terminals and special tokens of a grammar."""
    return " ".join(
        f"<[{marks.ids[piece]}]>" if piece in marks.ids else quoted(piece) for piece in marks.pieces(text) if piece
    )
