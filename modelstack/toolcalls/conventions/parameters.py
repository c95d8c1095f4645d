"""Arguments written parameter by parameter, such as `(city="Rome", days=3)` or a tag each, not as a JSON object.

    key_prefix NAME key_suffix VALUE  [separator ...]  closing

A text is written between its own delimiters. A text without escapes ends at the delimiter and cannot contain it.
Without an opening delimiter, only the tool's schema distinguishes a text from another value. Lists and objects are
JSON in some conventions. In others, lists contain values in this form, and objects are written like arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from modelstack.toolcalls.marks import Marks

_DECODER = json.JSONDecoder(strict=True)
_DEEPEST = 64
"""Maximum depth of nested lists and objects that are read."""
NOT_IN_BARE_KEYS = frozenset(",:{}[]<>")
"""Characters that grammars exclude from undeclared names, which have no delimiters."""
_MAPS = frozenset(("properties", "patternProperties", "$defs"))
"""Keywords of a normalised schema whose value maps names to schemas."""
_VALUE_KEYWORDS = frozenset(("enum", "const", "required"))
"""Keywords whose value contains values or names, not schemas."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """The written form of a text."""

    opening: str = '"'
    closing: str = '"'
    is_raw: bool = False
    """Whether the text has no escapes; otherwise it is escaped as in JSON, and the delimiter is one character."""
    escaped: str | None = None
    """Characters of a raw text that a template escapes. None: a backslash breaks up each closing delimiter."""
    spelled: str = ""
    """Name of `closing` if a bound form has a stand-in for it; a raw text must contain neither."""

    def bound(self, marks: Marks) -> TextForm:
        """Return this form with stand-ins for delimiters that are special tokens."""
        form = self.mapped(marks.bound)
        return replace(form, spelled=marks.names.get(form.closing, ""))

    def mapped(self, change: Callable[[str], str]) -> TextForm:
        """Return this form with its delimiters changed."""
        texts = (change(self.opening), change(self.closing), change(self.spelled))
        return replace(self, opening=texts[0], closing=texts[1], spelled=texts[2])

    @property
    def delimiter(self) -> str:
        """The text that a raw text must not contain."""
        return self.spelled or self.closing.strip()

    def written(self, text: str) -> str:
        """Return a text with its delimiters; a closing delimiter inside a raw text is broken up by a backslash.

        Raises:
            ValueError: the text contains a lone surrogate.
        """
        _refuse_surrogates(text)
        if self.is_raw:
            if self.escaped is not None:
                signs = {c: "\\" + {"\n": "n", "\r": "r"}.get(c, c) for c in self.escaped}
                return self.opening + text.translate(str.maketrans(signs)) + self.closing
            whole = self.delimiter
            return self.opening + text.replace(whole, whole[0] + "\\" + whole[1:]) + self.closing
        body = json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
        if self.closing != '"':
            body = body.replace('\\"', '"').replace(self.closing, "\\" + self.closing)
        return self.opening + body + self.closing

    def read(self, text: str, at: int) -> tuple[str, int] | None:
        """Return the text written at `at` and the index after it; None if it is not complete."""
        if not text.startswith(self.opening, at):
            return None
        begin = at + len(self.opening)
        end = text.find(self.closing, begin)
        if self.is_raw:
            return None if end < 0 else (text[begin:end], end + len(self.closing))
        while end >= 0 and (end - begin - len(text[begin:end].rstrip("\\"))) % 2:
            end = text.find(self.closing, end + 1)
        if end < 0:
            return None
        body = text[begin:end]
        if self.closing != '"':
            body = body.replace('"', '\\"').replace("\\" + self.closing, self.closing)
        try:
            return json.loads(f'"{body}"'), end + len(self.closing)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class ParameterForm:
    """The written form of arguments, explained at the top of this file."""

    key_suffix: str
    """Text after a name; its first character cannot be part of a name."""
    separator: str
    closing: str
    """Text after the last parameter, or alone if there is none. Its first character differs from those before a
    key."""
    key_prefix: str = ""
    text: TextForm = TextForm()
    value_end: str = ""
    """Text after each value that is not a text."""
    words: tuple[str, str, str] = ("None", "True", "False")
    """Spellings of null, true and false."""
    text_in_list: TextForm | None = None
    """Form of texts in lists; None: lists are JSON."""
    comma: str = ", "
    """Separator of the items of a list that is not JSON."""
    object_opening: str = ""
    """Opening of an object that is written like arguments; empty: objects are JSON."""
    is_sorted: bool = False
    """Whether names are sorted, as by Jinja's `dictsort`; otherwise they are in schema order."""

    @property
    def inner(self) -> ParameterForm:
        """The form of the items of a list that is not JSON, and of the members of an object like arguments."""
        return replace(self, text=self.text_in_list or self.text, value_end="")

    def bound(self, marks: Marks) -> ParameterForm:
        """Return this form with stand-ins for its special tokens."""
        text_in_list = None if self.text_in_list is None else self.text_in_list.bound(marks)
        return replace(self.mapped(marks.bound), text=self.text.bound(marks), text_in_list=text_in_list)

    def mapped(self, change: Callable[[str], str]) -> ParameterForm:
        """Return this form with each of its own texts changed."""
        texts = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {key: change(text) for key, text in texts.items() if isinstance(text, str)}
        text_in_list = None if self.text_in_list is None else self.text_in_list.mapped(change)
        words = tuple(change(word) for word in self.words)
        return replace(self, **changed, text=self.text.mapped(change), text_in_list=text_in_list, words=words)

    def key(self, name: str) -> str:
        """Return the text before a parameter's value.

        If objects are written like arguments, members may have any name. A name that could be confused with the
        form's own texts then gets the delimiters of a text.

        Raises:
            ValueError: the name could be confused with the form's own texts, or contains a lone surrogate.
        """
        _refuse_surrogates(name)
        if self.object_opening:
            written = name if self._stands_bare(name) else self.text.written(name)
            return self.key_prefix + written + self.key_suffix
        begun = f"{self.key_prefix}{name}"
        if not name or "\n" in name or self.key_suffix in name or begun.startswith(self.closing):
            raise ValueError(
                f"the parameter {name!r} cannot be written in this convention: {self.key_suffix!r} ends a name "
                f"and {self.closing!r} the arguments; convention=ours accepts any name"
            )
        return begun + self.key_suffix

    def _stands_bare(self, name: str) -> bool:
        taken = (self.closing, self.text.delimiter)
        return bool(name) and self.key_suffix not in name and not name.startswith(taken)

    def arranged(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a normalised schema with its properties in the order in which they are written."""
        return _sorted(schema) if self.is_sorted else schema

    def problem(self, schema: Mapping[str, Any]) -> str:
        """Return the reason why the arguments of a normalised schema cannot be written; empty if they can."""
        declared = schema.get("properties", {})
        undeclared = [name for name in schema.get("required", ()) if name not in declared]
        if undeclared:
            return f"the required parameter {undeclared[0]!r} is not declared"
        try:
            for name in declared:
                self.key(name)
        except ValueError as error:
            return str(error)
        return ""

    def written(self, arguments: Mapping[str, Any]) -> str:
        """Return all arguments and the closing text.

        Raises:
            ValueError: a value is not JSON, or a name cannot be written.
        """
        names = sorted(arguments, key=str.lower) if self.is_sorted else arguments
        parts = [self.key(name) + self.value(arguments[name]) for name in names]
        return self.separator.join(parts) + self.closing

    def value(self, value: Any) -> str:
        """Return a value with the text that ends it.

        Raises:
            ValueError: the value is not JSON.
        """
        text = self._bare(value)
        return text if isinstance(value, str) else text + self.value_end

    def _bare(self, value: Any) -> str:
        if isinstance(value, str):
            return self.text.written(value)
        if value is None or isinstance(value, bool):
            return self.words[0 if value is None else 1 if value else 2]
        if isinstance(value, list | tuple) and self.text_in_list is not None:
            return f"[{self.comma.join(map(self.inner._bare, value))}]"
        if isinstance(value, Mapping) and self.object_opening:
            return self.object_opening + self.inner.written(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
        _refuse_surrogates(text)
        return text

    def read(
        self, text: str, at: int, types: Mapping[str, frozenset[str]] | None = None
    ) -> tuple[dict[str, Any], int] | None:
        """Return the arguments written at `at` and the index after them; None if they are not complete.

        Args:
            text: A reply.
            at: Index of the first key, or of `closing`.
            types: JSON types allowed for each parameter; without them, a raw text in the form of another value is
                read as that value.
        """
        return self._read_members(text, at, types or {}, 0)

    def _read_members(
        self, text: str, at: int, types: Mapping[str, frozenset[str]], depth: int
    ) -> tuple[dict[str, Any], int] | None:
        found: dict[str, Any] = {}
        while not text.startswith(self.closing, at):
            before = self.separator + self.key_prefix if found else self.key_prefix
            key = self._read_key(text, at + len(before)) if text.startswith(before, at) else None
            if key is None:
                return None
            name, at = key
            read = self._read_value(text, at, types.get(name), depth)
            # In an object the last of equal names counts, as in JSON.
            if read is None or (name in found and depth == 0):
                return None
            found[name], at = read
        return found, at + len(self.closing)

    def _read_key(self, text: str, at: int) -> tuple[str, int] | None:
        """Return a name and the index after its end."""
        if self.object_opening and text.startswith(self.text.opening, at):
            quoted = self.text.read(text, at)
            is_key = quoted is not None and text.startswith(self.key_suffix, quoted[1])
            return (quoted[0], quoted[1] + len(self.key_suffix)) if quoted is not None and is_key else None
        end = text.find(self.key_suffix, at)
        return None if end < 0 else (text[at:end], end + len(self.key_suffix))

    def _read_value(self, text: str, at: int, types: frozenset[str] | None, depth: int) -> tuple[Any, int] | None:
        if self.text.opening:
            return self._read_bare(text, at, depth)
        whole = self.text.read(text, at)
        if whole is None or (types is not None and types <= {"string"}):
            return whole
        bare = self._read_bare(text, at, depth)
        if (
            bare is None
            or not text.startswith(self.value_end, bare[1])
            or bare[1] + len(self.value_end) != whole[1]
        ):
            return whole
        return (bare[0], whole[1]) if types is None or _type_of(bare[0]) & types else whole

    def _read_bare(self, text: str, at: int, depth: int) -> tuple[Any, int] | None:
        """Return a value without the text that ends it, and the index after it."""
        for form in (self.text, self.text_in_list):
            if form is not None and form.opening and text.startswith(form.opening, at):
                return form.read(text, at)
        if text.startswith("[", at) and self.text_in_list is not None:
            return self._read_list(text, at + 1, depth + 1)
        if self.object_opening and text.startswith(self.object_opening, at):
            begin = at + len(self.object_opening)
            return self.inner._read_members(text, begin, {}, depth + 1) if depth < _DEEPEST else None
        for word, value in zip(self.words, (None, True, False), strict=True):
            if text.startswith(word, at):
                return value, at + len(word)
        try:
            return _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None

    def _read_list(self, text: str, at: int, depth: int) -> tuple[list[Any], int] | None:
        items: list[Any] = []
        while depth <= _DEEPEST:
            if text.startswith("]", at):
                return items, at + 1
            if items:
                if not text.startswith(self.comma, at):
                    return None
                at += len(self.comma)
            read = self._read_bare(text, at, depth)
            if read is None:
                return None
            items.append(read[0])
            at = read[1]
        return None


def _sorted(schema: Any) -> Any:
    """Return a normalised schema with the properties of each object in alphabetical order."""
    if isinstance(schema, list):
        return [_sorted(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _MAPS:
            names = sorted(value, key=str.lower) if keyword == "properties" else value
            result[keyword] = {name: _sorted(value[name]) for name in names}
        else:
            result[keyword] = value if keyword in _VALUE_KEYWORDS else _sorted(value)
    return result


def _refuse_surrogates(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"lone surrogate in {text[:40]!r}")


def types_of(schema: Any) -> Mapping[str, frozenset[str]]:
    """Return the JSON types allowed for each parameter of a schema, normalised or not; all types if it is open."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return {}
    known: dict[str, frozenset[str]] = {}
    return {str(name): _types(of_name, schema, known) for name, of_name in properties.items()}


_ALL = frozenset(("string", "number", "integer", "boolean", "null", "array", "object"))


def _types(schema: Any, root: Mapping[str, Any], known: dict[str, frozenset[str]]) -> frozenset[str]:
    """Return the JSON types that a schema allows; `known` caches the types of its definitions."""
    if not isinstance(schema, Mapping):
        return _ALL
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        if name not in known:
            known[name] = frozenset()  # a reference to itself adds no type
            definitions = {**_mapping(root.get("definitions")), **_mapping(root.get("$defs"))}
            known[name] = _types(definitions.get(name), root, known)
        return known[name]
    found = _ALL
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        found = frozenset[str]().union(*map(_type_of, values))
    elif "type" in schema:
        types = schema["type"]
        found = frozenset([types] if isinstance(types, str) else map(str, types))
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            found &= frozenset[str]().union(*(_types(one, root, known) for one in schema[keyword]))
    return found


def _type_of(value: Any) -> frozenset[str]:
    """Return the JSON types of a value: a whole number is an integer and a number."""
    if isinstance(value, bool):
        return frozenset(("boolean",))
    if isinstance(value, int):
        return frozenset(("integer", "number"))
    names = {str: "string", float: "number", list: "array", dict: "object", type(None): "null"}
    return frozenset((names[type(value)],))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
