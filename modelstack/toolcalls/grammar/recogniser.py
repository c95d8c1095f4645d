"""A pushdown recogniser of replies: the position in a reply, and the shortest way to complete it.

Both grammar engines use it. Beside llguidance it only follows: it knows when a tool is being chosen, the price of
a completion, and its text. For the token walk of lm-format-enforcer it is the grammar itself.

If a schema leaves open which alternative is being written, several frames are kept side by side, as in GLR
parsing, until characters tell them apart. The frames themselves are in `frames` (literals, strings, numbers),
`raw_text`, `containers` (arrays, objects), `parameter_list` and `replies`.
"""

from __future__ import annotations

from modelstack.toolcalls.grammar.containers import Array, Object, Seen
from modelstack.toolcalls.grammar.frames import (
    NUMBER_CHARACTERS,
    Frame,
    Literal,
    Number,
    String,
    behind_first,
    literal,
)
from modelstack.toolcalls.grammar.parameter_list import ParameterList
from modelstack.toolcalls.grammar.raw_text import RawText
from modelstack.toolcalls.grammar.replies import Prose, Tag, first_call
from modelstack.toolcalls.grammar.shapes import (
    Arrays,
    Calls,
    Literals,
    Numbers,
    Objects,
    Parameters,
    Response,
    Shape,
    Strings,
    Tagged,
    Text,
)
from modelstack.toolcalls.grammar.values import OPENINGS, Opening, Value


def choosing(frame: Frame | None) -> bool:
    """Return whether the next character takes part in choosing a tool or an alternative to a call."""
    if isinstance(frame, Value):
        return isinstance(frame.shape, Response) or (isinstance(frame.shape, Tagged) and frame.shape.is_call)
    if isinstance(frame, Literal):  # the text that leads to a call
        parent = frame.parent
        return isinstance(parent, Value) and isinstance(parent.shape, Tagged) and parent.shape.is_call
    if isinstance(frame, Prose):
        return frame.is_undecided
    return isinstance(frame, Tag) and frame.is_naming


def may_call(frames: tuple[Frame | None, ...]) -> Calls | None:
    """Return the calls that may begin here beside other kinds of reply; None at any other position."""
    only = frames[0] if len(frames) == 1 else None
    if isinstance(only, Value) and isinstance(only.shape, Response) and len(only.shape.options) > 1:
        return next((option for option in only.shape.options if isinstance(option, Calls)), None)
    return None


def names_or_closes(frames: tuple[Frame | None, ...]) -> Tagged | None:
    """Return the calls that may follow `[` if `[]` is legal as well; None at any other position."""
    found: Tagged | None = None
    if len(frames) == 2:
        for frame in frames:
            if isinstance(frame, Value) and isinstance(frame.shape, Tagged) and frame.shape.is_call:
                found = frame.shape
        if any(isinstance(frame, Literal) and frame.parent is None for frame in frames):
            return found
    return None


def step_text(frames: tuple[Frame | None, ...], text: str) -> tuple[Frame | None, ...]:
    """Move all frames over `text`; frames that cannot follow are dropped."""
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


def _open_literal(shape: Literals, c: str, parent: Frame | None) -> list[Frame | None]:
    going = tuple(text for text in shape.texts if text[0] == c)
    return [literal(going, 1, parent)] if going else []


def _open_string(shape: Strings, c: str, parent: Frame | None) -> list[Frame | None]:
    if not shape.is_raw:
        return [String(shape, 0, None, "", parent)] if c == shape.opening else []
    inside = RawText(shape, parent)
    return behind_first(shape.opening, c, inside) if shape.opening else inside.step(c)


def _first_of_string(shape: Strings, alphabet: frozenset[str]) -> frozenset[str]:
    return frozenset(shape.opening[0]) if shape.opening else RawText(shape, None).legal(alphabet)


def _open_number(shape: Numbers, c: str, parent: Frame | None) -> list[Frame | None]:
    return [Number(shape, c, parent)] if c == "-" or (c in NUMBER_CHARACTERS and c.isdigit()) else []


def _open_parameters(shape: Parameters, c: str, parent: Frame | None) -> list[Frame | None]:
    members = ParameterList(shape, 0, True, parent)
    return behind_first(shape.opening, c, members) if shape.opening else members.step(c)


def _first_of_parameters(shape: Parameters, alphabet: frozenset[str]) -> frozenset[str]:
    return frozenset(shape.opening[0]) if shape.opening else ParameterList(shape, 0, True, None).legal(alphabet)


def _open_tag(shape: Tagged, c: str, parent: Frame | None) -> list[Frame | None]:
    going = tuple(option for option in shape.options if option[0][0] == c)
    return [Tag(shape, going, 1, parent)] if going else []


OPENINGS.update(
    {
        Shape: Opening(lambda shape, c, parent: [], lambda shape, alphabet: frozenset()),
        Literals: Opening(_open_literal, lambda shape, alphabet: frozenset(text[0] for text in shape.texts)),
        Strings: Opening(_open_string, _first_of_string),
        Numbers: Opening(_open_number, lambda shape, alphabet: frozenset("-0123456789")),
        Arrays: Opening(
            lambda shape, c, parent: [Array(shape, 0, parent)] if c == "[" else [],
            lambda shape, alphabet: frozenset("["),
        ),
        Objects: Opening(
            lambda shape, c, parent: [Object(shape, Seen(), False, parent)] if c == "{" else [],
            lambda shape, alphabet: frozenset("{"),
        ),
        Parameters: Opening(_open_parameters, _first_of_parameters),
        Tagged: Opening(_open_tag, lambda shape, alphabet: frozenset(text[0] for text, _ in shape.options)),
        Calls: Opening(
            lambda shape, c, parent: behind_first(shape.opening, c, first_call(shape)),
            lambda shape, alphabet: frozenset(shape.opening[0]),
        ),
        Text: Opening(
            lambda shape, c, parent: Prose(shape, 0, "").step(c),
            lambda shape, alphabet: Prose(shape, 0, "").legal(alphabet),
        ),
    }
)
