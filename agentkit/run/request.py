"""A model request of a run: the user's text, messages, tools that may be called, and the reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from agentkit.context import RunContext
from agentkit.errors import ModelRetry
from agentkit.events import TextCallsEvent
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    TextPart,
    UserPromptPart,
    text_of,
    with_text,
)
from agentkit.models.base import ModelRequestParameters, ModelSettings, OnDelta
from agentkit.run.actions import Refused
from agentkit.run.instructions import instructed, limit_note, resolved, with_note
from agentkit.run.offer import Offer
from agentkit.run.setup import RunSetup, Sink
from agentkit.run.state import RunState

if TYPE_CHECKING:
    from agentkit.guardrails.checks import Checks
    from agentkit.run.text_calls import TextCalls

Ask = Callable[..., Awaitable[ModelResponse]]
"""Sends a prepared request; takes only `on_delta`."""
SidePurpose = Literal["plan", "summary"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it is sent."""

    messages: Sequence[ModelMessage]
    parameters: ModelRequestParameters
    final: bool
    """True if the reply may call no tool."""
    instructions: str | None
    note: str | None
    is_conversation: bool = True
    """True if the messages are those of the run: no history processor and no middleware changed them."""


async def composed(
    setup: RunSetup[Any, Any],
    state: RunState,
    offer: Offer,
    conversation: Sequence[ModelMessage],
    context: Callable[[], RunContext[Any]],
    *,
    final: bool,
) -> Request:
    """Return the request of the next step; `conversation` is the current agent's view of it."""
    allowed = _allowed(state, offer)
    parameters = ModelRequestParameters(
        tools=offer.definitions,
        allowed_tools=None if len(allowed) == len(offer.definitions) else frozenset(allowed),
        found_tools=offer.loaded,
        output=setup.output.schema,
        tool_choice=_tool_choice(setup.settings, state, final, bool(allowed)),
        parallel_tool_calls=setup.parallel_tool_calls,
        settings=setup.settings,
        prices=setup.prices,
    )
    shown = conversation
    if state.compacted is not None:
        from agentkit.history.compaction import view

        shown = view(shown, state.compacted)
    is_conversation = True
    if setup.history_processors:
        from agentkit.history.processors import processed

        before, shown = shown, await processed(shown, setup.history_processors, context())
        is_conversation = tuple(shown) == tuple(before)
    text = await resolved(setup.instructions, setup.toolsets, context)
    note = limit_note(state) if final and offer.tools else None
    return Request(with_note(instructed(shown, text), note), parameters, final, text, note, is_conversation)


def _allowed(state: RunState, offer: Offer) -> tuple[str, ...]:
    """Return the tools that may be called in the next step."""
    hidden = state.disabled_tools if not state.withheld else (*state.disabled_tools, *state.withheld)
    step = None if state.plan is None else state.plan.current
    if step is not None and step.tool is not None and step.tool in offer.tools:
        return (step.tool,)
    if not hidden:
        return tuple(offer.tools)
    return tuple(name for name in offer.tools if name not in hidden)


def _tool_choice(
    settings: ModelSettings, state: RunState, final: bool, has_tools: bool
) -> Literal["auto", "required", "none"]:
    if final or settings.tool_choice == "none":
        return "none"
    if state.plan is not None and state.plan.current is not None and state.plan.current.tool is not None:
        return "required"
    is_first = settings.tool_choice == "required" and state.step == 0
    return "required" if is_first and (has_tools or not state.withheld) else "auto"


async def guarded(
    ask: Ask, checks: Checks, state: RunState, context: RunContext[Any], on_delta: OnDelta | None
) -> ModelResponse | Refused:
    """Ask the model while parallel and streaming checks run beside it; a `Block` stops the model at once."""
    guardrails = checks.guardrails
    beside = state.step == 0 and any(each.mode == "parallel" for each in guardrails.input)
    streaming = any(each.streaming for each in guardrails.output)
    if not beside and not streaming:
        return await ask(on_delta=on_delta)
    from agentkit.guardrails.beside import ask_beside

    # Later messages of the first step are notes of a plan, and interruptions, which were checked already.
    request = state.messages[state.n_history]
    prompt = "\n".join(text_of(part.said) for part in request.parts if isinstance(part, UserPromptPart))
    response = await ask_beside(
        ask,
        check_input=partial(checks.input_beside, prompt, context) if beside else None,
        check_text=partial(checks.output_so_far, context=context) if streaming else None,
        on_delta=on_delta,
    )
    if isinstance(response, ModelResponse):
        return response
    return Refused("prompt" if response == "input" else "partial answer")


def with_text_calls(
    response: ModelResponse, setup: RunSetup[Any, Any], offer: Offer, emit: Sink | None
) -> ModelResponse:
    """Return the response with its text replaced by calls, if the text consists only of calls."""
    found = None if response.finish_reason == "content_filter" else calls_in(response.text, setup, offer)
    if found is None:
        return response
    if emit is not None:
        emit(TextCallsEvent(response.text, found.tool_names, len(found.calls), found.problem))
    if not found.calls:
        return response
    kept = (part for part in response.parts if not isinstance(part, TextPart))
    return replace(response, parts=(*kept, *found.calls))


def calls_in(text: str, setup: RunSetup[Any, Any], offer: Offer) -> TextCalls | None:
    """Return the calls in a text; None for an answer of the run's output type.

    None for a model with a grammar too: it cannot write a call as text by mistake.
    """
    if not text or not offer.tools or setup.settings.tool_choice == "none" or setup.model.profile.grammar:
        return None
    from agentkit.run.text_calls import text_calls, unfenced

    found = text_calls(text, offer.tools)
    if found is not None and setup.output.schema is not None:
        for answer in (text, unfenced(text)):
            with suppress(ModelRetry):
                setup.output.parse(answer)
                return None
    return found


async def checked_request(
    request: ModelRequest, checks: Checks | None, context: RunContext[Any]
) -> ModelRequest | Refused:
    """Return the first request of a run after the blocking guardrails."""
    if checks is None:
        return request
    parts: list[ModelRequestPart] = []
    for part in request.parts:
        if isinstance(part, UserPromptPart):
            text = await checks.input(part.text, context)
            if not isinstance(text, str):
                return Refused("prompt")
            if text != part.text:
                part = replace(part, content=with_text(part.content, text))
        parts.append(part)
    return ModelRequest(tuple(parts))


async def checked_interruption(message: str, checks: Checks | None, context: RunContext[Any]) -> str | None:
    """Return a message of the user to a run in progress after all input guardrails; None if one blocks it."""
    if checks is None:
        return message
    text = await checks.input(message, context)
    if not isinstance(text, str) or await checks.input_beside(text, context) is not None:
        return None
    return text
