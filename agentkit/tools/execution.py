"""Execution of the calls of one response: in parallel, with barriers, timeouts and retries, results in call order.

A tool's signals become parts for the model. Any other exception of a tool becomes a failed result that the model
reads, or ends the run as `ToolExecutionError` with the work done so far attached (`OnToolError`). Errors of this
package, of listeners and of the journal are no failures of a tool and always end the run. A tool that raises
`ApprovalRequired` yields a pending call, not a result.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agentkit.approvals.pending import PendingCall, pending_call
from agentkit.basics.json_values import NoJSONForm, json_form
from agentkit.basics.well_formed import well_formed
from agentkit.context import RunContext
from agentkit.errors import (
    AgentRunError,
    ApprovalRequired,
    ModelRetry,
    ToolExecutionError,
    ToolFailed,
    UserError,
)
from agentkit.events import AgentEvent, ToolCallEvent, ToolResultEvent
from agentkit.files import FileLimits, admitted, content_with_files, files_of, references
from agentkit.messages import RetryPromptPart, ToolCallPart, ToolReturnPart
from agentkit.tools.tool import OnToolError, Tool, ToolOutput

DEFAULT_TOOL_TIMEOUT_S = 120.0
"""Default timeout of a tool call in seconds: enough for a build or a slow query, and it bounds a hung tool."""

Emit = Callable[[AgentEvent], None]
Outcome = Literal["success", "retry", "failed", "timeout", "not_run"]
CheckResult = Callable[
    [ToolReturnPart | RetryPromptPart, ToolCallPart, Tool, RunContext[Any]],
    Awaitable[ToolReturnPart | RetryPromptPart],
]
CallResult = ToolReturnPart | RetryPromptPart | PendingCall
Execute = Callable[[ToolCallPart, Tool, dict[str, Any], RunContext[Any]], Awaitable[Any]]


class CallListener(ABC):
    """A listener that keeps a context open while a tool call runs, for example a span.

    No protocol: each run asks which of its listeners are such, and asking for a protocol takes 10 to 20 us.
    """

    __slots__ = ()

    @abstractmethod
    def around_call(self, call: ToolCallPart) -> AbstractContextManager[object]:
        """Return a context that is entered before the call and left after it, however it ends."""


@dataclass(slots=True)
class TurnProgress:
    """Progress of the calls of a turn; still available after an error or a cancellation ended the turn."""

    started: set[str] = field(default_factory=set[str])
    """Ids of the calls whose tools have started."""
    answers: dict[str, ToolReturnPart | RetryPromptPart] = field(
        default_factory=dict[str, "ToolReturnPart | RetryPromptPart"]
    )
    """Results by call id."""
    runtime_error: Exception | None = None
    """Error of a listener or of the journal, which is no failure of the tool through which it passed."""


@dataclass(frozen=True, slots=True)
class CallScope:
    """Context shared by all calls of a response."""

    tools: Mapping[str, Tool]
    context: RunContext[Any]
    emit: Emit | None
    default_timeout_s: float | None
    on_tool_error: OnToolError
    retries_of: Callable[[str], int]
    approved: Collection[str] = ()
    """Ids of the approved calls."""
    on_start: Callable[[ToolCallPart, Tool], Awaitable[None]] | None = None
    """Awaited before a tool starts."""
    check_result: CheckResult | None = None
    """Filters a tool result before the model sees it."""
    on_result: Callable[[CallResult], Awaitable[None]] | None = None
    """Awaited with the result of a call, after the result event was sent, which a journal may store with it."""
    progress: TurnProgress = field(default_factory=TurnProgress)
    """Calls that have started and calls that have ended."""
    around_call: Callable[[ToolCallPart], AbstractContextManager[object]] | None = None
    """Returns a context that is entered around each call and its events."""
    file_limits: FileLimits = FileLimits()
    """Bounds on the files of a result."""
    execute: Execute | None = None
    """Runs a tool through the agent's middleware; None runs it directly."""

    def report(self, event: AgentEvent) -> None:
        """Send an event."""
        if self.emit is None:
            return
        try:
            self.emit(event)
        except Exception as error:
            self.progress.runtime_error = error
            raise

    async def start(self, call: ToolCallPart, tool: Tool) -> None:
        """Note that a tool starts."""
        if self.on_start is not None:
            try:
                await self.on_start(call, tool)
            except Exception as error:
                self.progress.runtime_error = error
                raise
        self.progress.started.add(call.tool_call_id)


async def run_calls(calls: Sequence[ToolCallPart], scope: CallScope) -> list[CallResult]:
    """Run the calls and return one result for each, in order.

    A call of a `sequential` tool waits for all earlier calls and delays all later ones; other calls run
    concurrently. The first error cancels the other calls and is raised unchanged.

    Raises:
        ToolExecutionError: a tool whose undeclared exceptions end the run raised one.
    """
    parts: list[CallResult | None] = [None] * len(calls)
    for group in _groups(calls, scope.tools):
        if len(group) == 1:
            parts[group[0]] = await _run_call(calls[group[0]], scope)
        else:
            await _run_group(calls, group, parts, scope)
    return [part for part in parts if part is not None]


def _groups(calls: Sequence[ToolCallPart], tools: Mapping[str, Tool]) -> list[list[int]]:
    groups: list[list[int]] = []
    joinable = False
    for index, call in enumerate(calls):
        if tools[call.tool_name].sequential:
            groups.append([index])
            joinable = False
        elif joinable:
            groups[-1].append(index)
        else:
            groups.append([index])
            joinable = True
    return groups


async def _run_group(
    calls: Sequence[ToolCallPart],
    group: list[int],
    parts: list[CallResult | None],
    scope: CallScope,
) -> None:
    import anyio

    failures: list[BaseException] = []
    cancelled = anyio.get_cancelled_exc_class()

    async def run(index: int) -> None:
        try:
            parts[index] = await _run_call(calls[index], scope)
        except cancelled:
            raise
        except BaseException as error:  # the task group would wrap it in an ExceptionGroup
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for index in group:
            tasks.start_soon(run, index)
    if failures:
        raise failures[0]


async def _run_call(call: ToolCallPart, scope: CallScope) -> CallResult:
    with nullcontext() if scope.around_call is None else scope.around_call(call):
        return await _run_reported(call, scope)


async def _run_reported(call: ToolCallPart, scope: CallScope) -> CallResult:
    tool = scope.tools[call.tool_name]
    started = time.perf_counter()
    if scope.emit is not None:
        scope.emit(ToolCallEvent(call.tool_name, call.tool_call_id, call.arguments, call.probability))
    part, outcome, error = await _attempt(call, tool, scope)
    if scope.check_result is not None and not isinstance(part, PendingCall):
        part = await scope.check_result(part, call, tool, scope.context)
    if isinstance(part, PendingCall):
        scope.progress.started.discard(call.tool_call_id)
    else:
        scope.progress.answers[call.tool_call_id] = part
    if scope.emit is not None and not isinstance(part, PendingCall):
        data = part.data if isinstance(part, ToolReturnPart) else None
        duration_s = time.perf_counter() - started
        scope.emit(
            ToolResultEvent(
                call.tool_name, call.tool_call_id, part.text, outcome, duration_s, data, error, references(part)
            )
        )
    if scope.on_result is not None:
        await scope.on_result(part)
    return part


async def _attempt(call: ToolCallPart, tool: Tool, scope: CallScope) -> tuple[CallResult, Outcome, str | None]:
    """Return the result of a call, its outcome, and the text of an undeclared exception."""
    import anyio

    name, call_id = call.tool_name, call.tool_call_id
    timeout_s = tool.timeout_s if tool.timeout_s is not None else scope.default_timeout_s
    context = replace(
        scope.context,
        tool_name=name,
        tool_call_id=call_id,
        retry=scope.retries_of(name),
        approved=call_id in scope.approved,
        emit=None if scope.emit is None else scope.report,
    )
    deadline = anyio.move_on_after(timeout_s)
    try:
        arguments = tool.validate(call.arguments)
        await scope.start(call, tool)
        with deadline:
            if scope.execute is None:
                value = await tool.call(arguments, context)
            else:
                value = await scope.execute(call, tool, arguments, context)
            part = _returned(call, value)
            if not isinstance(part.content, str):
                part = replace(part, content=admitted(part.content, scope.file_limits))
            if isinstance(value, ToolOutput) and value.timed_out:
                return part, "timeout", None
            return part, "failed" if part.is_error else "success", None
    except ModelRetry as signal:
        return RetryPromptPart(well_formed(str(signal)), name, call_id), "retry", None
    except ApprovalRequired as signal:
        return signal.pending or pending_call(call, str(signal) or "the tool asks for it"), "not_run", None
    except ToolFailed as signal:
        return ToolReturnPart(name, call_id, well_formed(str(signal)), is_error=True), "failed", None
    except (AgentRunError, UserError):
        raise
    except Exception as error:
        if error is scope.progress.runtime_error:
            raise
        from agentkit.tools.told_errors import is_told, told_error, whole_error

        if (tool.on_error or scope.on_tool_error) == "raise" or not is_told(error):
            raise ToolExecutionError(
                f"tool {name!r} raised {whole_error(error)}. Raise ModelRetry to let the model correct the call, "
                f'or ToolFailed to tell it that the tool cannot help; `on_error="tell"` tells it of any exception.'
            ) from error
        return ToolReturnPart(name, call_id, told_error(error), is_error=True), "failed", whole_error(error)
    text = f"Timed out after {timeout_s:g} s; the call may or may not have taken effect."
    return ToolReturnPart(name, call_id, text, is_error=True), "timeout", None


def as_output(call: ToolCallPart, value: Any) -> ToolOutput:
    """Return the value that a tool returned as a `ToolOutput`.

    Raises:
        UserError: the value has no JSON form.
    """
    part, timed_out = _returned(call, value), isinstance(value, ToolOutput) and value.timed_out
    return ToolOutput(part.content, part.data, part.is_error, timed_out)


def _returned(call: ToolCallPart, value: Any) -> ToolReturnPart:
    """Return the result of a call, in a form that every store returns unchanged.

    Raises:
        UserError: the value has no JSON form.
    """
    name, call_id = call.tool_name, call.tool_call_id
    if type(value) is str:
        text = well_formed(value)
        return ToolReturnPart(name, call_id, text, text)
    said = value.data if isinstance(value, ToolOutput) else value
    try:
        if (content := content_with_files(value)) is not None:
            said = [each.reference for each in files_of(content)]
            value = ToolOutput(content, said)
        text, data = ("null", None) if said is None else json_form(said)
    except NoJSONForm as error:
        raise UserError(
            f"tool {name!r} returned {type(said).__name__}, which has no JSON form: {error}. "
            f"Return text, JSON-able data, a pydantic model, or a ToolOutput."
        ) from error
    if isinstance(value, ToolOutput):
        text = value.content if not isinstance(value.content, str) else well_formed(value.content)
        return ToolReturnPart(name, call_id, text, data, is_error=value.is_error)
    return ToolReturnPart(name, call_id, str(data) if isinstance(value, str) else text, data)
