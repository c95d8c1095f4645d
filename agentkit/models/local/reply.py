"""Conversion between the runtime's types and the engine's: the format of a reply, and a finished reply.

Pure functions over a request, and over a finished reply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentkit.messages import (
    DecodingStats,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    text_of,
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
from agentkit.models.local.convention import tool_specs
from agentkit.models.local.transcript import Prompt
from agentkit.usage import NO_COST, RequestUsage
from modelstack.inference.engine import Engine, Generation, GenerationStats, SamplingParams
from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat, digits_wanted
from modelstack.toolcalls.decoding import Reply, Structured
from modelstack.toolcalls.manner import Manner
from modelstack.toolcalls.prior.choice import ToolChoice
from modelstack.toolcalls.prior.lexical import open_request

LOGPROB_DIGITS = 5
"""Decimals of the log-probabilities that are kept; more is noise of single precision."""
NO_TOOL_LABEL = "(no tool)"
"""Label of answering without a call among the alternatives to a tool."""


def response_format(
    parameters: ModelRequestParameters, *, abstain: bool, messages: Sequence[ModelMessage] = ()
) -> ResponseFormat:
    """Return the format of a reply to this request; long numbers in `messages` may be repeated."""
    tools = tool_specs(parameters.callable_tools)
    told = (UserPromptPart, ToolReturnPart)
    texts = (part.text for message in messages for part in message.parts if isinstance(part, told))
    answer: Any = "text" if parameters.output is None else _answer_schema(parameters.output)
    if parameters.tool_choice == "required" and tools:
        answer = None
    return ResponseFormat(
        tools=tools,
        answer=answer,
        parallel=parameters.parallel_tool_calls,
        abstain=abstain and bool(tools),
        max_digits=digits_wanted(texts),
    )


def request_text(messages: Sequence[ModelMessage]) -> str | None:
    """Return the user's open request; None if the model continues by itself, see `open_request`."""
    turns: list[tuple[str, str]] = []
    for part in (part for message in messages for part in message.parts):
        match part:
            case UserPromptPart(said=said):
                turns.append(("user", text_of(said)))
            case ToolReturnPart(text=text) | RetryPromptPart(text=text):
                turns.append(("tool", text))
            case _:
                continue
    return open_request(turns)


def ends_with_user(messages: Sequence[ModelMessage]) -> bool:
    """Return whether the conversation ends with words of the user, and not with a tool result."""
    last = messages[-1] if messages else None
    return isinstance(last, ModelRequest) and any(isinstance(part, UserPromptPart) for part in last.parts)


def sampling_params(settings: ModelSettings) -> SamplingParams:
    """Return the engine's form of the settings; greedy by default."""
    return SamplingParams(
        temperature=settings.temperature or 0.0,
        top_k=settings.top_k or 0,
        top_p=1.0 if settings.top_p is None else settings.top_p,
        min_p=settings.min_p or 0.0,
        seed=settings.seed,
    )


def structured_form(output: OutputSchema | None) -> Structured | None:
    """Return how a structured answer is streamed: with the wrapper that the response's text keeps."""
    return None if output is None else "wrapped" if output.wrapped else "bare"


def text_delta(piece: str, is_call: bool) -> ModelDelta:
    """Return a piece of a reply's text as a delta."""
    return ToolCallDelta(0, None, piece) if is_call else TextDelta(piece)


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
        usage=free_usage(n_prompt, generation),
        model_name=model_name,
        finish_reason=finish_reason,
        decoding=decoding_of(generation.stats),
        p_answer=choices[0].probability if choices and not calls else None,
        abstained=has_abstained(reply),
    )


def has_abstained(reply: Reply, *, without_words: bool = False) -> bool:
    """Return whether a reply says that no tool fits, in whatever form or only in one without words."""
    parsed = reply.parsed
    return parsed is not None and parsed.abstained and not (without_words and parsed.answer)


def free_usage(n_prompt: int, generation: Generation) -> RequestUsage:
    """Return the usage of a reply, which says itself that it is free.

    A transcript recognises its own replies by identity, so the run must not replace the response to price it.
    """
    return RequestUsage(n_prompt, generation.stats.reused_tokens, len(generation.ids), cost=NO_COST)


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
