"""Conversion between the runtime's types and the engine's: the format of a reply, and a finished reply.

Pure functions over a finished generation, and the listener that receives its tokens as they come.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkit.messages import (
    DecodingStats,
    ModelMessage,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import (
    ModelDelta,
    ModelRequestParameters,
    ModelSettings,
    OutputSchema,
    TextDelta,
    TokensDelta,
    ToolCallDelta,
)
from agentkit.models.local.convention import Manner, tool_specs
from agentkit.models.local.transcript import Prompt
from agentkit.usage import RequestUsage
from modelstack.inference.engine import Engine, Generation, GenerationStats, SamplingParams
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import (
    MAX_DIGITS,
    MOST_DIGITS,
    ParsedResponse,
    ResponseFormat,
    ResponseParseError,
)
from modelstack.toolcalls.conventions import JSON_LIST, Convention
from modelstack.toolcalls.conventions.reading import words_end
from modelstack.toolcalls.free_form import read_free_reply
from modelstack.toolcalls.grammar.compiler import CompiledGrammar
from modelstack.toolcalls.prior.choice import ToolChoice
from modelstack.toolcalls.prior.lexical import open_request

LOGPROB_DIGITS = 5
"""Decimals of the log-probabilities that are kept; more is noise of single precision."""
_LONG_NUMBER = re.compile(f"[0-9]{{{MAX_DIGITS + 1},}}")
NO_TOOL_LABEL = "(no tool)"
"""Label of answering without a call among the alternatives to a tool."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A generation with its text and parsed content."""

    generation: Generation
    text: str
    """Text of the reply, cut before a stop string."""
    parsed: ParsedResponse | None
    """Parsed content; None if the reply was cut off before it was complete."""


class Listener:
    """Receives a reply's tokens, sends deltas, and looks for stop strings in its words."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: Sequence[str],
        tell: Callable[[ModelDelta], None] | None,
        convention: Convention = JSON_LIST,
        structured: OutputSchema | None = None,
    ) -> None:
        """Listen for `stop`; `tell=None` disables deltas. A grammar enforces answers that are `structured`."""
        self._token_bytes = vocabulary.token_bytes
        self._stop = stop
        self._tell = tell
        self._form = convention.form
        self._structured = structured
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: str = ""
        self._told = 0
        self.stopped = False
        """True once a stop string came; the text before it is the answer."""

    @property
    def text(self) -> str:
        """The reply so far, without the stop string."""
        return self._text

    def hear(self, ids: list[int]) -> None:
        """Process a block of tokens."""
        self._text += str(self._decoder.decode(b"".join(self._token_bytes[i] for i in ids)))
        if self._structured is not None and self._text.startswith(self._form.result_prefix):
            self._tell_value(self._structured)
            return
        calls_at = words_end(self._text, self._form)
        if self._begins_otherwise(calls_at):
            return
        if calls_at is None:
            self._look_for_stop()
        if self._tell is None:
            return
        end = calls_at if calls_at is not None else len(self._text) - (0 if self.stopped else self._held_back())
        if (words := self._new(end)) is not None:
            self._tell(TextDelta(words))
        if calls_at is not None and (piece := self._new(len(self._text))) is not None:
            self._tell(ToolCallDelta(0, None, piece))

    def _tell_value(self, output: OutputSchema) -> None:
        """Send a structured answer in the form of the response's text, which may lack the convention's wrapper."""
        end = len(self._text)
        if not output.wrapped:
            self._told = max(self._told, len(self._form.result_prefix))
            end -= self._text.endswith("}")  # it may be the wrapper's
        if self._tell is not None and (piece := self._new(end)) is not None:
            self._tell(TextDelta(piece))

    def _begins_otherwise(self, calls_at: int | None) -> bool:
        """Return whether to wait: without text, with a structured answer, or with a possible bare call."""
        if calls_at is not None or not self._text:
            return not self._text
        return self._text[0] == "{" or (not self._form.trigger and self._form.opening.startswith(self._text))

    def _new(self, end: int) -> str | None:
        """Return the text up to `end` that has not been sent; None if all of it was."""
        if end <= self._told:
            return None
        piece, self._told = self._text[self._told : end], end
        return piece

    def _look_for_stop(self) -> None:
        found = [at for stop in self._stop if (at := self._text.find(stop)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True

    def _held_back(self) -> int:
        """Return the number of final characters that may begin a stop string or a call."""
        ends = (*self._stop, *((self._form.trigger,) if self._form.trigger else ()))
        return max((n for end in ends for n in range(1, len(end)) if self._text.endswith(end[:n])), default=0)


def response_format(
    parameters: ModelRequestParameters, *, abstain: bool, messages: Sequence[ModelMessage] = ()
) -> ResponseFormat:
    """Return the format of a reply to this request; long numbers in `messages` may be repeated."""
    tools = tool_specs(parameters.callable_tools)
    answer: Any = "text" if parameters.output is None else _answer_schema(parameters.output)
    if parameters.tool_choice == "required" and tools:
        answer = None
    return ResponseFormat(
        tools=tools,
        answer=answer,
        parallel=parameters.parallel_tool_calls,
        abstain=abstain and bool(tools),
        max_digits=_digits_wanted(messages),
    )


def _digits_wanted(messages: Sequence[ModelMessage]) -> int:
    """Return the most digits of a number: as many as the longest in prompts and results, within limits."""
    told = (UserPromptPart, ToolReturnPart)
    texts = (part.content for message in messages for part in message.parts if isinstance(part, told))
    runs = [len(run) for text in texts for run in _LONG_NUMBER.findall(text)]
    return min(MOST_DIGITS, max(runs, default=MAX_DIGITS))


def request_text(messages: Sequence[ModelMessage]) -> str | None:
    """Return the user's open request; None if the model continues by itself, see `open_request`."""
    turns: list[tuple[str, str]] = []
    for part in (part for message in messages for part in message.parts):
        match part:
            case UserPromptPart(content=text):
                turns.append(("user", text))
            case ToolReturnPart(content=text) | RetryPromptPart(content=text):
                turns.append(("tool", text))
            case _:
                continue
    return open_request(turns)


def sampling_params(settings: ModelSettings) -> SamplingParams:
    """Return the engine's form of the settings; greedy by default."""
    return SamplingParams(
        temperature=settings.temperature or 0.0,
        top_k=settings.top_k or 0,
        top_p=1.0 if settings.top_p is None else settings.top_p,
        min_p=settings.min_p or 0.0,
        seed=settings.seed,
    )


def read_reply(generation: Generation, listener: Listener, grammar: CompiledGrammar) -> Reply:
    """Parse a generation that a grammar masked."""
    text = listener.text
    try:
        return Reply(generation, text, grammar.parse(text))
    except ResponseParseError:
        return Reply(generation, text, None)


def read_unmasked_reply(
    generation: Generation, listener: Listener, wanted: ResponseFormat, convention: Convention
) -> Reply:
    """Parse a generation without a grammar: any text is a reply, at worst a text answer."""
    return Reply(generation, listener.text, read_free_reply(listener.text, wanted, convention))


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


def to_response(
    model_name: str,
    n_prompt: int,
    reply: Reply,
    choices: Sequence[ToolChoice] | None,
    output: OutputSchema | None,
    *,
    is_cut: bool,
) -> ModelResponse:
    """Return a reply as the runtime's message; `choices` are those of `tool_choices`, None without a grammar."""
    generation, parsed = reply.generation, reply.parsed
    calls = parsed.calls if parsed is not None else ()
    finish_reason: Literal["length", "tool_calls", "stop"] = "tool_calls" if calls else "stop"
    if is_cut:
        finish_reason = "length"
    return ModelResponse(
        parts=_parts(reply, choices, output),
        usage=RequestUsage(n_prompt, generation.stats.reused_tokens, len(generation.ids)),
        model_name=model_name,
        finish_reason=finish_reason,
        decoding=decoding_of(generation.stats),
        p_answer=choices[0].probability if choices and not calls else None,
        abstained=parsed is not None and parsed.abstained,
    )


def decoding_of(stats: GenerationStats) -> DecodingStats:
    """Return the statistics of a generation in the runtime's type."""
    return DecodingStats(
        reused_tokens=stats.reused_tokens,
        restored_tokens=stats.restored_tokens,
        prefilled_tokens=stats.prefilled_tokens,
        sampled_tokens=stats.sampled_tokens,
        forced_tokens=stats.forced_tokens,
        forward_calls=stats.forward_calls,
        prefill_s=stats.prefill_s,
        decode_s=stats.decode_s,
        mask_s=stats.mask_s,
        first_token_s=stats.first_token_s,
    )


def tokens_of(
    generation: Generation, prompt: Prompt, engine: Engine, grammar_key: str | None, manner: Manner
) -> TokensDelta:
    """Return the tokens of a prompt and its reply, for traces."""
    return TokensDelta(
        n_prompt=len(prompt.ids),
        new_prompt_ids=tuple(prompt.ids[prompt.n_known :]),
        reply_ids=tuple(generation.ids),
        logprobs=tuple(None if math.isnan(p) else round(p, LOGPROB_DIGITS) for p in generation.logprobs),
        legal_counts=tuple(generation.legal_counts),
        engine=engine.fingerprint,
        vocabulary=engine.vocabulary.fingerprint,
        grammar=grammar_key,
        convention=manner.convention.name,
        convention_why=manner.why,
    )


def _parts(
    reply: Reply, choices: Sequence[ToolChoice] | None, output: OutputSchema | None
) -> tuple[ModelResponsePart, ...]:
    parsed = reply.parsed
    if parsed is None:
        return (TextPart(reply.text),) if reply.text else ()
    if parsed.abstained:  # in words, if the convention has no form for it
        return (TextPart(str(parsed.answer)),) if parsed.answer else ()
    if parsed.kind != "calls":
        return (TextPart(_answer_text(parsed, output)),)
    lead: tuple[ModelResponsePart, ...] = (TextPart(words),) if (words := parsed.lead.strip()) else ()
    if choices is None:
        return (*lead, *(ToolCallPart(name, arguments) for name, arguments in parsed.calls))
    return lead + tuple(
        ToolCallPart(name, arguments, probability=choice.probability, alternatives=_labelled(choice))
        for (name, arguments), choice in zip(parsed.calls, choices, strict=True)
    )


def _labelled(choice: ToolChoice) -> tuple[tuple[str, float], ...]:
    return tuple(
        ("|".join(name or NO_TOOL_LABEL for name in names), mass) for names, mass in choice.alternatives.items()
    )


def _answer_schema(output: OutputSchema) -> Mapping[str, Any]:
    """Return the schema of the value itself: the convention has its own wrapper."""
    if not output.wrapped:
        return output.json_schema
    inner = dict(output.json_schema["properties"]["result"])
    if "$defs" in output.json_schema:
        inner["$defs"] = output.json_schema["$defs"]
    return inner


def _answer_text(parsed: ParsedResponse, output: OutputSchema | None) -> str:
    if output is None or parsed.kind == "text":  # the latter only occurs without a grammar
        return str(parsed.answer)
    value = {"result": parsed.answer} if output.wrapped else parsed.answer
    return json.dumps(value, ensure_ascii=False)
