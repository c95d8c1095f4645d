"""An agent as a tool of another agent: it receives a task, works with its own tools, and returns its answer.

The inner run shares the outer run's budget (`agentkit.run.budget`), has limits of its own, and is named after the
call that it serves. The outer run stores it (`agentkit.run.inner_runs`): in its state while the inner run waits,
in its journal while the inner run is in progress. If an inner call needs a decision, the outer run asks for it,
under the id `CALL.INNER_CALL`; a decision allows that one inner call.

Taint propagates in both directions: a tainted run starts tainted inner runs, and an inner run that read untrusted
content taints the outer run.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentkit.approvals.pending import PendingCall
from agentkit.context import RunContext
from agentkit.errors import ApprovalRequired, ToolFailed, UserError
from agentkit.messages import with_line
from agentkit.results import RunResult
from agentkit.run.state import RunState
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import Tool, ToolOutput

if TYPE_CHECKING:
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.run.budget import Budget

_WHY_NOT = {
    "abstained": "The agent says that none of its tools fits the task.",
    "refused": "A guardrail refused the task or the answer.",
    "limit_reached": "The agent used up its budget before it had an answer.",
    "truncated": "The agent's answer was cut off at its token limit.",
    "malformed_call": "The agent's answer is a call of a tool that could not be read.",
    "filtered": "A filter of the agent's model withheld the answer.",
}


GoOn = Callable[[str, RunState, Any, "Budget | None", "RunJournal | None"], Awaitable[RunResult[Any]]]
"""Continues a run, or begins it if its state has no messages: task, state, deps, outer budget, journal."""


def agent_tool(
    go_on: GoOn,
    *,
    name: str,
    description: str,
    checkpointer: Checkpointer | None,
    is_untrusted: bool,
) -> Tool:
    """Return a tool that runs an agent."""

    async def call(arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
        call_id, inner = context.tool_call_id or "", context.inner
        run_id = f"{context.run_id}.{call_id}"
        known = inner.known(call_id) if inner is not None else None
        begun = known or await _stored(checkpointer, run_id) or RunState(run_id=run_id, user=context.user)
        if context.tainted and not begun.tainted:
            begun = replace(begun, tainted=True)
        journal = await inner.journal(call_id, begun) if inner is not None else None
        result = await go_on(arguments["task"], begun, context.deps, context.budget, journal)
        if inner is not None:
            inner.tainted = inner.tainted or result.state.tainted
        if result.pending:
            asks = [_asked_outside(name, call_id, each, result.state) for each in result.pending]
            if inner is not None:
                inner.waits(call_id, result.state, asks)
            raise ApprovalRequired("\n".join(each.reason for each in asks))
        if inner is not None:
            inner.ended(call_id)
        if not result.has_output:
            raise ToolFailed(_WHY_NOT.get(result.status, f"The agent's run ended as {result.status}."))
        output = _output(name, result.output)
        if result.status not in ("truncated", "filtered", "malformed_call"):
            return output
        return replace(output, content=with_line(output.content, f"[{_WHY_NOT[result.status]}]"))

    schema = {
        "type": "object",
        "properties": {"task": {"type": "string", "description": "What the agent shall do, in full."}},
        "required": ["task"],
        "additionalProperties": False,
    }
    return Tool(
        definition=ToolDefinition(name, description, schema),
        call=call,
        validate=_validator(name, schema),
        on_error="raise",  # tools of the inner run tell their own errors; a failed run is no failed tool
        timeout_s=math.inf,  # the inner run has usage limits, and its tools have timeouts
        is_untrusted=is_untrusted,
    )


async def _stored(checkpointer: Checkpointer | None, run_id: str) -> RunState | None:
    """Return an inner run from the inner agent's own journal, where journal formats 1 and 2 stored it."""
    if checkpointer is None:
        return None
    from agentkit.run.resume import with_unknown

    if not await checkpointer.has(run_id):
        return None
    stored = await checkpointer.load(run_id)
    return with_unknown(stored.state, stored.in_flight, stored.inner_kept)


def _asked_outside(name: str, call_id: str, pending: PendingCall, state: RunState) -> PendingCall:
    """Return the outer run's form of an inner question; the digest stays, so the same approval answers it."""
    if any(pending.tool_call_id.startswith(f"{run.call_id}.") for run in state.inner):
        reason = f"{name}: {pending.reason}"  # from a deeper run, whose reason names the call already
    elif pending.kind == "unknown":
        reason = (
            f"{name} was interrupted in {pending.tool_name} {pending.arguments}, which may have taken effect; "
            f"to approve runs it again"
        )
    elif pending.kind == "external":
        reason = f"{name} needs the result of {pending.tool_name} {pending.arguments}"
    else:
        reason = f"{name} wants to run {pending.tool_name} {pending.arguments}: {pending.reason}"
    return replace(pending, tool_call_id=f"{call_id}.{pending.tool_call_id}", reason=reason)


def _output(name: str, output: Any) -> ToolOutput:
    """Return an answer in the form that the outer agent reads.

    Raises:
        UserError: the answer, made by an output function or validator, has no JSON form.
    """
    if isinstance(output, str):
        return ToolOutput(output, output)
    from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

    try:
        return ToolOutput(to_json(output).decode(), to_jsonable_python(output))
    except PydanticSerializationError as error:
        raise UserError(
            f"agent {name!r} answered with {type(output).__name__}, which has no JSON form: {error}. The output "
            "of an agent that is a tool must be text, JSON-able data or a pydantic model."
        ) from error


def _validator(name: str, schema: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    from agentkit.tools.json_schema import compile_schema

    return compile_schema(schema, name=f"tool {name!r}").arguments
