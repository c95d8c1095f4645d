"""The written form of calls as data: what a grammar writes, a reader reads and history is rendered in.

    opening  name_prefix NAME name_suffix ARGUMENTS call_end  [separator ...]  closing

Conventions whose arguments are a JSON object differ from each other in these texts only, and in the blanks of
their JSON (`Notation`). Others write parameter by parameter (`ParameterForm`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from modelstack.toolcalls.conventions.parameters import ParameterForm
from modelstack.toolcalls.marks import Marks


@dataclass(frozen=True, slots=True)
class Notation:
    """What stands between the parts of JSON; by default nothing but the signs themselves."""

    comma: str = ","
    colon: str = ":"


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
    trailing: str = ""
    """May follow `closing` where the separator begins with both: so a model decides on another call where that
    begins, not by a line's end."""
    notation: Notation = COMPACT
    parameters: ParameterForm | None = None
    """How arguments are written where they are no JSON object."""
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
        parameters = None if self.parameters is None else self.parameters.bound(marks)
        return replace(form, trigger_name=marks.names.get(form.trigger or "", ""), parameters=parameters)

    def mapped(self, change: Callable[[str], str]) -> CallForm:
        """Return this form with each of its own texts changed; values stay as they are."""
        texts = {f.name: getattr(self, f.name) for f in fields(self)}
        form = replace(self, **{key: change(text) for key, text in texts.items() if isinstance(text, str)})
        return form if self.parameters is None else replace(form, parameters=self.parameters.mapped(change))

    def call_limit(self, limit: int) -> int:
        """Return the most calls of a reply under a format's own limit."""
        return limit if self.most_calls is None else min(limit, self.most_calls)
