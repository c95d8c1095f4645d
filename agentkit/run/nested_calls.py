"""Nested calls: calls of tools made by another tool, as in code mode; checked, approved and stored like a model's.

A nested call is named after its outer call: `OUTER.1`, `OUTER.2`, in call order. If it waits for a decision, the
outer call is abandoned and, after the decision, runs again from its beginning. It then receives the stored results
of its earlier nested calls, so nothing runs twice. The outer tool must therefore be deterministic: given the same
results, it makes the same calls in the same order, as in durable workflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentkit.approvals.pending import EXTERNAL, IN_DOUBT, PendingCall
from agentkit.approvals.questions import is_allowed, is_granted, question
from agentkit.approvals.rules import reason_to_ask
from agentkit.errors import ApprovalRequired, CheckpointError
from agentkit.messages import ToolCallPart, ToolReturnPart
from agentkit.run.state import CallAnswer, RunState
from agentkit.run.turn_scope import TurnScope, call_scope, checked, checked_external, is_external
from agentkit.tools.execution import run_calls
from agentkit.tools.tool import Tool
from agentkit.usage import RunUsage


class NestedCallWaits(ApprovalRequired):
    """A nested call waits for a decision; the outer call waits with it."""

    def __init__(self, pending: PendingCall) -> None:
        """Store the waiting call."""
        super().__init__(pending.reason)
        self.pending = pending


class NestedCalls:
    """Nested calls of one turn."""

    def __init__(self, state: RunState, scope: TurnScope, tools: Mapping[str, Tool]) -> None:
        """Serve nested calls of `tools` in one turn."""
        self._state = state
        self._scope = scope
        self._tools = tools
        self._known = {part.tool_call_id: part for part in state.answers}
        self._made: dict[str, int] = {}
        self.answers: list[CallAnswer] = []
        """Answers of nested calls that had none before this turn."""
        self._checks_if_tainted = scope.checks_if_tainted
        self.tainted = scope.context.tainted
        """True if the run is tainted, including by results of this turn."""

    async def call(self, outer_id: str, tool_name: str, arguments: str) -> CallAnswer:
        """Run a nested call, or return its stored answer; `arguments` is JSON.

        Raises:
            NestedCallWaits: the call requires a decision first.
            CheckpointError: an earlier attempt called another tool at this position.
            AgentRunError: the tool raised an undeclared error, or the journal cannot be written.
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
            self._taint(tool, arguments)
            return await checked_external(known, call, tool, self._checking())
        answer = await self._run(call, tool)
        self._taint(tool, arguments)
        self.answers.append(answer)
        return answer

    def _checking(self) -> TurnScope:
        """Return the scope of a nested call, with the checks that hold now."""
        if self.tainted and self._checks_if_tainted is not None:
            self._scope = replace(self._scope, checks=self._checks_if_tainted())
            self._checks_if_tainted = None
        context = replace(self._scope.context, tainted=self.tainted)
        return replace(self._scope, context=context, tools=self._tools, is_stored=True)  # by the outer call

    def _taint(self, tool: Tool, arguments: str) -> None:
        """Taint the following calls if the result of a call, or of an inner run, is untrusted."""
        inner = self._scope.context.inner
        if tool.taints(arguments) or (inner is not None and inner.tainted):
            self.tainted = True

    async def _run(self, call: ToolCallPart, tool: Tool) -> CallAnswer:
        budget = self._scope.context.budget
        assert budget is not None  # every run has one
        wanted = {each.tool_call_id for each in self._state.pending if each.kind == "external"}
        has_counted = call.tool_call_id in wanted  # when its result was first asked for
        if not has_counted and not budget.has_call_room:
            return _no_room(call)
        scope = self._checking()
        context = scope.context
        in_doubt = call.tool_call_id in self._state.in_doubt and not tool.is_repeatable
        if in_doubt and not is_granted(self._state, asked := question(self._state, call, IN_DOUBT, "unknown")):
            raise NestedCallWaits(asked)
        call, reason = await checked(call, tool, scope)
        if isinstance(reason, ToolReturnPart):
            return reason
        reason = reason or await reason_to_ask(tool, call, context)
        if reason and not is_allowed(self._state, call):
            raise NestedCallWaits(question(self._state, call, reason))
        if is_external(call, tool):
            if not has_counted and not budget.take_call():
                return _no_room(call)
            raise NestedCallWaits(question(self._state, call, EXTERNAL, "external"))
        if not budget.take_call():  # a concurrent inner run may have taken the last one meanwhile
            return _no_room(call)
        # n_open is one too high on purpose: every answer is recorded at once, none waits for the state.
        (result,) = await run_calls([call], call_scope(self._state, [call], scope, n_open=2))
        if isinstance(result, PendingCall):
            budget.add(RunUsage(tool_calls=-1))  # it counts again when it runs after the decision
            raise NestedCallWaits(result)
        return result


def _no_room(call: ToolCallPart) -> ToolReturnPart:
    return ToolReturnPart(
        call.tool_name, call.tool_call_id, "Not run: tool_calls_limit is reached.", is_error=True
    )
