"""Decoding of replies in a convention: told as they come, parsed, and drawn again where a schema is violated.

The grammar enforces almost all of JSON Schema. What it cannot enforce is checked when the reply is complete, and
another reply is drawn if it is violated.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelstack.inference.engine import Engine, GenerateRequest, Generation
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat, ResponseParseError
from modelstack.toolcalls.conventions import JSON_LIST, Convention
from modelstack.toolcalls.conventions.form import CallForm
from modelstack.toolcalls.conventions.reading import words_end
from modelstack.toolcalls.free_form import read_free_reply
from modelstack.toolcalls.grammar.compiler import CompiledGrammar

Structured = Literal["bare", "wrapped"]
"""Whether a structured answer is told without the convention's wrapper around its value, or with it."""
Tell = Callable[[str, bool], None]
"""Receives a piece of a reply's text, and whether it is part of the calls."""
MAX_RESAMPLES = 3
"""Further attempts after a reply that violates schema keywords checked after decoding."""
RESAMPLE_TEMPERATURE = 0.7
"""Minimum temperature of further attempts; a greedy reply would fail its check again."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A generation with its text and parsed content."""

    generation: Generation
    text: str
    """Text of the reply, cut before a stop string."""
    parsed: ParsedResponse | None
    """Parsed content; None if the reply was cut off before it was complete."""
    stopped_by: str | None = None
    """Text of `stop` that ended the reply; None if none did."""


def decode_reply(
    engine: Engine,
    request: GenerateRequest,
    wanted: ResponseFormat,
    grammar: CompiledGrammar | None,
    convention: Convention,
    *,
    stop: Sequence[str] = (),
    structured: Structured | None = None,
    tell: Tell | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Reply:
    """Decode a reply; again if it violates a schema keyword that the grammar cannot enforce.

    Args:
        engine: The model.
        request: Prompt and parameters; its grammar is replaced.
        wanted: Legal replies.
        grammar: Their compiled form; None: replies are not masked, and read leniently.
        convention: Convention in which the reply is written.
        stop: Texts that end the reply before them.
        structured: Whether and how a structured answer is told.
        tell: Receives the text of the first attempt only, because told text cannot be taken back.
        cancelled: Called between tokens; True ends the reply.

    Raises:
        EngineError: The backend failed, or the prompt does not fit.
        GrammarError: The grammar refused a token that its own mask allowed.
    """
    sampling, attempt = request.sampling, 0
    while True:
        hears = tell if attempt == 0 else None
        listener = ReplyListener(
            engine.vocabulary, stop, hears, convention, None if grammar is None else structured
        )
        generation = engine.generate(
            replace(request, grammar=None if grammar is None else grammar.start(), sampling=sampling),
            on_tokens=listener.hear,
            cancelled=lambda heard=listener: heard.stopped_by is not None or cancelled(),
        )
        text = listener.text
        if grammar is None:
            return Reply(generation, text, read_free_reply(text, wanted, convention), listener.stopped_by)
        reply = _masked_reply(generation, text, grammar, listener.stopped_by)
        if reply.parsed is None or attempt == MAX_RESAMPLES or cancelled() or not grammar.violations(reply.parsed):
            return reply
        attempt += 1
        temperature = max(sampling.temperature, RESAMPLE_TEMPERATURE)
        sampling = replace(sampling, temperature=temperature, seed=(request.sampling.seed or 0) + attempt)


def is_cut_short(reply: Reply, vocabulary: Vocabulary, convention: Convention, *, is_masked: bool) -> bool:
    """Return whether the token limit ended a reply inside its answer or its last call.

    A reply that was closed after a whole call only lacks the next one, for which there was no room.

    Args:
        reply: The parsed reply.
        vocabulary: The vocabulary of the model.
        convention: The convention in which its calls are written.
        is_masked: Whether a grammar masked it: calls are whole then, unless the grammar had to close the last one.
    """
    generation = reply.generation
    if not is_masked or reply.parsed is None or reply.parsed.kind != "calls":
        return generation.finish_reason == "length" or generation.closed_early
    if generation.closed_at is None:
        return False
    added = vocabulary.decode(generation.ids[generation.closed_at :]).strip()
    return not convention.form.closing.endswith(added)


class ReplyListener:
    """Receives a reply's tokens, tells its text as it comes, and looks for stop strings in its words."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: Sequence[str],
        tell: Tell | None,
        convention: Convention | None = JSON_LIST,
        structured: Structured | None = None,
    ) -> None:
        """Listen for `stop`.

        Args:
            vocabulary: Tokens of the model.
            stop: Texts that end the words of a reply.
            tell: Receives the text; None: nothing is told.
            convention: How calls are written; None: all text is words.
            structured: How a structured answer is told, which a grammar enforces.
        """
        self._token_bytes = vocabulary.token_bytes
        self._stop = stop
        self._tell = tell
        self._form = None if convention is None else convention.form
        self._structured: Structured | None = structured
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: str = ""
        self._told = 0
        self.stopped_by: str | None = None
        """The stop string, once one came; the text before it is the answer."""

    @property
    def text(self) -> str:
        """The reply so far, without the stop string."""
        return self._text

    def hear(self, ids: list[int]) -> None:
        """Process a block of tokens."""
        self._text += str(self._decoder.decode(b"".join(self._token_bytes[i] for i in ids)))
        calls_at = None
        if self._form is not None:
            if self._structured is not None and self._text.startswith(self._form.result_prefix):
                self._tell_value(self._structured, self._form)
                return
            calls_at = words_end(self._text, self._form)
            if self._begins_otherwise(calls_at, self._form):
                return
        if calls_at is None:
            self._look_for_stop()
        if self._tell is None:
            return
        end = (
            calls_at
            if calls_at is not None
            else len(self._text) - (0 if self.stopped_by is not None else self._held_back())
        )
        if (words := self._new(end)) is not None:
            self._tell(words, False)
        if calls_at is not None and (piece := self._new(len(self._text))) is not None:
            self._tell(piece, True)

    def _tell_value(self, structured: Structured, form: CallForm) -> None:
        """Tell a structured answer, without the convention's wrapper if it is bare."""
        end = len(self._text)
        if structured == "bare":
            self._told = max(self._told, len(form.result_prefix))
            end -= self._text.endswith("}")  # it may be the wrapper's
        if self._tell is not None and (piece := self._new(end)) is not None:
            self._tell(piece, False)

    def _begins_otherwise(self, calls_at: int | None, form: CallForm) -> bool:
        """Return whether to wait: without text, with a structured answer, or with a possible bare call."""
        if calls_at is not None or not self._text:
            return not self._text
        return self._text[0] == "{" or (not form.trigger and form.opening.startswith(self._text))

    def _new(self, end: int) -> str | None:
        """Return the text up to `end` that has not been sent; None if all of it was."""
        if end <= self._told:
            return None
        piece, self._told = self._text[self._told : end], end
        return piece

    def _look_for_stop(self) -> None:
        found = [(at, stop) for stop in self._stop if (at := self._text.find(stop)) >= 0]
        if found:
            at, self.stopped_by = min(found)
            self._text = self._text[:at]

    def _held_back(self) -> int:
        """Return the number of final characters that may begin a stop string or a call."""
        trigger = None if self._form is None else self._form.trigger
        ends = (*self._stop, *((trigger,) if trigger else ()))
        return max((n for end in ends for n in range(1, len(end)) if self._text.endswith(end[:n])), default=0)


def _masked_reply(generation: Generation, text: str, grammar: CompiledGrammar, stopped_by: str | None) -> Reply:
    """Parse a generation that a grammar masked."""
    try:
        return Reply(generation, text, grammar.parse(text), stopped_by)
    except ResponseParseError:
        return Reply(generation, text, None, stopped_by)
