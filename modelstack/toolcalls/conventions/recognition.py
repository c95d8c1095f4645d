"""Recognition of a model's convention from its chat template, proved by the template's own rendering.

Each convention writes a probe call, and the template renders the same call. If both are identical in conversations
with one call and several, with results and replies, the convention is the model's own. A template that raises,
does not terminate or writes another form gets the convention of modelstack, with the reason.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.tokenizer.template_sandbox import FAILS, TemplateError
from modelstack.tokenizer.tool_template import ToolTurns, learn_tool_turns
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.conventions import CONVENTIONS, JSON_LIST, Convention
from modelstack.toolcalls.conventions.base import CALL_ID, function_schema
from modelstack.toolcalls.conventions.form import SPACED
from modelstack.toolcalls.conventions.results import ResultForm

_TEXT, _COUNT, _FLAG, _TAGS = "text", "count", "exact", "tags"
PROBE = ToolSpec(
    "look_up_probe",
    "Looks something up.",
    {
        "type": "object",
        "properties": {
            _TEXT: {"type": "string", "description": "What to look for."},
            _COUNT: {"type": "integer", "description": "How many results."},
            _FLAG: {"type": "boolean", "description": "Whether all words must be there."},
            _TAGS: {"type": "array", "items": {"type": "string"}, "description": "Tags of the results."},
        },
        "required": [_TEXT],
    },
)
_TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


@dataclass(frozen=True, slots=True)
class Recognised:
    """The convention used with a model, and the reason for it."""

    convention: Convention
    why: str
    turns: ToolTurns | None = None
    """Texts that the model's template puts around tools, calls and results; None: tools are shown in modelstack's
    way."""
    result: ResultForm = ResultForm()
    """Written form of a tool's result, inside the texts of the template."""

    def plain_marks(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """Return the marks around results that content could forge.

        Those that are not special tokens of a vocabulary.
        """
        if self.turns is None:
            return ()
        learnt = self.turns.learnt
        pairs = [pair for pair in learnt.opens if "tool" in pair and "system" not in pair]
        texts = [*(learnt.opens[pair] for pair in pairs), learnt.generation["tool"], *self.result.texts]
        special = {vocabulary.token_bytes[token].decode("utf-8", "replace") for token in vocabulary.special_ids}
        return tuple(sorted({mark for text in texts for mark in _TAG.findall(text)} - special))


def recognise(template: str | None, vocabulary: Vocabulary, *, name: str = "auto") -> Recognised:
    """Return the convention of a model's chat template.

    Args:
        template: The chat template; None if the model has none.
        vocabulary: Provides the names of the tokens that begin and end a text.
        name: Name of the only convention to try; "auto" tries all and takes the first that fits.

    Raises:
        KeyError: there is no convention with this name.
        TemplateError: the template does not write calls in the named convention.
    """
    if name == JSON_LIST.name:
        return Recognised(JSON_LIST, "it was asked for")
    if not template:
        return _none_of_template("the model has no chat template", name)
    tried = [c for c in CONVENTIONS.values() if c is not JSON_LIST] if name == "auto" else [CONVENTIONS[name]]
    bos, eos = _token(vocabulary, vocabulary.bos_id), _token(vocabulary, next(iter(vocabulary.end_ids), None))
    reasons: list[str] = []
    for in_content, why in (
        (False, "the chat template writes calls in it"),
        (True, "the chat template describes it"),
    ):
        for convention in tried:
            found = _learnt(template, convention, bos, eos, in_content=in_content)
            if isinstance(found, str):
                reasons.append(found)
                continue
            turns, result = found
            return Recognised(convention, f"{why}; {turns.note}" if turns.note else why, turns, result)
    return _none_of_template(max(reasons, key=reasons.count), name)


def _none_of_template(reason: str, name: str) -> Recognised:
    if name != "auto":
        raise TemplateError(f"convention {name!r} cannot be used: {reason}")
    return Recognised(JSON_LIST, f"no other convention was recognised: {reason}")


def _learnt(
    template: str, convention: Convention, bos: str, eos: str, *, in_content: bool
) -> tuple[ToolTurns, ResultForm] | str:
    """Return the turns and the result form of the first probe that the template writes, or why there is none."""
    reasons: list[str] = []
    manners = [(False, "")] if in_content else list(itertools.product((False, True), (None, "")))
    for result, (as_text, content) in itertools.product(convention.results, manners):
        dialect = ProbeDialect(convention, result, as_text=as_text, content=content, in_content=in_content)
        try:
            turns = learn_tool_turns(template, dialect, bos_token=bos, eos_token=eos)
        except TemplateError as error:
            reasons.append(str(error))
            continue
        tells = tuple(text for text in (convention.form.trigger, *convention.told_by) if text)
        if in_content and not any(text in turns.learnt.starts["user"] for text in tells):
            return f"the chat template does not mention {' or '.join(tells) or convention.form.opening!r}"
        return turns, result
    return min(reasons, key=lambda reason: (reason.startswith(FAILS), "does not write" in reason))


@dataclass(frozen=True, slots=True)
class ProbeDialect:
    """Probes one convention; a `modelstack.tokenizer.tool_template.Dialect`."""

    convention: Convention
    result_form: ResultForm = ResultForm()
    as_text: bool = False
    """Whether arguments are given as JSON text, as some templates require."""
    content: str | None = None
    """Content of a message that consists of calls only."""
    in_content: bool = False
    """Whether calls are part of a message's content, for templates that leave their writing to the caller."""

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        """Tools for probes."""
        return (function_schema(PROBE),)

    @property
    def parallel(self) -> bool:
        """Whether one reply may hold several calls."""
        return self.convention.form.most_calls != 1

    def call(self, texts: Sequence[str]) -> tuple[Mapping[str, Any], str]:
        """Return a message with one call for each text, and its form in the convention."""
        form = self.convention.template_form
        # Python's spelling of a text in a list depends on the quotes inside it.
        calls = [
            (PROBE.name, {_TEXT: text, _COUNT: 3, _FLAG: True, _TAGS: ["a", "b" if form else text]})
            for text in texts
        ]
        written = self.convention.render_calls(calls, form=form)
        if self.in_content:
            return {"role": "assistant", "content": written}, written
        return call_message(calls, as_text=self.as_text, content=self.content), written

    def result(self, text: str, number: int) -> tuple[Mapping[str, Any], str]:
        """Return the message of a result, and its form in the convention."""
        message = {"role": "tool", "name": PROBE.name, "content": text, "tool_call_id": CALL_ID}
        return message, self.result_form.written(PROBE.name, text)


def call_message(
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    as_text: bool = False,
    content: str | None = None,
) -> dict[str, Any]:
    """Return a message with calls in the form that chat templates take."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {
                "type": "function",
                "id": CALL_ID,
                "function": {
                    "name": name,
                    "arguments": SPACED.written(arguments) if as_text else dict(arguments),
                },
            }
            for name, arguments in calls
        ],
    }


def _token(vocabulary: Vocabulary, token: int | None) -> str:
    return "" if token is None else vocabulary.token_bytes[token].decode("utf-8", "replace")
