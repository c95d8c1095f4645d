"""Replays a traced run request by request, and checks that the replies are the same, token for token.

Replies of a model in this process depend neither on batching nor on what of the conversation was cached, so with
the same weights, vocabulary, grammar, seed and settings a request gives the same reply bit for bit. (Other
conversations in the same cache change the last bits of sums, so log-probabilities may differ.) Tools are not run:
the model gets the results in the trace. Only the first difference is reported; the ones after it would be noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from agentkit.errors import UserError
from agentkit.events import (
    AgentEvent,
    CompactionEvent,
    HandoffEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RequestShape,
    RunResumedEvent,
    RunStartedEvent,
)
from agentkit.history.compaction import view
from agentkit.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart, ToolCallPart
from agentkit.models.base import Model, ModelDelta, ModelRequestParameters, TokensDelta
from agentkit.run.instructions import with_note
from agentkit.run.state import Compacted
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.found_tools import found_names


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference between a trace and its replay."""

    step: int
    """Step of the run, from 1."""
    what: str
    """Kind of difference: weights, vocabulary, grammar, prompt, reply, log-probability, or parts."""
    token: int | None
    """Index in the prompt's new tokens or in the reply; None if the difference is not one of tokens."""
    traced: str
    replayed: str


@dataclass(slots=True)
class _Traced:
    """The conversation of a trace up to an event."""

    messages: list[ModelMessage] = field(default_factory=list[ModelMessage])
    tools: tuple[ToolDefinition, ...] = ()
    shape: RequestShape | None = None
    asked: ModelRequestEvent | None = None
    compacted: Compacted | None = None


async def replay(events: Iterable[AgentEvent], model: Model) -> tuple[int, Divergence | None]:
    """Send all requests of a trace to `model`; return the number of equal replies, and the first difference.

    Raises:
        UserError: the trace continues earlier runs that it does not hold, was resumed, or is an older one.
        ModelError: the model failed.
    """
    traced, n_same = _Traced(), 0
    for event in events:
        match event:
            case RunStartedEvent(n_history=n_history) if n_history:
                raise UserError(f"run {event.run_id} goes on from earlier runs, whose messages its trace lacks.")
            case RunResumedEvent():
                raise UserError(f"run {event.run_id} was resumed; what its trace lost cannot be replayed.")
            case ModelRequestEvent():
                traced.messages += event.messages
                traced.tools = traced.tools if event.tools is None else event.tools
                traced.shape = event.shape or traced.shape
                traced.asked = event
            case HandoffEvent(opening=opening):
                traced.messages, traced.compacted = list(opening), None
            case CompactionEvent(compacted=compacted):
                traced.compacted = compacted
            case ModelResponseEvent(received=()):  # middleware answered itself
                traced.messages.append(event.response)
            case ModelResponseEvent(received=received):
                response, tokens = await _ask(traced, model)
                said = event if received is None else replace(event, response=received[-1])
                found = _difference(said, response, tokens)
                if found is not None:
                    return n_same, found
                n_same += 1
                traced.messages.append(response if received is None else event.response)
            case _:
                pass
    return n_same, None


async def _ask(traced: _Traced, model: Model) -> tuple[ModelResponse, TokensDelta | None]:
    asked, shape = traced.asked, traced.shape
    if asked is None or shape is None:
        raise UserError("this trace does not say what the model was asked: it is of an older version.")
    names = frozenset(tool.name for tool in traced.tools)
    allowed = frozenset(asked.allowed_tools)
    messages = asked.sent or with_note(view(traced.messages, traced.compacted), asked.note)
    parameters = ModelRequestParameters(
        tools=traced.tools,
        allowed_tools=None if allowed == names else allowed,
        found_tools=frozenset(found_names(messages, traced.messages)),
        output=shape.output,
        tool_choice=asked.tool_choice,
        parallel_tool_calls=shape.parallel_tool_calls,
        settings=shape.settings,
    )
    heard: list[TokensDelta] = []

    def hear(delta: ModelDelta) -> None:
        if isinstance(delta, TokensDelta):
            heard.append(delta)

    response = await model.request(messages, parameters, on_delta=hear)
    return response, heard[-1] if heard else None


def _difference(
    event: ModelResponseEvent, response: ModelResponse, tokens: TokensDelta | None
) -> Divergence | None:
    then = event.tokens
    found = _difference_of_tokens(event.step, then, tokens) if then is not None and tokens is not None else None
    if found is not None:
        return found
    one, other = _said(event.response), _said(response)
    return None if one == other else Divergence(event.step, "parts", None, one, other)


def _difference_of_tokens(step: int, then: TokensDelta, now: TokensDelta) -> Divergence | None:
    for what, one, other in (
        ("weights", then.engine, now.engine),
        ("vocabulary", then.vocabulary, now.vocabulary),
        ("grammar", str(then.grammar), str(now.grammar)),
    ):
        if one != other:
            return Divergence(step, what, None, one, other)
    for what, ids, others in (
        ("prompt", then.new_prompt_ids, now.new_prompt_ids),
        ("reply", then.reply_ids, now.reply_ids),
        ("log-probability", then.logprobs, now.logprobs),
    ):
        if ids != others:
            pairs = enumerate(zip(ids, others, strict=False))
            at = next((index for index, (a, b) in pairs if a != b), min(len(ids), len(others)))
            return Divergence(step, what, at, _shown(ids, at), _shown(others, at))
    return None


def _shown(values: Sequence[float | None], at: int) -> str:
    return " ".join(map(str, values[at : at + 8])) or "(end)"


def _said(response: ModelResponse) -> str:
    """Return the content of a response as text, without the ids of its calls, which are random."""
    lines: list[str] = []
    for part in response.parts:
        match part:
            case ToolCallPart():
                chosen = "" if part.probability is None else f" p {part.probability}"
                lines.append(f"{part.tool_name} {part.arguments}{chosen}")
            case TextPart() | ThinkingPart():
                lines.append(part.content)
    return "\n".join(lines)
