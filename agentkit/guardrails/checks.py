"""Runs an agent's guardrails in order, and emits an event for every verdict.

The first `Block` ends a stage. After a `Rewrite`, the next check sees the rewritten text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentkit.basics.json_values import json_form, parsed_json
from agentkit.context import RunContext
from agentkit.errors import ModelRetry
from agentkit.events import AgentEvent, GuardrailEvent, VerdictKind
from agentkit.guardrails.guardrail import CheckedCall, CheckedResult, Guardrail, Guardrails
from agentkit.guardrails.verdicts import Allow, Block, RequireApproval, Rewrite, Verdict
from agentkit.messages import RetryPromptPart, ToolCallPart, ToolReturnPart, with_text
from agentkit.tools.tool import Tool

_KINDS: dict[type[Any], VerdictKind] = {
    Allow: "allow", Block: "block", Rewrite: "rewrite", RequireApproval: "require_approval",
}  # fmt: skip


class Checks:
    """Runs the guardrails of an agent."""

    def __init__(self, guardrails: Guardrails, emit: Callable[[AgentEvent], None] | None) -> None:
        """Run `guardrails`; `emit` receives an event for every verdict."""
        self.guardrails = guardrails
        self._emit = emit

    async def input(self, text: str, context: RunContext[Any]) -> str | Block:
        """Return the prompt after all blocking checks, or the `Block`."""
        return await self._text([each for each in self.guardrails.input if each.mode == "blocking"], text, context)

    async def input_beside(self, text: str, context: RunContext[Any]) -> Block | None:
        """Return the `Block` of the first parallel check that blocks the prompt, else None."""
        parallel = [each for each in self.guardrails.input if each.mode == "parallel"]
        found = await self._text(parallel, text, context)
        return found if isinstance(found, Block) else None

    async def output(self, text: str, context: RunContext[Any]) -> str | Block:
        """Return the answer after all output checks, or the `Block`."""
        return await self._text(self.guardrails.output, text, context)

    def output_so_far(self, text: str, context: RunContext[Any]) -> Block | None:
        """Return the `Block` of the first streaming check that blocks the text so far, else None."""
        for each in self.guardrails.output:
            if each.streaming:
                verdict = each.verdict_so_far(text, context)
                if isinstance(verdict, Block):
                    self._tell(each, verdict, 0.0)
                    return verdict
        return None

    async def call(
        self, call: ToolCallPart, tool: Tool, context: RunContext[Any]
    ) -> tuple[ToolCallPart, Block | RequireApproval | None]:
        """Return the call after all checks, and the verdict that blocks it or requires approval, else None."""
        asked: RequireApproval | None = None
        for each in self.guardrails.tool_call:
            try:
                arguments = tool.validate(call.arguments)
            except ModelRetry:
                return call, None  # an invalid call goes back to the model and never runs
            subject = CheckedCall(tool, arguments, call.tool_call_id, call.probability)
            verdict = await self._verdict(each, subject, context, call)
            if isinstance(verdict, Block):
                return call, verdict
            if isinstance(verdict, Rewrite):
                call = replace(call, arguments=verdict.text)
            elif isinstance(verdict, RequireApproval):
                asked = asked or verdict
        return call, asked

    async def result(
        self, part: ToolReturnPart | RetryPromptPart, call: ToolCallPart, tool: Tool, context: RunContext[Any]
    ) -> ToolReturnPart | RetryPromptPart:
        """Return a tool result after all checks, before the model sees it."""
        for each in self.guardrails.tool_result:
            is_error = isinstance(part, RetryPromptPart) or part.is_error
            subject = CheckedResult(tool, part.text, call.tool_call_id, is_error)
            verdict = await self._verdict(each, subject, context, call)
            if isinstance(verdict, Block):
                text = f"The result was withheld: {verdict.reason}"
                return ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)
            if isinstance(verdict, Rewrite):
                part = _rewritten(part, verdict.text)
        return part

    async def _text(self, checks: Sequence[Guardrail], text: str, context: RunContext[Any]) -> str | Block:
        for each in checks:
            verdict = await self._verdict(each, text, context)
            if isinstance(verdict, Block):
                return verdict
            if isinstance(verdict, Rewrite):
                text = verdict.text
        return text

    async def _verdict(
        self, check: Guardrail, subject: Any, context: RunContext[Any], call: ToolCallPart | None = None
    ) -> Verdict:
        started = time.perf_counter()
        verdict = await check.verdict(subject, context)
        self._tell(check, verdict, time.perf_counter() - started, call)
        return verdict

    def _tell(
        self, check: Guardrail, verdict: Verdict, duration_s: float, call: ToolCallPart | None = None
    ) -> None:
        if self._emit is not None:
            self._emit(
                GuardrailEvent(
                    stage=check.stage,
                    name=check.name,
                    verdict=_KINDS[type(verdict)],
                    reason=getattr(verdict, "reason", ""),
                    duration_s=duration_s,
                    tool_name=call.tool_name if call is not None else None,
                    tool_call_id=call.tool_call_id if call is not None else None,
                )
            )


def _rewritten(part: ToolReturnPart | RetryPromptPart, text: str) -> ToolReturnPart | RetryPromptPart:
    """Return a result with other text, and the value of that text; code in code mode reads the value."""
    if isinstance(part, RetryPromptPart):
        return replace(part, content=text)
    content = with_text(part.content, text)
    if part.data is None:
        return replace(part, content=content)
    if isinstance(part.data, str):
        return replace(part, content=content, data=text)
    try:
        _, value = json_form(parsed_json(text))
    except (ValueError, RecursionError):  # plain text: the value that was read before no longer fits it
        value = None
    return replace(part, content=content, data=value)
