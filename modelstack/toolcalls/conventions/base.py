"""What a convention is: how a model was taught to write calls, and to be shown tools and results.

A convention is data (`CallForm`), from which the grammar engines make their grammars, a writer for history and a
reader for replies. Tools are shown by the model's own chat template, which also frames calls and results;
`recognition` proves that template and convention write the same.
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
from modelstack.toolcalls.conventions.writing import write_json

FENCES = ("```",)
"""How models begin a call that they write as a block of code, whatever they were taught."""


CALL_ID = "000000000"
"""Id of each call in what templates are given: results come in the order of the calls."""


@dataclass(frozen=True, slots=True)
class Convention:
    """One convention. See `CallForm` for how its replies are written."""

    name: str
    about: str
    """A phrase for people: which models write what."""
    form: CallForm
    marks: tuple[str, ...] = ()
    """Texts of the form that are single special tokens in many vocabularies; elsewhere they are plain text."""
    behind_words: str = "\n"
    """Between words and the calls behind them, in history."""
    results: tuple[ResultForm, ...] = (ResultForm(),)
    """Forms of a tool's result; the first that a model's template writes is taken. Most templates put their own
    marks around the content alone."""
    template_form: CallForm | None = None
    """How templates write calls in history where nothing could read it back: texts without escapes."""
    told_by: tuple[str, ...] = ()
    """Texts in front of a request that give the convention away where a template leaves the writing of calls to
    the caller; the form's trigger does, too."""
    before_tools: str = ""
    """Sentence before the tools that models were taught to call with; the template leaves it out if there is a
    system prompt."""
    ends: tuple[str, ...] = ()
    """Special tokens with which models end a reply of calls, besides those that end any reply."""
    thought_marks: tuple[str, str] = ("<think>", "</think>")
    """Texts around a thought."""
    after_thought: str = "\n\n"
    """Between a thought and the reply; by default as in the templates of Qwen3, DeepSeek-R1 and SmolLM3."""
    reader: Callable[[str, ResponseFormat], ParsedResponse] | None = None
    """Reads a reply; None: by the form."""

    def ending(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return a vocabulary in which the tokens of `ends` that it has as special ones end a reply."""
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
        """Write calls as the grammar accepts them; with a bound `form`, marks are its stand-ins.

        Raises:
            ValueError: a value is no JSON (NaN, infinity, lone surrogate).
        """
        form = form or self.form
        schemas = {tool.name: tool.parameters for tool in tools}
        written = []
        for name, arguments in calls:
            schema = schemas.get(name)
            value = arguments if schema is None else in_schema_order(arguments, schema, schema)
            text = write_json(value, form.notation) if form.parameters is None else form.parameters.written(value)
            written.append(f"{form.name_prefix}{name}{form.name_suffix}{text}{form.call_end}")
        return form.opening + form.separator.join(written) + form.closing

    def parse(self, text: str, response_format: ResponseFormat) -> ParsedResponse:
        """Read a reply.

        Raises:
            ResponseParseError: the reply has none of the forms that `response_format` allows.
        """
        if self.reader is not None:
            return self.reader(text, response_format)
        return read_reply(text, response_format, self.form)


def function_schema(tool: ToolSpec) -> dict[str, Any]:
    """Return a tool as chat templates take it: OpenAI's description of a function, as plain JSON."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.loads(json.dumps({"type": "function", "function": function}, default=dict))
