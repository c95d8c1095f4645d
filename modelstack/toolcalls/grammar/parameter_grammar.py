"""llguidance's rules for arguments that are written parameter by parameter.

Numbers, texts between double quotes and, in most conventions, objects are `%json`. Values that a convention writes
otherwise get rules of their own. Parameters come in schema order, like the properties of objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelstack.toolcalls.conventions.parameters import NOT_IN_BARE_KEYS, ParameterForm
from modelstack.toolcalls.grammar.formats import FORMATS
from modelstack.toolcalls.grammar.schema_walk import SchemaWalk, declared_members
from modelstack.toolcalls.marks import Marks

Embed = Callable[[Mapping[str, Any]], str]
"""Writes a schema as the text of a `%json` expression."""
_TEXT_KEYWORDS = ("minLength", "maxLength", "pattern", "format")


class ParameterRules(SchemaWalk[str]):
    """Makes the rules of one tool's arguments."""

    def __init__(
        self,
        name: str,
        form: ParameterForm,
        embed: Embed,
        marks: Marks,
        definitions: Mapping[str, Any] | None = None,
    ) -> None:
        """Start without rules.

        Args:
            name: Beginning of all rule names.
            form: How arguments are written.
            embed: Writes the values that are JSON in this form.
            marks: Special tokens of the convention.
            definitions: `$defs` of the arguments' schema.
        """
        super().__init__(definitions)
        self._name = name
        self._form = form
        self._embed = embed
        self._marks = marks
        self._rules: list[str] = []
        self._inner: ParameterRules | None = None

    def rules(self, schema: Mapping[str, Any]) -> list[str]:
        """Return rules; the one called `name` generates the arguments of a normalised schema.

        Raises:
            ValueError: a keyword cannot be enforced in this form; the message names it.
        """
        closed = {key: value for key, value in schema.items() if key != "patternProperties"}
        members = self._members({**closed, "additionalProperties": False})
        return [f"{self._name}: {members}", *self._all()]

    def _members(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for arguments, or for the members of an object, including the closing text."""
        required, declared = schema.get("required", ()), declared_members(schema)
        separator = self._write(self._form.separator)
        extra = self._extra(schema, declared)
        # Undeclared members before a declared one: at the beginning, and after another member.
        leads, between = (f"({extra} {separator})*", f"({separator} {extra})*") if extra else ("", "")
        rest_first, rest_more = (f"({extra} {between})?", between) if extra else ("", "")
        for at, (name, sub) in reversed(list(enumerate(declared.items()))):
            one = f"{self._write(self._form.key(name))} {self.value(sub)}"
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

    def _extra(self, schema: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
        """Return an expression for an undeclared member; empty if there can be none.

        Raises:
            ValueError: a keyword limits the names or the number of members.
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
        return self._fresh("extra", f"{key} {self._write(self._form.key_suffix)} {self.value(values)}")

    def _all(self) -> list[str]:
        return [*self._rules, *(self._inner._all() if self._inner is not None else ())]

    def _fresh(self, kind: str, body: str) -> str:
        """Append a rule with a name of its own; return the name."""
        name = f"{self._name}_{kind}_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def nothing(self) -> str:
        """Refuse a schema that allows no value.

        Raises:
            ValueError: always.
        """
        raise ValueError("the schema `false` allows no value here; remove it")

    def reserve(self, name: str) -> str:
        """Return the name of a rule."""
        return f"{self._name}_{name}"

    def define(self, reserved: str, options: Sequence[str]) -> None:
        """Write the rule of a reserved name."""
        self._rules.append(f"{reserved}: {' | '.join(options)}")

    def one_of(self, options: Sequence[str]) -> str:
        """Return the name of a rule with several options."""
        return self._fresh("any", " | ".join(options))

    def constants(self, values: Sequence[Any]) -> str:
        """Return the name of a rule for the texts of some values."""
        return self._fresh("enum", " | ".join(self._write(self._form.value(value)) for value in values))

    def string(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for a text."""
        return self._text(schema)

    def number(self, name: str, schema: Mapping[str, Any]) -> str:
        """Return an expression for a JSON number."""
        return self._as_json(name, schema)

    def array(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for a list: of values in this form, or of JSON values."""
        if self._form.text_in_list is None:
            return self._as_json("array", schema)
        return self._inside._list(schema)

    def object(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for an object: with members like arguments, or as JSON."""
        if not self._form.object_opening:
            return self._as_json("object", schema)
        members = self._inside._members(schema)
        return self._fresh("object", f"{self._write(self._form.object_opening)} {members}")

    def _as_json(self, name: str, schema: Mapping[str, Any]) -> str:
        text = self._embed({**schema, "type": name, "$defs": self._definitions})
        value = self._fresh("json", f"%json {text}")
        return f"{value} {quoted(self._form.value_end)}" if self._form.value_end else value

    @property
    def _inside(self) -> ParameterRules:
        """The rules for items of a list and members of an object, whose form may differ."""
        if self._form.inner == self._form:
            return self
        if self._inner is None:
            name = f"{self._name}_in"
            self._inner = ParameterRules(name, self._form.inner, self._embed, self._marks, self._definitions)
        return self._inner

    def _write(self, text: str) -> str:
        return sequence(text, self._marks)

    def _list(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for a list; its first items may have schemas of their own."""
        prefix = list(schema.get("prefixItems", ()))
        others = schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if others is False:
            most = len(prefix) if most is None else min(most, len(prefix))
        if most is not None:
            prefix = prefix[:most]
        values = [self.value(one) for one in prefix]
        item = "" if others is False else self.value(others)
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
        constrained = {key: schema[key] for key in _TEXT_KEYWORDS if key in schema}
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
        """Return an expression for a text without escapes, which ends at the first closing text."""
        text = self._form.text
        closing = escaped(text.spelled or text.closing)
        parts = [f"/(?s:.){count}/", f"~/(?s:.)*{closing}(?s:.)*/", *(f"/{pattern}/" for pattern in patterns)]
        terminal = self._terminal("RAW", " & ".join(parts))
        if text.spelled:  # a mark ends it; no text contains a mark
            return f"{self._write(text.opening)} {terminal} {self._write(text.closing)}"
        lazy = f"{self._name}_raw_{len(self._rules)}"
        # Lazy: the text ends at the first occurrence of its closing text.
        self._rules.append(f"{lazy}[lazy]: {terminal} {quoted(text.closing)}")
        return f"{quoted(text.opening)} {lazy}" if text.opening else lazy

    def _terminal(self, kind: str, body: str) -> str:
        full = f"{self._name.upper()}_{kind}_{len(self._rules)}"
        self._rules.append(f"{full}: {body}")
        return full


def _anchored(pattern: str) -> str:
    """Return a pattern of JSON Schema, which may match anywhere, as a pattern for a whole text.

    Raises:
        ValueError: the pattern has an anchor inside, or look-around.
    """
    body = pattern.removeprefix("^")
    ends = body.endswith("$") and not body.endswith("\\$")
    body = body[:-1] if ends else body
    if any(sign in body.replace("\\^", "").replace("\\$", "").replace("[^", "") for sign in "^$") or "(?" in body:
        raise ValueError(f"the pattern {pattern!r} has an anchor inside or look-around; use neither")
    before = "" if pattern.startswith("^") else "(?s:.)*"
    return f"{before}({body.replace('/', chr(92) + '/')}){'' if ends else '(?s:.)*'}"


def escaped(text: str) -> str:
    """Return a text escaped for a regular expression of a grammar."""
    return "".join(c if c.isalnum() or c in "_ " else f"\\x{{{ord(c):x}}}" for c in text)


def quoted(text: str) -> str:
    """Return a text as a terminal of a grammar."""
    return json.dumps(text, ensure_ascii=False)


def sequence(text: str, marks: Marks) -> str:
    """Return a fixed text as a sequence of terminals and special tokens."""
    return " ".join(
        f"<[{marks.ids[piece]}]>" if piece in marks.ids else quoted(piece) for piece in marks.pieces(text) if piece
    )
