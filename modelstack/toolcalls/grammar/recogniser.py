"""A pushdown recogniser of replies: where in the reply are we, and how does it end soonest?

Both grammar engines use it. Beside llguidance it only follows: it knows when a tool is being chosen, what a
completion costs, and how one is written. As the language of lm-format-enforcer's token walk it decides
itself.

Here are the frames that hold others: arrays, objects, the tag that selects a tool. Where a schema leaves open
which alternative is being written, several frames live side by side (as in GLR parsing), until characters
tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from modelstack.toolcalls.convention import render_json
from modelstack.toolcalls.conventions.parameters import NOT_IN_BARE_KEYS
from modelstack.toolcalls.grammar.completions import complete_string
from modelstack.toolcalls.grammar.frames import (
    ESCAPED,
    NUMBER_CHARACTERS,
    Frame,
    Literal,
    Number,
    String,
    inside_string,
    literal,
)
from modelstack.toolcalls.grammar.shapes import (
    UNREACHABLE,
    Arrays,
    Calls,
    Either,
    Ended,
    Literals,
    Numbers,
    Objects,
    Parameters,
    Property,
    Response,
    Shape,
    Strings,
    Tagged,
    Text,
)
from modelstack.toolcalls.marks import is_mark

MAX_FRAMES = 256
"""Alternatives followed at once; a union of this many equal-looking objects is beyond any tool set seen."""


def choosing(frame: Frame | None) -> bool:
    """Say whether the next character takes part in choosing a tool, or something else instead of one."""
    if isinstance(frame, Value):
        return isinstance(frame.shape, Response) or (isinstance(frame.shape, Tagged) and frame.shape.is_call)
    if isinstance(frame, Literal):  # the text that leads to a call
        parent = frame.parent
        return isinstance(parent, Value) and isinstance(parent.shape, Tagged) and parent.shape.is_call
    if isinstance(frame, Prose):
        return frame.is_undecided
    return isinstance(frame, Tag) and frame.is_naming


def may_call(frames: tuple[Frame | None, ...]) -> Calls | None:
    """Return the calls that may begin here, where something else may come instead; None anywhere else."""
    only = frames[0] if len(frames) == 1 else None
    if isinstance(only, Value) and isinstance(only.shape, Response) and len(only.shape.options) > 1:
        return next((option for option in only.shape.options if isinstance(option, Calls)), None)
    return None


def names_or_closes(frames: tuple[Frame | None, ...]) -> Tagged | None:
    """Return the calls that may come behind `[` where `[]` is legal too; None anywhere else."""
    found: Tagged | None = None
    if len(frames) == 2:
        for frame in frames:
            if isinstance(frame, Value) and isinstance(frame.shape, Tagged) and frame.shape.is_call:
                found = frame.shape
        if any(isinstance(frame, Literal) and frame.parent is None for frame in frames):
            return found
    return None


def step_text(frames: tuple[Frame | None, ...], text: str) -> tuple[Frame | None, ...]:
    """Move all frames over `text`; those that cannot follow are dropped."""
    at = 0
    while at < len(text):
        only = frames[0] if len(frames) == 1 else None
        if isinstance(only, Prose) and only.is_free:
            return frames
        if isinstance(only, String) and only.is_free and only.shape.most is None:
            stops = [i for i in (text.find(only.shape.closing, at), text.find("\\", at)) if i >= 0]
            at = min(stops, default=len(text))
            if at == len(text):
                return frames
        c = text[at]
        at += 1
        if len(frames) == 1 and only is not None:
            frames = tuple(only.step(c))
        else:
            frames = tuple(after for frame in frames if frame is not None for after in frame.step(c))
        if not frames:
            return frames
    return frames


class Value(Frame):
    """Before a value."""

    __slots__ = ("shape",)

    def __init__(self, shape: Shape, parent: Frame | None) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.shape = shape

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return self.shape

    def step(self, c: str) -> list[Frame | None]:
        """Open the value."""
        return _open(self.shape, c, self.parent, ())

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the first characters of the shape."""
        return _first(self.shape, alphabet, ())

    def rest(self) -> str | None:
        """Return the shortest instance."""
        return self.shape.text if self.shape.cost < UNREACHABLE else None


class Array(Frame):
    """Between items: behind `[` when `count` is 0 and nothing was written, else behind an item."""

    __slots__ = ("count", "shape")

    def __init__(self, shape: Arrays, count: int, parent: Frame | None) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.shape = shape
        self.count = count

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.shape, self.count)

    def step(self, c: str) -> list[Frame | None]:
        """Close, go on behind a comma, or open the first item."""
        if c == "]":
            return [self.parent] if self.count >= self.shape.least else []
        item = self.shape.at(self.count)
        if item is None:
            return []
        behind = Array(self.shape, self.count + 1, self.parent)
        if self.count == 0:
            return _open(item, c, behind, ())
        return _behind_first(self.shape.comma, c, Value(item, behind))

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return `]`, and the comma or the start of the first item."""
        chars = frozenset("]") if self.count >= self.shape.least else frozenset()
        item = self.shape.at(self.count)
        if item is None or isinstance(item, Shape) and type(item) is Shape:
            return chars
        return chars | (_first(item, alphabet, ()) if self.count == 0 else frozenset(self.shape.comma[0]))

    def rest(self) -> str | None:
        """Return the items that are still owed, and the bracket."""
        owed = [self.shape.at(i) for i in range(self.count, self.shape.least)]
        if any(item is None or item.cost >= UNREACHABLE for item in owed):
            return None
        texts = self.shape.comma.join(item.text for item in owed if item is not None)
        return (self.shape.comma if owed and self.count else "") + texts + "]"


@dataclass(frozen=True, slots=True)
class Seen:
    """Which properties of an object are written."""

    names: frozenset[str] = frozenset()
    next_index: int = 0
    """In the order of the schema: the first property that may still come."""


class Object(Frame):
    """Between properties: behind `{` at first, behind `,` when `after_comma`, else behind a value."""

    __slots__ = ("after_comma", "seen", "shape")

    def __init__(self, shape: Objects, seen: Seen, after_comma: bool, parent: Frame | None) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.shape = shape
        self.seen = seen
        self.after_comma = after_comma

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.shape, self.seen, self.after_comma)

    def step(self, c: str) -> list[Frame | None]:
        """Close, go on behind a comma, or open a key."""
        if c == "}":
            return [self.parent] if not self.after_comma and not self.owed() else []
        if c == self.shape.comma[0]:
            more = self.seen.names and not self.after_comma and self._has_more()
            behind = Object(self.shape, self.seen, True, self.parent)
            return _behind_first(self.shape.comma, c, behind) if more else []
        if c == '"' and (self.after_comma or not self.seen.names) and self._has_more():
            return [Key(self, tuple(self.candidates()), 1, '"')]
        return []

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return those of brace, comma and quote that `step` takes."""
        return frozenset(c for c in ("}", '"', self.shape.comma[0]) if self.step(c))

    def rest(self) -> str | None:
        """Return the properties that are still owed, and the brace."""
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
        """Say whether an undeclared property may come next."""
        return (self.shape.extra is not None or bool(self.shape.patterns)) and (
            not self.shape.ordered or not self.owed()
        )

    def behind(self, name: str) -> Object:
        """Return the place behind the value of `name`."""
        index = next(
            (i for i, p in enumerate(self.shape.properties) if p.name == name), len(self.shape.properties) - 1
        )
        return Object(self.shape, Seen(self.seen.names | {name}, index + 1), False, self.parent)

    def _has_more(self) -> bool:
        return bool(self.takes_extra() or self.candidates())

    def _fresh_key(self) -> str:
        """Return an undeclared property with a name that is not taken."""
        taken = self.seen.names | {p.name for p in self.shape.properties}
        name = next(n for n in ("a", *(f"a{i}" for i in range(len(taken) + 1))) if n not in taken)
        shape = self.shape.shape_of_extra(name)
        return f'"{name}"{self.shape.colon}{shape.text}' if shape is not None else ""


class Key(Frame):
    """Inside a property's name; `written` is its text with the quote, `candidates` agree with it."""

    __slots__ = ("at", "candidates", "object", "written")

    def __init__(self, object_: Object, candidates: tuple[Property, ...], at: int, written: str) -> None:
        """Stand where the arguments say."""
        super().__init__(object_.parent)
        self.object = object_
        self.candidates = candidates
        self.at = at
        self.written = written

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.object.key, self.written)

    def step(self, c: str) -> list[Frame | None]:
        """Narrow the declared names; behind the colon, go to the value."""
        going = tuple(p for p in self.candidates if len(p.key) > self.at and p.key[self.at] == c)
        written = self.written + c
        colon = self.object.shape.colon
        if c == colon[0] and _is_closed(self.written):
            done = [p for p in going if p.key == self.written + colon]
            if done:
                return _behind_first(colon, c, Value(done[0].shape, self.object.behind(done[0].name)))
            return [after for value in self._extra_value() for after in _behind_first(colon, c, value)]
        if not going and not (self.object.takes_extra() and _may_extend_key(self.written, c, self._reserved())):
            return []
        return [Key(self.object, going, self.at + 1, written)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the next characters of declared names; any, where others are allowed."""
        chars = frozenset(p.key[self.at] for p in self.candidates if len(p.key) > self.at)
        if not self.object.takes_extra():
            return chars
        if self.is_open:
            return chars | inside_string(alphabet, json.loads(self.written + '"') not in self._reserved())
        colon = self.object.shape.colon[0]
        return chars | (frozenset(colon) if _is_closed(self.written) else frozenset(ESCAPED))

    def rest(self) -> str | None:
        """Return the cheapest way to end this key, its value and the object."""
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
        """True where an undeclared name may go on with any character."""
        escaping = (len(self.written) - len(self.written.rstrip("\\"))) % 2
        return self.object.takes_extra() and not escaping and not _is_closed(self.written)

    def forbidden_ends(self) -> list[str]:
        """Return the texts that would complete a name which may not come (again)."""
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
        """Return an end of an undeclared name: as it stands, or with letters that make it new."""
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


class ParameterList(Frame):
    """Between the parameters of a call: behind what opens them when `next_index` is 0, else behind a value."""

    __slots__ = ("is_first", "next_index", "shape")

    def __init__(self, shape: Parameters, next_index: int, is_first: bool, parent: Frame | None) -> None:
        """Stand where the arguments say; `next_index` is the first parameter that may still come."""
        super().__init__(parent)
        self.shape = shape
        self.next_index = next_index
        self.is_first = is_first

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.shape, self.next_index, self.is_first)

    def step(self, c: str) -> list[Frame | None]:
        """Begin the key of a parameter, or what closes them."""
        out: list[Frame | None] = []
        for at in range(self.next_index, len(self.shape.properties)):
            one = self.shape.properties[at]
            behind = ParameterList(self.shape, at + 1, False, self.parent)
            out += _behind_first(self._before + one.key, c, Value(one.shape, behind))
            if one.required:
                break
        if self.shape.extra is not None:
            key = BareKey(self.shape, "", ParameterList(self.shape, self.next_index, False, self.parent))
            out += _behind_first(self._before, c, key) if self._before else key.step(c)
        return out if self._owed() else out + _behind_first(self.shape.closing, c, self.parent)

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the first characters of those texts."""
        before, is_open = self._before, self.shape.extra is not None
        texts = [before + one.key for one in self.shape.properties[self.next_index :]]
        texts += [self.shape.closing, *([before] if is_open and before else ())]
        chars = frozenset(c for c in {text[0] for text in texts} if self.step(c))
        return chars | (alphabet - NOT_IN_BARE_KEYS) if is_open and not before else chars

    def rest(self) -> str | None:
        """Return the parameters that are still owed, and what closes them."""
        owed = self._owed()
        if any(one.shape.cost >= UNREACHABLE for one in owed):
            return None
        before = self._before if owed else ""
        return before + self.shape.separator.join(one.key + one.shape.text for one in owed) + self.shape.closing

    @property
    def _before(self) -> str:
        return "" if self.is_first else self.shape.separator

    def _owed(self) -> list[Property]:
        return [one for one in self.shape.properties[self.next_index :] if one.required]


class BareKey(Frame):
    """Inside the name of a member that is not declared; `parent` is the place behind its value."""

    __slots__ = ("shape", "written")

    def __init__(self, shape: Parameters, written: str, parent: Frame) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.written = written

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.shape, self.written)

    def step(self, c: str) -> list[Frame | None]:
        """Go on with the name; behind it, go to the value."""
        if c == self.shape.key_end[0] and self._is_whole(self.written) and self.shape.extra is not None:
            return _behind_first(self.shape.key_end, c, Value(self.shape.extra, self.parent))
        return [] if c in NOT_IN_BARE_KEYS or is_mark(c) else [BareKey(self.shape, self.written + c, self.behind)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return what a name may hold, and what ends it."""
        return (alphabet - NOT_IN_BARE_KEYS) | frozenset(c for c in self.shape.key_end[0] if self.step(c))

    def rest(self) -> str | None:
        """Return a shortest end of a name that is not declared, with a value."""
        extra = self.shape.extra
        if extra is None or extra.cost >= UNREACHABLE:
            return None
        tails = ("", "a", *(f"a{i}" for i in range(len(self.shape.properties) + 1)))
        tail = next(tail for tail in tails if self._is_whole(self.written + tail))
        return tail + self.shape.key_end + extra.text

    @property
    def behind(self) -> Frame:
        """The place behind the value."""
        assert self.parent is not None
        return self.parent

    def _is_whole(self, name: str) -> bool:
        return bool(name) and name not in self.shape.names


class RawText(Frame):
    """Inside a text that stands as it is.

    `progress` characters of what closes it are written last. They may turn out to be part of the text, so `held`
    keeps the pattern's states before each of them. Where a mark closes it they are characters of the mark's name,
    which the text must not hold.
    """

    __slots__ = ("held", "length", "progress", "shape", "states")

    def __init__(
        self,
        shape: Strings,
        parent: Frame | None,
        length: int = 0,
        progress: int = 0,
        states: frozenset[int] | None = None,
        held: tuple[frozenset[int] | None, ...] = (),
    ) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.shape = shape
        self.length = length
        self.progress = progress
        self.states = states
        self.held = held

    @property
    def is_free(self) -> bool:
        """True when any character may follow that does not close the text."""
        shape = self.shape
        return shape.regex is None and shape.most is None

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        shape = self.shape
        left = None if shape.most is None else shape.most - self.length
        return (shape, self.progress, self.states, self.held, max(0, shape.least - self.length), left)

    def step(self, c: str) -> list[Frame | None]:
        """Take a character, or the last one of what closes the text."""
        shape = self.shape
        if is_mark(c):
            return [self.parent] if c == shape.closing and self._may_close(self.states, self.length) else []
        watched = shape.spelled or shape.closing
        progress = _matched(watched, self.progress, c)
        held = (*self.held, self.states)[len(self.held) + 1 - progress :]
        length = self.length + 1
        if progress == len(watched):
            may_close = not shape.spelled and self._may_close(held[0], length - progress)
            return [self.parent] if may_close else []
        may_yet_close = bool(progress) and not shape.spelled
        if shape.most is not None and length - (progress if may_yet_close else 0) > shape.most:
            return []
        states = self.states
        if shape.regex is not None:
            states = shape.regex.step(shape.regex.start if states is None else states, c)
            if not states and not (may_yet_close and self._may_close(held[0], length - progress)):
                return []
        return [RawText(shape, self.parent, length, progress, states, held)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return everything that `step` takes."""
        closing = self.shape.closing
        ends = closing if self.shape.spelled else closing[self.progress]
        return frozenset(c for c in alphabet | {ends} if self.step(c))

    def rest(self) -> str | None:
        """Return the shortest rest with what closes it."""
        shape, closing = self.shape, self.shape.closing
        if self.progress and not shape.spelled and self._may_close(self.held[0], self.length - self.progress):
            return closing[self.progress :]
        if self.states is not None and not self.states:
            return None
        body = complete_string(shape, self.states, self.length)
        return None if body is None else body + closing

    def takes_between(self, low: int, high: int) -> bool:
        """Say whether some character of this range of code points, all beyond ASCII, may come next."""
        shape = self.shape
        if shape.most is not None and self.length >= shape.most:
            return False
        states = None if shape.regex is None else shape.regex.start if self.states is None else self.states
        return shape.regex is None or (states is not None and shape.regex.takes_between(states, low, high))

    def _may_close(self, states: frozenset[int] | None, length: int) -> bool:
        shape = self.shape
        if length < shape.least or (shape.most is not None and length > shape.most):
            return False
        return shape.regex is None or shape.regex.accepts(shape.regex.start if states is None else states)


class Tag(Frame):
    """Inside the fixed text that selects a tool, or opens a structured answer."""

    __slots__ = ("at", "options", "shape")

    def __init__(
        self, shape: Tagged, options: tuple[tuple[str, Shape], ...], at: int, parent: Frame | None
    ) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.shape = shape
        self.options = options
        self.at = at

    @property
    def is_naming(self) -> bool:
        """True until the character that ends the tool's name is written."""
        return self.shape.is_call and any(self.at <= len(t) - self.shape.n_behind_name for t, _ in self.options)

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.options, self.at)

    def step(self, c: str) -> list[Frame | None]:
        """Narrow the options; behind the last character, go to what follows."""
        going = tuple(o for o in self.options if o[0][self.at] == c)
        if not going:
            return []
        if len(going[0][0]) == self.at + 1:
            return [Value(going[0][1], literal((self.shape.end,), 0, self.parent))]
        return [Tag(self.shape, going, self.at + 1, self.parent)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the next characters of the options."""
        return frozenset(text[self.at] for text, _ in self.options)

    def rest(self) -> str | None:
        """Return the cheapest option's remainder."""
        options = [t[self.at :] + s.text + self.shape.end for t, s in self.options if s.cost < UNREACHABLE]
        return min(options, key=len, default=None)


class Prose(Frame):
    """Inside a text answer: `progress` characters of what turns words into calls are written last.

    `begun` is the whole answer while it may still be the beginning of a call, or of what an answer must not
    begin with; None from then on.
    """

    __slots__ = ("begun", "progress", "shape")

    def __init__(self, shape: Text, progress: int, begun: str | None) -> None:
        """Stand where the arguments say."""
        super().__init__(None)
        self.shape = shape
        self.progress = progress
        self.begun = begun

    @property
    def watched(self) -> str:
        """What words do not hold: the text that opens calls, or the name of the mark that does."""
        return self.shape.spelled or self.shape.trigger

    @property
    def is_free(self) -> bool:
        """True when any text may follow."""
        return not self.watched and self.begun is None

    @property
    def is_undecided(self) -> bool:
        """True while what is written may also be the beginning of a call."""
        trigger = self.shape.trigger
        return bool(trigger and self.begun) and not self.shape.spelled and trigger.startswith(self.begun or " ")

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.progress, self.begun)

    def step(self, c: str) -> list[Frame | None]:
        """Take anything, but what words do not hold, and what they do not begin with."""
        if is_mark(c):
            return self._call() if c == self.shape.trigger and self.begun != "" else []
        begun = None if self.begun is None else self.begun + c
        if begun is not None and (begun in self.shape.not_begun or (begun == c and c in self.shape.not_first)):
            return []
        progress = _matched(self.watched, self.progress, c) if self.watched else 0
        if self.watched and progress == len(self.watched):
            # A reply that is nothing but a call is followed by the place of the calls themselves.
            return [] if self.shape.spelled or begun == self.watched else self._call()
        if begun is not None and not self._may_turn(begun):
            begun = None
        return [Prose(self.shape, progress, begun)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return everything that `step` takes."""
        taken = alphabet
        if self.begun is not None:
            taken = frozenset(c for c in alphabet if self.step(c))
        elif self.shape.spelled and self.progress == len(self.watched) - 1:
            taken = alphabet - {self.watched[-1]}
        return taken | {self.shape.trigger} if self.shape.spelled and self.begun != "" else taken

    def may_end(self) -> bool:
        """Say yes: prose may end anywhere."""
        return True

    def rest(self) -> str | None:
        """Return nothing: it is complete."""
        return ""

    def _call(self) -> list[Frame | None]:
        calls = self.shape.calls
        return [] if calls is None else [literal((self.shape.opening,), 0, first_call(calls))]

    def _may_turn(self, begun: str) -> bool:
        texts = (*self.shape.not_begun, *((self.watched,) if self.watched else ()))
        return any(text.startswith(begun) for text in texts)


def first_call(calls: Calls) -> Frame:
    """Return the place before the first call, behind what opens it."""
    return Value(calls.item, Between(calls, 1))


class Between(Frame):
    """Behind a call: another one follows, or the reply is complete."""

    __slots__ = ("count", "shape")

    def __init__(self, shape: Calls, count: int) -> None:
        """Stand behind `count` calls."""
        super().__init__(None)
        self.shape = shape
        self.count = count

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.shape, self.count)

    def step(self, c: str) -> list[Frame | None]:
        """Begin what closes the calls, or what stands before another."""
        out = _behind_first(self.shape.closing, c, None)
        if self.count < self.shape.most:
            another = Value(self.shape.item, Between(self.shape, self.count + 1))
            out += _behind_first(self.shape.separator, c, another)
            if self.shape.trailing:
                out += _behind_first(self.shape.closing + self.shape.trailing, c, None)
        return out

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the first characters of both."""
        both = self.shape.closing[0] + (self.shape.separator[0] if self.count < self.shape.most else "")
        return frozenset(both)

    def rest(self) -> str | None:
        """Return what closes the calls."""
        return self.shape.closing


def _open(shape: Shape, c: str, parent: Frame | None, inside: tuple[Shape, ...]) -> list[Frame | None]:
    """Return the places behind the first character of a value."""
    if isinstance(shape, Either):
        if shape in inside:
            return []
        inside = (*inside, shape)
        return [frame for option in shape.options for frame in _open(option, c, parent, inside)][:MAX_FRAMES]
    if isinstance(shape, Literals):
        going = tuple(t for t in shape.texts if t[0] == c)
        return [literal(going, 1, parent)] if going else []
    if isinstance(shape, Strings):
        return _open_text(shape, c, parent)
    if isinstance(shape, Numbers):
        return [Number(shape, c, parent)] if c == "-" or (c in NUMBER_CHARACTERS and c.isdigit()) else []
    if isinstance(shape, Arrays):
        return [Array(shape, 0, parent)] if c == "[" else []
    if isinstance(shape, Objects):
        return [Object(shape, Seen(), False, parent)] if c == "{" else []
    if isinstance(shape, Parameters):
        members = ParameterList(shape, 0, True, parent)
        return _behind_first(shape.opening, c, members) if shape.opening else members.step(c)
    if isinstance(shape, Ended):
        return _open(shape.item, c, literal((shape.end,), 0, parent), inside)
    return _open_reply(shape, c, parent)


def _open_reply(shape: Shape, c: str, parent: Frame | None) -> list[Frame | None]:
    """Return the places behind the first character of a reply's own parts."""
    if isinstance(shape, Tagged):
        going_tags = tuple(o for o in shape.options if o[0][0] == c)
        return [Tag(shape, going_tags, 1, parent)] if going_tags else []
    if isinstance(shape, Calls):
        return _behind_first(shape.opening, c, first_call(shape))
    if isinstance(shape, Text):
        return Prose(shape, 0, "").step(c)
    return []


def _open_text(shape: Strings, c: str, parent: Frame | None) -> list[Frame | None]:
    """Return the place behind the first character of a text."""
    if not shape.is_raw:
        return [String(shape, 0, None, "", parent)] if c == shape.opening else []
    inside = RawText(shape, parent)
    return _behind_first(shape.opening, c, inside) if shape.opening else inside.step(c)


def _first(shape: Shape, alphabet: frozenset[str], inside: tuple[Shape, ...]) -> frozenset[str]:
    """Return the characters that a value may begin with."""
    if isinstance(shape, Either):
        if shape in inside:
            return frozenset()
        parts = [_first(option, alphabet, (*inside, shape)) for option in shape.options]
        return frozenset().union(*parts)
    if isinstance(shape, Text):
        return Prose(shape, 0, "").legal(alphabet)
    if isinstance(shape, Calls):
        return frozenset(shape.opening[0])
    if isinstance(shape, Literals):
        return frozenset(text[0] for text in shape.texts)
    if isinstance(shape, Tagged):
        return frozenset(text[0] for text, _ in shape.options)
    if isinstance(shape, Ended):
        return _first(shape.item, alphabet, inside)
    if isinstance(shape, Parameters):
        members = ParameterList(shape, 0, True, None)
        return frozenset(shape.opening[0]) if shape.opening else members.legal(alphabet)
    if isinstance(shape, Strings):
        return RawText(shape, None).legal(alphabet) if not shape.opening else frozenset(shape.opening[0])
    return frozenset(c for c in "[{-0123456789" if _open(shape, c, None, ()))


def _behind_first(text: str, c: str, behind: Frame | None) -> list[Frame | None]:
    """Return the place behind the first character of a fixed text that leads to `behind`."""
    return [literal((text,), 1, behind)] if text[0] == c else []


def _matched(text: str, progress: int, c: str) -> int:
    """Return how much of the beginning of `text` is written last, behind one more character (as KMP does)."""
    if not progress:
        return int(c == text[0])
    written = text[:progress] + c
    return next((n for n in range(min(len(written), len(text)), 0, -1) if written.endswith(text[:n])), 0)


def _is_closed(key: str) -> bool:
    """Say whether the text of a key has its closing quote."""
    if len(key) < 2 or key[-1] != '"':
        return False
    return (len(key) - 1 - len(key[:-1].rstrip("\\"))) % 2 == 0


def _may_extend_key(written: str, c: str, reserved: frozenset[str]) -> bool:
    """Say whether `c` can go on an undeclared name; of escapes, those of one letter."""
    if _is_closed(written):
        return c == ":"
    if (len(written) - len(written.rstrip("\\"))) % 2:
        return c in ESCAPED
    if c == '"':
        return json.loads(written + '"') not in reserved
    return c >= " " and c != "\x7f" and not is_mark(c)
