"""Calls that a tool makes of other tools, as code does in code mode: checked, approved and kept like a model's.

Such a call is named after the one that it serves: `OUTER.1`, `OUTER.2`, in the order in which they are made. Where
it waits for a decision, the outer call is given up, and made again from its beginning once that has been taken;
what its earlier calls gave is then given again and nothing runs twice. So whoever makes such calls has to make the
same ones in the same order, given the same results: what durable workflows ask of their code too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentkit.approvals import IN_DOUBT, PendingCall
from agentkit.errors import ApprovalRequired, CheckpointError
from agentkit.limits import RunUsage
from agentkit.messages import ToolCallPart, ToolReturnPart
from agentkit.questions import is_allowed, is_granted, question
from agentkit.state import CallAnswer, RunState
from agentkit.tools.approval import reason_to_ask
from agentkit.tools.definition import Tool
from agentkit.tools.execution import run_calls
from agentkit.turn_scope import TurnScope, call_scope, checked


class NestedCallWaits(ApprovalRequired):
    """A nested call waits for a decision; the outer call waits with it."""

    def __init__(self, pending: PendingCall) -> None:
        """Say which."""
        super().__init__(pending.reason)
        self.pending = pending


class NestedCalls:
    """The calls that the tools of one turn make."""

    def __init__(self, state: RunState, scope: TurnScope, tools: Mapping[str, Tool], n_outer: int) -> None:
        """Serve calls of `tools` in a turn of `n_outer` calls of the model's own."""
        self._state = state
        self._scope = scope
        self._tools = tools
        self._known = {part.tool_call_id: part for part in state.answers}
        self._made: dict[str, int] = {}
        left = scope.context.limits.tool_calls_limit if scope.context.limits is not None else None
        self._room = None if left is None else max(0, left - n_outer)
        self.answers: list[CallAnswer] = []
        """What calls of this turn gave that had no answer before."""
        self._checks_if_tainted = scope.checks_if_tainted
        self.tainted = scope.context.tainted
        """Whether results of tools that are not trusted have come by."""

    async def call(self, outer_id: str, tool_name: str, arguments: str) -> CallAnswer:
        """Return what a call gives; `arguments` are JSON.

        Raises:
            NestedCallWaits: somebody must decide first.
            CheckpointError: another call was made in this place before.
            AgentRunError: the tool raised what it did not declare, or the journal cannot be written.
        """
        number = self._made[outer_id] = self._made.get(outer_id, 0) + 1
        call = ToolCallPart(tool_name, arguments, f"{outer_id}.{number}")
        tool = self._tools[tool_name]
        known = self._known.get(call.tool_call_id)
        if known is not None:
            if known.tool_name != tool_name:
                raise CheckpointError(
                    f"call {call.tool_call_id} of run {self._state.run_id} was one of {known.tool_name!r} and is "
                    f"one of {tool_name!r} now: made again, the calls of a tool must be the same."
                )
            self._taint(tool)
            return known
        answer = await self._run(call, tool)
        self._taint(tool)
        self.answers.append(answer)
        return answer

    def _taint(self, tool: Tool) -> None:
        """Taint the calls after one of `tool`, if what it gave, or an inner run of it, is not trusted."""
        inner = self._scope.context.inner
        if tool.is_untrusted or (inner is not None and inner.tainted):
            self.tainted = True

    async def _run(self, call: ToolCallPart, tool: Tool) -> CallAnswer:
        if self._room == 0:
            return ToolReturnPart(
                call.tool_name, call.tool_call_id, "Not run: tool_calls_limit is reached.", is_error=True
            )
        context = replace(self._scope.context, tainted=self.tainted)
        if self.tainted and self._checks_if_tainted is not None:
            self._scope = replace(self._scope, checks=self._checks_if_tainted())
            self._checks_if_tainted = None
        scope = replace(self._scope, context=context, tools=self._tools, is_stored=True)  # by the outer call
        in_doubt = call.tool_call_id in self._state.in_doubt and not tool.is_repeatable
        if in_doubt and not is_granted(self._state, asked := question(self._state, call, IN_DOUBT, "unknown")):
            raise NestedCallWaits(asked)
        call, reason = await checked(call, tool, scope)
        if isinstance(reason, ToolReturnPart):
            return reason
        reason = reason or await reason_to_ask(tool, call, context)
        if reason and not is_allowed(self._state, call):
            raise NestedCallWaits(question(self._state, call, reason))
        if self._room is not None:
            self._room -= 1
        # One more than there is: every answer is noted at once, none is left to be stored with the state.
        (result,) = await run_calls([call], call_scope(self._state, [call], scope, n_open=2))
        if isinstance(result, PendingCall):
            raise NestedCallWaits(result)
        if context.charge is not None:
            context.charge(RunUsage(tool_calls=1))
        return result
