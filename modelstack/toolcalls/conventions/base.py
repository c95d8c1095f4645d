"""The type of a convention: how a model was taught to write calls and to see tools and results.

A convention is data (`CallForm`) from which the engines derive grammars, a writer for history and a reader for
replies. The model's own chat template shows the tools and frames calls and results; `recognition` proves that
template and convention agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat, ToolSpec, in_schema_order
from modelstack.toolcalls.conventions.form import CallForm
from modelstack.toolcalls.conventions.reading import read_reply
from modelstack.toolcalls.conventions.results import ResultForm

FENCES = ("```",)
"""Beginnings of a code block, in which models write calls whatever they were taught."""
CALL_ID = "000000000"
"""Id of every call given to templates: results come in the order of the calls."""


@dataclass(frozen=True, slots=True)
class Convention:
    """A convention. `CallForm` describes how its replies are written."""

    name: str
    about: str
    """Description for people: the models, and the form that they write."""
    form: CallForm
    marks: tuple[str, ...] = ()
    """Texts of the form that are single special tokens in many vocabularies; elsewhere they are plain text."""
    behind_words: str = "\n"
    """Text between words and the calls after them, in history."""
    results: tuple[ResultForm, ...] = (ResultForm(),)
    """Forms of a tool's result; the first that a model's template writes is used. Most templates put their own
    marks around the plain content."""
    template_form: CallForm | None = None
    """Form in which templates write calls in history, if it cannot be parsed back: texts without escapes."""
    told_by: tuple[str, ...] = ()
    """Texts in a prompt that identify the convention if a template leaves the writing of calls to the caller; the
    trigger of the form identifies it too."""
    before_tools: str = ""
    """Sentence before the tools that models were trained with; the template omits it after a system prompt."""
    ends: tuple[str, ...] = ()
    """Special tokens that end a reply of calls, in addition to those that end any reply."""
    thought_marks: tuple[str, str] = ("<think>", "</think>")
    """Texts around a thought."""
    after_thought: str = "\n\n"
    """Text between a thought and the reply; the default is that of Qwen3, DeepSeek-R1 and SmolLM3."""
    reader: Callable[[str, ResponseFormat], ParsedResponse] | None = None
    """Parses a reply; None: parse by the form."""

    def ending(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return a vocabulary in which the special tokens among `ends` end a reply."""
        names = {name.encode() for name in self.ends}
        others = sorted(vocabulary.special_ids - set(vocabulary.end_ids))
        found = [token for token in others if vocabulary.token_bytes[token] in names]
        return replace(vocabulary, end_ids=(*vocabulary.end_ids, *found), fingerprint="") if found else vocabulary

    def render_calls(
        self,
        calls: Sequence[tuple[str, Mapping[str, Any]]],
        tools: Sequence[ToolSpec] = (),
        form: CallForm | None = None,
    ) -> str:
        """Return calls as the grammar accepts them; with a bound `form`, marks are its stand-ins.

        Raises:
            ValueError: a value is not JSON (NaN, infinity, lone surrogate).
        """
        form = form or self.form
        schemas = {tool.name: tool.parameters for tool in tools}
        written = []
        for name, arguments in calls:
            schema = schemas.get(name)
            value = arguments if schema is None else in_schema_order(arguments, schema, schema)
            text = form.notation.written(value) if form.parameters is None else form.parameters.written(value)
            written.append(f"{form.name_prefix}{name}{form.name_suffix}{text}{form.call_end}")
        return form.opening + form.separator.join(written) + form.closing

    def parse(self, text: str, response_format: ResponseFormat) -> ParsedResponse:
        """Parse a reply.

        Raises:
            ResponseParseError: the reply has none of the forms that `response_format` allows.
        """
        if self.reader is not None:
            return self.reader(text, response_format)
        return read_reply(text, response_format, self.form)


def function_schema(tool: ToolSpec) -> dict[str, Any]:
    """Return a tool in the form that chat templates take: OpenAI's function description as plain JSON."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.loads(json.dumps({"type": "function", "function": function}, default=dict))
