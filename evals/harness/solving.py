"""Building blocks of solvers: one request to a model, or a whole agent run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkit.agent import Agent
from agentkit.errors import AgentRunError
from agentkit.messages import ModelMessage, ModelRequest, ModelRequestPart, SystemPromptPart, UserPromptPart
from agentkit.models.base import Model, ModelRequestParameters
from agentkit.usage import RunUsage
from evals.case import Case, Run


async def ask_model(
    case: Case,
    model: Model,
    parameters: ModelRequestParameters,
    *,
    messages: Sequence[ModelMessage] | None = None,
    system: str | None = None,
) -> Run:
    """Make one request and return its run; `messages=None` sends the case's prompt after `system`."""
    sent = tuple(messages) if messages is not None else (opening(case.prompt, system),)
    async with model:
        response = await model.request(sent, parameters)
    return Run(
        case_id=case.id,
        status="abstained" if response.abstained else "completed",
        messages=(*sent, response),
        output=response.text or None,
        usage=RunUsage().plus_request(response.usage),
    )


async def run_agent(
    case: Case, agent: Agent[Any, Any], *, observed: Mapping[str, Any] | None = None, **run_options: Any
) -> Run:
    """Run an agent on the case's prompt; an agent error yields a failed run with the messages so far.

    Args:
        case: The case.
        agent: An agent that already has its model.
        observed: State recorded by the solver; often replaced after the run with `dataclasses.replace`.
        run_options: Passed to `Agent.run` (deps, limits, settings, message_history).
    """
    try:
        result = await agent.run(case.prompt, **run_options)
    except AgentRunError as error:
        return Run(
            case_id=case.id,
            status="failed",
            messages=error.messages,
            observed=observed or {},
            error=f"{type(error).__name__}: {error}",
            usage=error.usage or RunUsage(),
        )
    return Run(
        case_id=case.id,
        status=result.status,
        messages=result.new_messages(),
        output=result.output_or_none,
        observed=observed or {},
        usage=result.usage,
    )


def opening(prompt: str, system: str | None = None) -> ModelRequest:
    """Return the first message of a conversation: an optional system prompt and the user's prompt."""
    parts: list[ModelRequestPart] = [SystemPromptPart(system)] if system else []
    return ModelRequest((*parts, UserPromptPart(prompt)))
