"""An agent as a tool of another one: it is given a task, works with its own tools, and gives its answer.

The inner run shares the outer one's budget, and is named after the call that it serves. Where a call of its own
needs approval, the outer call does; once that is allowed the inner run goes on from where it stopped. With a
checkpointer the inner run is found again after a crash as well, so the outer call may be made again.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.approvals import Decision, PendingCall
from agentkit.context import RunContext
from agentkit.errors import ApprovalRequired, ToolFailed
from agentkit.limits import RunUsage, UsageLimits
from agentkit.results import RunResult
from agentkit.state import RunState
from agentkit.tools.definition import Tool, ToolDefinition, ToolOutput

if TYPE_CHECKING:
    from agentkit.persistence.checkpointer import Checkpointer

_WHY_NOT = {
    "abstained": "The agent says that none of its tools fits the task.",
    "refused": "A guardrail refused the task or the answer.",
    "limit_reached": "The agent used up its budget before it had an answer.",
}


Start = Callable[[str, str, Any, UsageLimits | None], Awaitable[RunResult[Any]]]
"""Begins a run: task, run id, deps, limits."""
GoOn = Callable[[str | RunState, Sequence[Decision], Any, UsageLimits | None], Awaitable[RunResult[Any]]]
"""Goes on with one: id or state, decisions, deps, limits."""


def agent_tool(
    start: Start,
    go_on: GoOn,
    *,
    name: str,
    description: str,
    checkpointer: Checkpointer | None,
    is_untrusted: bool,
) -> Tool:
    """Make a tool that runs an agent."""
    waiting: dict[str, RunState] = {}

    async def call(arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
        run_id = f"{context.run_id}.{context.tool_call_id}"
        known = waiting.pop(run_id, None) or await _stored(checkpointer, run_id)
        if known is None:
            result = await start(arguments["task"], run_id, context.deps, context.limits)
        else:
            decisions = [pending.approve() for pending in known.pending] if context.approved else []
            where = run_id if checkpointer is not None else known
            result = await go_on(where, decisions, context.deps, context.limits)
        if context.charge is not None:
            context.charge(_since(result.usage, known))
        if result.pending:
            waiting[run_id] = result.state
            raise ApprovalRequired("\n".join(_asks(name, each) for each in result.pending))
        if result.output is None:
            raise ToolFailed(_WHY_NOT.get(result.status, f"The agent's run ended as {result.status}."))
        return _output(result)

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
        timeout_s=math.inf,  # the inner run has limits, and its tools have time limits, of their own
        is_untrusted=is_untrusted,
        is_repeatable=checkpointer is not None,
    )


async def _stored(checkpointer: Checkpointer | None, run_id: str) -> RunState | None:
    if checkpointer is None:
        return None
    from agentkit.resuming import with_unknown

    if not await checkpointer.has(run_id):
        return None
    stored = await checkpointer.load(run_id)
    return with_unknown(stored.state, stored.in_flight)


def _asks(name: str, pending: PendingCall) -> str:
    if pending.kind == "unknown":
        return (
            f"{name} was interrupted in {pending.tool_name} {pending.arguments}, which may have taken effect; "
            f"to approve runs it again"
        )
    return f"{name} wants to run {pending.tool_name} {pending.arguments}: {pending.reason}"


def _since(usage: RunUsage, known: RunState | None) -> RunUsage:
    """Return what was used since the run stopped; before that it was counted already."""
    if known is None:
        return usage
    before = known.usage
    return RunUsage(**{field: getattr(usage, field) - getattr(before, field) for field in RunUsage.__slots__})


def _output(result: RunResult[Any]) -> ToolOutput:
    if isinstance(result.output, str):
        return ToolOutput(result.output, result.output)
    from pydantic_core import to_json, to_jsonable_python

    return ToolOutput(to_json(result.output).decode(), to_jsonable_python(result.output))


def _validator(name: str, schema: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    from agentkit.tools.json_schema import compile_schema

    return compile_schema(schema, name=f"tool {name!r}").arguments
