"""The written form of calls as data: what a grammar writes, a reader reads and history is rendered in.

    opening  name_prefix NAME name_suffix ARGUMENTS call_end  [separator ...]  closing

A convention whose calls are an object of name and arguments differs from another in these texts only. How values
are spelled is its `Notation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from modelstack.toolcalls.marks import Marks


@dataclass(frozen=True, slots=True)
class Fields:
    """Arguments that are no JSON object: a list of named values."""

    opening: str
    key_prefix: str
    key_suffix: str
    value_end: str
    separator: str
    closing: str


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written; by default as compact JSON."""

    comma: str = ","
    colon: str = ":"
    true: str = "true"
    false: str = "false"
    null: str = "null"
    quote: str | None = None
    """Text around a string that is written as it is, without escapes; None: JSON's strings."""
    fields: Fields | None = None
    """How the arguments themselves are written where they are no JSON object."""
    raw_values: bool = False
    """Strings among the fields stand bare, up to the end of their value; below fields everything is JSON."""
    bare_keys: bool = False
    """Keys of objects stand without quotes, so they must be names."""

    @property
    def is_json(self) -> bool:
        """Whether arguments are JSON but for blanks."""
        return self.fields is None and self.quote is None and not self.bare_keys and self.true == "true"


COMPACT = Notation()
SPACED = Notation(comma=", ", colon=": ")
"""As Python's `json.dumps` and so most chat templates write it."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How calls, answers and abstentions are told apart and written. See the head of this file for the texts."""

    opening: str
    name_prefix: str
    name_suffix: str
    """Its first character is none of a name: it ends the name."""
    call_end: str
    separator: str
    closing: str
    """Not empty: behind it the reply is complete."""
    notation: Notation = COMPACT
    trigger: str | None = None
    """The part of `opening` with which words turn into calls; None: calls stand alone."""
    most_calls: int | None = None
    """Calls that one reply may hold at the most, where the model was taught a limit."""
    abstention: str | None = None
    """A reply that says: none of the tools; None: words say it."""
    result_prefix: str = '{"result": '
    """Opens a structured answer, which ends with a brace."""
    not_first: str = "[{ \t\r\n\v\f"
    """Characters that words must not begin with."""
    not_first_without_tools: str = " \t\r\n\v\f"
    not_begun: tuple[str, ...] = ()
    """Longer beginnings that words must not have: a call in a form that the model was not taught."""
    trigger_name: str = ""
    """Name of `trigger` where a bound form has a stand-in for it."""

    def bound(self, marks: Marks) -> CallForm:
        """Return this form with stand-ins for its special tokens."""
        if not marks.ids:
            return self
        form = self.mapped(marks.bound)
        return replace(form, trigger_name=marks.names.get(form.trigger or "", ""))

    def mapped(self, change: Callable[[str], str]) -> CallForm:
        """Return this form with each of its texts changed."""
        notation = _mapped(self.notation, change)
        if notation.fields is not None:
            notation = replace(notation, fields=_mapped(notation.fields, change))
        return replace(_mapped(self, change), notation=notation)

    def call_limit(self, limit: int) -> int:
        """Return the most calls of a reply under a format's own limit."""
        return limit if self.most_calls is None else min(limit, self.most_calls)


_Record = TypeVar("_Record", CallForm, Notation, Fields)


def _mapped(record: _Record, change: Callable[[str], str]) -> _Record:
    texts = {f.name: getattr(record, f.name) for f in fields(record)}
    return replace(record, **{key: change(text) for key, text in texts.items() if isinstance(text, str)})
