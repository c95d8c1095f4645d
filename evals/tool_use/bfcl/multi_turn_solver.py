"""Runs a BFCL conversation on agentkit's runtime: one `agent.run` per user turn, on one growing history.

As in the original, the model gets no system prompt and twenty rounds of calls per turn. A simulator's complaint
about wrong arguments is returned as a result. The runtime refuses only unknown names and arguments that are not a
JSON object. (Checking arguments against the declared schema as well would make four cases unsolvable, because
their key passes text for an integer.) A turn ends with a response without calls; a turn that runs out of rounds
ends the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentkit.agent import Agent
from agentkit.context import RunContext
from agentkit.errors import AgentRunError, ModelRetry
from agentkit.limits import UsageLimits
from agentkit.messages import ModelMessage, ModelResponse, ToolCallPart
from agentkit.models.base import Model, ModelSettings
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.usage import RunUsage
from evals.case import Case, Run, RunStatus
from evals.tool_use.bfcl.function_docs import told_function
from evals.tool_use.bfcl.multi_turn_calls import Call
from evals.tool_use.bfcl.multi_turn_cases import environment
from evals.tool_use.bfcl.multi_turn_environment import Environment
from evals.tool_use.bfcl.multi_turn_state import to_json
from modelstack.toolcalls.grammar.dialects import bfcl_tool

MAX_STEPS_PER_TURN = 20
"""Maximum rounds of calls in one turn (`MAXIMUM_STEP_LIMIT`)."""
_ANSWER_AND_FINAL = 2
"""Requests beyond the rounds: the answer, and the request without tools that the runtime makes at a limit."""


@dataclass
class _Conversation:
    """State of the conversation so far."""

    messages: tuple[ModelMessage, ...] = ()
    usage: RunUsage = RunUsage()
    turns: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


async def solve_conversation(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Hold the conversation of a case and return its run.

    `observed["turns"]` lists, for each turn that began, the calls performed (name, arguments, result) and the
    number of calls that the runtime refused. `observed["state"]` holds the final objects.
    """
    world = environment(case)
    documents = list(case.data["functions"])
    n_requests = int(case.data["max_steps_per_turn"]) + _ANSWER_AND_FINAL
    limits = UsageLimits(
        request_limit=n_requests, repeated_failures_limit=None
    )  # the original has no limit on repeated failures
    talk = _Conversation()
    status, error, output = "completed", None, None
    async with model:
        for turn in case.data["turns"]:
            documents += turn["added"]
            performed: list[dict[str, Any]] = []
            talk.turns.append({"calls": performed, "n_refused": 0})
            tools = [_simulated_tool(document, world, performed) for document in documents]
            agent: Agent[None, str] = Agent(model, tools=tools, limits=limits, settings=settings)
            prompt = "\n\n".join(message["content"] for message in turn["messages"])
            status, error, output = await _take_turn(agent, prompt, talk)
            if status not in ("completed", "truncated", "abstained"):
                break
    return Run(
        case_id=case.id,
        status=status,
        messages=talk.messages,
        output=output,
        observed={"turns": talk.turns, "state": to_json(world.state())},
        error=error,
        usage=talk.usage,
    )


async def _take_turn(
    agent: Agent[None, str], prompt: str, talk: _Conversation
) -> tuple[RunStatus, str | None, str | None]:
    """Run one turn and append it to the conversation; return status, error and answer."""
    before = len(talk.messages)
    try:
        result = await agent.run(prompt, message_history=talk.messages)
    except AgentRunError as failure:
        talk.messages, usage = failure.messages or talk.messages, failure.usage or RunUsage()
        status, error, output = "failed", f"{type(failure).__name__}: {failure}", None
    else:
        talk.messages, usage = result.messages, result.usage
        status, error, output = result.status, None, result.output_or_none
    talk.usage = talk.usage.plus(usage)
    calls = _calls(talk.messages[before:])
    talk.turns[-1]["n_refused"] = len(calls) - len(talk.turns[-1]["calls"])
    return status, error, output


def _simulated_tool(document: Mapping[str, Any], world: Environment, performed: list[dict[str, Any]]) -> Tool:
    """Return the tool of one function document; it records every call in `performed`."""
    told = bfcl_tool(told_function(document, "python"))

    async def call(arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
        result = world.call(Call(told.name, arguments))
        performed.append({"name": told.name, "arguments": arguments, "result": result.text})
        return ToolOutput(result.text, is_error=result.is_error)

    return Tool(
        definition=ToolDefinition(told.name, told.description, told.parameters),
        call=call,
        validate=_object,
        sequential=True,  # the calls of one response run in the order in which they were written
        max_retries=MAX_STEPS_PER_TURN,
        allows_repeats=True,  # BFCL performs every call
    )


def _object(text: str) -> dict[str, Any]:
    """Parse the arguments of a call.

    Values that a run's record cannot hold (NaN, a lone surrogate) are refused too.
    """
    try:
        arguments = ToolCallPart("", text).arguments_dict()
        json.dumps(arguments, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelRetry(f"The arguments must be one JSON object: {error}") from error
    return arguments


def _calls(messages: Sequence[ModelMessage]) -> list[ToolCallPart]:
    return [call for message in messages if isinstance(message, ModelResponse) for call in message.tool_calls]
