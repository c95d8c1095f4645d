"""The written form of calls as data, shared by grammars, the reader of replies and the writer of history.

    opening  name_prefix NAME name_suffix ARGUMENTS call_end  [separator ...]  closing

Conventions whose arguments are a JSON object differ only in these texts and in the blanks of their JSON
(`Notation`). Others write arguments parameter by parameter (`ParameterForm`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from modelstack.toolcalls.convention import BLANKS, NOT_FIRST_IN_TEXT, render_json
from modelstack.toolcalls.conventions.parameters import ParameterForm
from modelstack.toolcalls.marks import Marks


@dataclass(frozen=True, slots=True)
class Notation:
    """The separators of JSON; by default without blanks."""

    comma: str = ","
    colon: str = ":"

    def written(self, value: Any) -> str:
        """Return JSON with these separators.

        Raises:
            ValueError: the value contains NaN, infinity, or a lone surrogate.
        """
        return render_json(value, comma=self.comma, colon=self.colon)


COMPACT = Notation()
SPACED = Notation(comma=", ", colon=": ")
"""The separators of Python's `json.dumps` and of most chat templates."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """The written form of calls, answers and abstentions. The texts are explained at the top of this file."""

    opening: str
    name_prefix: str
    name_suffix: str
    """Text after the name; its first character cannot be part of a name."""
    call_end: str
    separator: str
    closing: str
    """Text after the last call; not empty, because it completes the reply."""
    trailing: str = ""
    """Optional text after `closing`, if the separator begins with both: the decision about another call then falls
    at its beginning, not at the line break."""
    notation: Notation = COMPACT
    parameters: ParameterForm | None = None
    """Form of arguments that are not a JSON object."""
    trigger: str | None = None
    """The part of `opening` that turns words into calls; None: a reply of calls has no words."""
    most_calls: int | None = None
    """Maximum number of calls in a reply, if the model was taught a limit."""
    abstention: str | None = None
    """Reply that rejects all tools; None: the model abstains in words."""
    result_prefix: str = '{"result": '
    """Opening of a structured answer, which ends with a brace."""
    not_first: str = NOT_FIRST_IN_TEXT
    """Characters that words must not begin with."""
    not_first_without_tools: str = BLANKS
    not_begun: tuple[str, ...] = ()
    """Longer forbidden beginnings of words: a call in a form that the model was not taught."""
    trigger_name: str = ""
    """Name of `trigger` if a bound form has a stand-in for it."""

    def bound(self, marks: Marks) -> CallForm:
        """Return this form with stand-ins for its special tokens."""
        if not marks.ids:
            return self
        form = self.mapped(marks.bound)
        parameters = None if self.parameters is None else self.parameters.bound(marks)
        return replace(form, trigger_name=marks.names.get(form.trigger or "", ""), parameters=parameters)

    def mapped(self, change: Callable[[str], str]) -> CallForm:
        """Return this form with each of its own texts changed; other fields are kept."""
        texts = {f.name: getattr(self, f.name) for f in fields(self)}
        form = replace(self, **{key: change(text) for key, text in texts.items() if isinstance(text, str)})
        return form if self.parameters is None else replace(form, parameters=self.parameters.mapped(change))

    def call_limit(self, limit: int) -> int:
        """Return the maximum number of calls in a reply, given the limit of a format."""
        return limit if self.most_calls is None else min(limit, self.most_calls)
