"""Positions inside JSON arrays, JSON objects and the keys of objects."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from modelstack.toolcalls.convention import render_json
from modelstack.toolcalls.grammar.frames import ESCAPED, Frame, behind_first, inside_string
from modelstack.toolcalls.grammar.shapes import UNREACHABLE, Arrays, Objects, Property, Shape
from modelstack.toolcalls.grammar.values import Value, first_characters, opened
from modelstack.toolcalls.marks import is_mark


class Array(Frame):
    """A position between items: after `[` if `count` is 0, else after the item number `count`."""

    __slots__ = ("count", "shape")

    def __init__(self, shape: Arrays, count: int, parent: Frame | None) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.count = count

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.shape, self.count)

    def step(self, c: str) -> list[Frame | None]:
        """Close the array, continue after a comma, or open the first item."""
        if c == "]":
            return [self.parent] if self.count >= self.shape.least else []
        item = self.shape.at(self.count)
        if item is None:
            return []
        behind = Array(self.shape, self.count + 1, self.parent)
        if self.count == 0:
            return opened(item, c, behind)
        return behind_first(self.shape.comma, c, Value(item, behind))

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return `]`, and the comma or the first characters of the first item, as far as they are legal."""
        chars = frozenset("]") if self.count >= self.shape.least else frozenset()
        item = self.shape.at(self.count)
        if item is None or isinstance(item, Shape) and type(item) is Shape:
            return chars
        return chars | (first_characters(item, alphabet) if self.count == 0 else frozenset(self.shape.comma[0]))

    def rest(self) -> str | None:
        """Return the missing items and the closing bracket."""
        owed = [self.shape.at(i) for i in range(self.count, self.shape.least)]
        if any(item is None or item.cost >= UNREACHABLE for item in owed):
            return None
        texts = self.shape.comma.join(item.text for item in owed if item is not None)
        return (self.shape.comma if owed and self.count else "") + texts + "]"


@dataclass(frozen=True, slots=True)
class Seen:
    """The properties of an object that are already written."""

    names: frozenset[str] = frozenset()
    next_index: int = 0
    """Index of the first property that may still come, in schema order."""


class Object(Frame):
    """A position between properties: at first after `{`, then after a comma (`after_comma`) or after a value."""

    __slots__ = ("after_comma", "seen", "shape")

    def __init__(self, shape: Objects, seen: Seen, after_comma: bool, parent: Frame | None) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.seen = seen
        self.after_comma = after_comma

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.shape, self.seen, self.after_comma)

    def step(self, c: str) -> list[Frame | None]:
        """Close the object, continue after a comma, or open a key."""
        if c == "}":
            return [self.parent] if not self.after_comma and not self.owed() else []
        if c == self.shape.comma[0]:
            more = self.seen.names and not self.after_comma and self._has_more()
            behind = Object(self.shape, self.seen, True, self.parent)
            return behind_first(self.shape.comma, c, behind) if more else []
        if c == '"' and (self.after_comma or not self.seen.names) and self._has_more():
            return [Key(self, tuple(self.candidates()), 1, '"')]
        return []

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the characters among brace, comma and quote that `step` accepts."""
        return frozenset(c for c in ("}", '"', self.shape.comma[0]) if self.step(c))

    def rest(self) -> str | None:
        """Return the missing required properties and the closing brace."""
        owed = self.owed()
        if any(p.shape.cost >= UNREACHABLE for p in owed):
            return None
        texts = self.shape.comma.join(p.key + p.shape.text for p in owed)
        if self.after_comma and not owed:
            extra = [p for p in self.candidates() if p.shape.cost < UNREACHABLE]
            texts = min((p.key + p.shape.text for p in extra), key=len, default="") or self._fresh_key()
        comma = self.shape.comma if owed and self.seen.names and not self.after_comma else ""
        return comma + texts + "}"

    def owed(self) -> list[Property]:
        """Return the required properties that are not written yet."""
        return [p for p in self.shape.properties if p.required and p.name not in self.seen.names]

    def candidates(self) -> Iterable[Property]:
        """Return the declared properties that may come next."""
        if not self.shape.ordered:
            return [p for p in self.shape.properties if p.name not in self.seen.names]
        out = []
        for p in self.shape.properties[self.seen.next_index :]:
            out.append(p)
            if p.required:
                break
        return out

    def takes_extra(self) -> bool:
        """Return whether an undeclared property may come next."""
        return (self.shape.extra is not None or bool(self.shape.patterns)) and (
            not self.shape.ordered or not self.owed()
        )

    def behind(self, name: str) -> Object:
        """Return the position behind the value of `name`."""
        index = next(
            (i for i, p in enumerate(self.shape.properties) if p.name == name), len(self.shape.properties) - 1
        )
        return Object(self.shape, Seen(self.seen.names | {name}, index + 1), False, self.parent)

    def _has_more(self) -> bool:
        return bool(self.takes_extra() or self.candidates())

    def _fresh_key(self) -> str:
        """Return an undeclared property with an unused name."""
        taken = self.seen.names | {p.name for p in self.shape.properties}
        name = next(n for n in ("a", *(f"a{i}" for i in range(len(taken) + 1))) if n not in taken)
        shape = self.shape.shape_of_extra(name)
        return f'"{name}"{self.shape.colon}{shape.text}' if shape is not None else ""


class Key(Frame):
    """A position inside a property name. `written` is its text from the quote on.

    `candidates` begin with that text.
    """

    __slots__ = ("at", "candidates", "object", "written")

    def __init__(self, object_: Object, candidates: tuple[Property, ...], at: int, written: str) -> None:
        """Initialise at this position."""
        super().__init__(object_.parent)
        self.object = object_
        self.candidates = candidates
        self.at = at
        self.written = written

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.object.key, self.written)

    def step(self, c: str) -> list[Frame | None]:
        """Narrow the declared names; after the colon, move to the value."""
        going = tuple(p for p in self.candidates if len(p.key) > self.at and p.key[self.at] == c)
        written = self.written + c
        colon = self.object.shape.colon
        if c == colon[0] and _is_closed(self.written):
            done = [p for p in going if p.key == self.written + colon]
            if done:
                return behind_first(colon, c, Value(done[0].shape, self.object.behind(done[0].name)))
            return [after for value in self._extra_value() for after in behind_first(colon, c, value)]
        if not going and not (self.object.takes_extra() and _may_extend_key(self.written, c, self._reserved())):
            return []
        return [Key(self.object, going, self.at + 1, written)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the next characters of declared names; all characters where undeclared names are allowed."""
        chars = frozenset(p.key[self.at] for p in self.candidates if len(p.key) > self.at)
        if not self.object.takes_extra():
            return chars
        if self.is_open:
            return chars | inside_string(alphabet, json.loads(self.written + '"') not in self._reserved())
        colon = self.object.shape.colon[0]
        return chars | (frozenset(colon) if _is_closed(self.written) else frozenset(ESCAPED))

    def rest(self) -> str | None:
        """Return the shortest text that ends this key, its value and the object."""
        options = []
        for p in self.candidates:
            after = self.object.behind(p.name).rest() if p.shape.cost < UNREACHABLE else None
            if after is not None:
                options.append(p.key[self.at :] + p.shape.text + after)
        if not options and self.object.takes_extra():
            options += self._extra_rest()
        return min(options, key=len, default=None)

    @property
    def is_open(self) -> bool:
        """Whether an undeclared name may continue with any character."""
        escaping = (len(self.written) - len(self.written.rstrip("\\"))) % 2
        return self.object.takes_extra() and not escaping and not _is_closed(self.written)

    def forbidden_ends(self) -> list[str]:
        """Return the texts that would complete a name that must not come here or come twice."""
        going = {p.name for p in self.candidates}
        names = [render_json(name) for name in self._reserved() - going]
        return [name[self.at :] for name in names if name.startswith(self.written)]

    def _reserved(self) -> frozenset[str]:
        return self.object.seen.names | {p.name for p in self.object.shape.properties}

    def _extra_value(self) -> list[Frame]:
        name = json.loads(self.written)
        shape = self.object.shape.shape_of_extra(name) if name not in self._reserved() else None
        return [Value(shape, self.object.behind(name))] if shape is not None and self.object.takes_extra() else []

    def _extra_rest(self) -> list[str]:
        """Return the shortest end of an undeclared name.

        The name as written, or with letters that make it unused.
        """
        for tail in ("", "a", "aa", "0", "00", "n", "na", *(f"{i:04x}" for i in range(16))):
            written = self.written + ("" if _is_closed(self.written) else tail + '"')
            try:
                name = json.loads(written)
            except ValueError:
                continue
            shape = self.object.shape.shape_of_extra(name) if name not in self._reserved() else None
            after = self.object.behind(name).rest()
            if shape is not None and shape.cost < UNREACHABLE and after is not None:
                return [written[len(self.written) :] + self.object.shape.colon + shape.text + after]
        return []


def _is_closed(key: str) -> bool:
    """Return whether the text of a key ends with its closing quote."""
    if len(key) < 2 or key[-1] != '"':
        return False
    return (len(key) - 1 - len(key[:-1].rstrip("\\"))) % 2 == 0


def _may_extend_key(written: str, c: str, reserved: frozenset[str]) -> bool:
    """Return whether `c` can continue an undeclared name; only escapes of one letter are accepted."""
    if _is_closed(written):
        return c == ":"
    if (len(written) - len(written.rstrip("\\"))) % 2:
        return c in ESCAPED
    if c == '"':
        return json.loads(written + '"') not in reserved
    return c >= " " and c != "\x7f" and not is_mark(c)
