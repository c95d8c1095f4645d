"""Rendering of conversations for a model, in the convention it was trained in or in ours.

Both define how tools are shown, how a call and a result look in the conversation, and what precedes a reply. In
ours the tools are one line each in the system turn. In a model's own convention its chat template shows them; a
tool's description stays content there too.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from modelstack.errors import UserError
from modelstack.tokenizer.chat import ChatEncoder, Role
from modelstack.tokenizer.chat_template import TemplateOwner, chat_encoder
from modelstack.tokenizer.template_sandbox import TemplateError
from modelstack.tokenizer.tool_template import ToolTurns
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.conventions import CONVENTIONS, JSON_LIST, Convention
from modelstack.toolcalls.conventions.base import function_schema
from modelstack.toolcalls.conventions.form import CallForm
from modelstack.toolcalls.conventions.recognition import Recognised, recognise
from modelstack.toolcalls.marks import Marks
from modelstack.toolcalls.prompt import RESULT, new_tools_prompt, tools_prompt

AUTO = "auto"
UNKNOWN_TOOL = "unknown"
"""Placeholder for a tool's name in a result that has none, as in Gemma 4's template."""
NamedArguments = tuple[str, Mapping[str, Any]]
"""Name of a tool and arguments of a call of it."""
FORMATS_KEPT = 16
"""Number of tool sets whose encoders are kept; rendering one takes some milliseconds."""


class Manner(Protocol):
    """Rendering of conversations for a model."""

    @property
    def convention(self) -> Convention:
        """Convention in which replies are written."""
        ...

    @property
    def why(self) -> str:
        """Reason for this convention."""
        ...

    @property
    def marks(self) -> Mapping[str, int]:
        """Special tokens by their stand-ins in `said`, `result` and `retry`."""
        ...

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        ...

    def encoder(self, tools: Sequence[ToolSpec], *, thinks: bool = False) -> ChatEncoder:
        """Return the encoder of conversations with these tools; `thinks` begins their first reply with a thought.

        Raises:
            UserError: the model's template cannot show them.
        """
        ...

    def system_text(self, said: Sequence[str], tools: Sequence[ToolSpec], *, structured: bool) -> str:
        """Return the system prompt of a conversation."""
        ...

    def new_tools(self, tools: Sequence[ToolSpec]) -> tuple[Role, str]:
        """Return the turn that announces tools added or changed during a conversation."""
        ...

    def said(self, words: str, calls: Sequence[NamedArguments]) -> str:
        """Return a reply from elsewhere in the form in which this model would have written it.

        Raises:
            ValueError: an argument is not JSON (NaN, infinity).
        """
        ...

    def result(self, name: str, content: str) -> str:
        """Return a tool's result as text of the conversation."""
        ...

    def retry(self, name: str | None, content: str) -> str:
        """Return the error of a call as text of the conversation, in place of its result."""
        ...

    def reply_opening(self, encoder: ChatEncoder, previous: Role, *, thinks: bool) -> list[int]:
        """Return the tokens that precede a reply after a turn of role `previous`."""
        ...


class OurManner:
    """Fulfils `Manner` for the convention that modelstack teaches."""

    convention = JSON_LIST
    marks: Mapping[str, int] = {}

    def __init__(self, encoder: ChatEncoder, why: str = "", *, abstain: bool = False) -> None:
        """Encode turns with `encoder`; `abstain` tells the model that it may reply `[]`."""
        self.why = why
        self.end_ids = frozenset(encoder.vocabulary.end_ids)
        self._encoder = encoder
        self._abstain = abstain

    def encoder(self, tools: Sequence[ToolSpec], *, thinks: bool = False) -> ChatEncoder:
        """Return the one encoder: the tools are content."""
        return self._encoder

    def system_text(self, said: Sequence[str], tools: Sequence[ToolSpec], *, structured: bool) -> str:
        """Return the system texts, then the tools with instructions for calling them."""
        shown = [tools_prompt(tools, structured=structured, abstain=self._abstain)] if tools else []
        return "\n\n".join([*said, *shown])

    def new_tools(self, tools: Sequence[ToolSpec]) -> tuple[Role, str]:
        """Return a system turn."""
        return "system", new_tools_prompt(tools)

    def said(self, words: str, calls: Sequence[NamedArguments]) -> str:
        """Return the calls, or the words if there are none."""
        return _rendered(calls, self.convention) or words

    def result(self, name: str, content: str) -> str:
        """Return the content after the tool's name."""
        return f"{name}: {content}"

    def retry(self, name: str | None, content: str) -> str:
        """Return the content."""
        return content

    def reply_opening(self, encoder: ChatEncoder, previous: Role, *, thinks: bool) -> list[int]:
        """Return the opening of the chat format."""
        return encoder.generation_ids(previous)


class TaughtManner:
    """Fulfils `Manner` for a convention that the model's chat template writes."""

    def __init__(self, engine: TemplateOwner, recognised: Recognised, turns: ToolTurns) -> None:
        """Prepare for an engine's vocabulary."""
        vocabulary = engine.vocabulary
        self.convention = recognised.convention
        self.why = recognised.why
        bound = Marks(vocabulary, self.convention.marks)
        self.marks: Mapping[str, int] = bound.ids
        self.end_ids = frozenset(self.convention.ending(vocabulary).end_ids)
        self._form = self.convention.form.bound(bound)
        self._engine = engine
        self._turns = turns
        self._result = recognised.result.bound(bound)
        self._special_names = [
            vocabulary.token_bytes[token].decode("utf-8", "replace") for token in vocabulary.special_ids
        ]
        self._plain_marks = recognised.plain_marks(vocabulary)
        self._encoders: OrderedDict[str, ChatEncoder] = OrderedDict()

    def encoder(self, tools: Sequence[ToolSpec], *, thinks: bool = False) -> ChatEncoder:
        """Return the encoder for these tools: the template shows them before the first turn.

        Raises:
            UserError: the model's template refuses them.
        """
        shown = [function_schema(spec) for spec in tools]
        key = json.dumps([shown, thinks])
        if key not in self._encoders:
            try:
                chat_format = self._turns.format_for(shown, self._special_names, thinks=thinks)
            except TemplateError as error:
                raise UserError(
                    f"the model's chat template cannot show these tools: {error}. With convention=ours they are "
                    "shown in our own way."
                ) from error
            engine = self._engine
            self._encoders[key] = ChatEncoder(chat_format, engine.vocabulary, engine.encode_template)
            if len(self._encoders) > FORMATS_KEPT:
                self._encoders.popitem(last=False)
        self._encoders.move_to_end(key)
        return self._encoders[key]

    def system_text(self, said: Sequence[str], tools: Sequence[ToolSpec], *, structured: bool) -> str:
        """Return the system texts, and how to end; the template shows the tools after them."""
        texts = [*said, RESULT] if tools and structured else [*said]
        sentence = self.convention.before_tools if tools and texts else ""
        return "\n\n".join([*texts, sentence] if sentence and not texts[-1].endswith(sentence) else texts)

    def new_tools(self, tools: Sequence[ToolSpec]) -> tuple[Role, str]:
        """Return a user turn with an example of a call; few templates have a system turn after other turns."""
        example = self.convention.render_calls([("tool", {"key": "value"})])
        return "user", f"{new_tools_prompt(tools)}\nA call is written so:\n{example}"

    def said(self, words: str, calls: Sequence[NamedArguments]) -> str:
        """Return words and calls, with stand-ins for the marks."""
        written = _rendered(calls, self.convention, self._form)
        words = _without_surrogates(words)
        words = words.strip() if written else words
        return words + self.convention.behind_words + written if words and written else words + written

    def result(self, name: str, content: str) -> str:
        """Return the content in the template's form; marks that are plain text are broken up in it."""
        content = _without_surrogates(content)
        for mark in self._plain_marks:
            content = content.replace(mark, f"{mark[0]} {mark[1:]}")
        return self._result.written(_without_surrogates(name), content)

    def retry(self, name: str | None, content: str) -> str:
        """Return the content as a result."""
        return self.result(name or UNKNOWN_TOOL, content)

    def reply_opening(self, encoder: ChatEncoder, previous: Role, *, thinks: bool) -> list[int]:
        """Return the opening of the template, with an empty thought if the model would begin one unasked."""
        opening = encoder.generation_ids(previous, thinks=thinks)
        return opening if thinks else opening + encoder.control_ids(self._turns.closed_thought)


def manner_for(engine: TemplateOwner, convention: str, *, is_ours: bool, abstain: bool) -> Manner:
    """Return the rendering of conversations for a model.

    Args:
        engine: The model.
        convention: `auto`, or the name of a convention.
        is_ours: Whether an adapter or a prior of modelstack is loaded; both are trained in our convention.
        abstain: Whether the model may reply that no tool fits.

    Raises:
        UserError: there is no such convention, or the model's template does not write calls in it.
    """
    if convention != AUTO and convention not in CONVENTIONS:
        raise UserError(f"convention {convention!r} is not known; use one of {', '.join((AUTO, *CONVENTIONS))}.")
    if convention == AUTO and is_ours:
        found = Recognised(JSON_LIST, "an adapter or a prior is loaded, which modelstack teaches in it")
    else:
        try:
            found = recognise(engine.chat_template, engine.vocabulary, name=convention)
        except TemplateError as error:
            raise UserError(str(error)) from error
    if found.turns is not None:
        return TaughtManner(engine, found, found.turns)
    encoder = chat_encoder(engine)
    return OurManner(encoder, found.why, abstain=abstain)


def _rendered(calls: Sequence[NamedArguments], convention: Convention, form: CallForm | None = None) -> str:
    """Return calls in the form of a convention; empty without any."""
    if not calls:
        return ""
    return convention.render_calls([(_without_surrogates(name), values) for name, values in calls], form=form)


def _without_surrogates(text: str) -> str:
    """Return text without surrogates, so that none passes for a mark."""
    return text.encode("utf-8", "replace").decode()
