"""Performs what the loop decides: asks the model, runs tools, reads the answer, and tells listeners.

A run is an `AgentRun`: `advance()` performs one action and returns the next, so that `run`, `run_stream` and
`iter` are the same code. The state is kept whole at every await: when a run is cancelled while tools are
running, their calls are answered with "interrupted", so no conversation is left with a call without result.

With a journal, every state is stored before anything follows from it, and a call is noted before it runs. What a
process that is killed leaves is therefore a state, and at most the calls of one response whose outcome is unknown;
those are asked about and not repeated, unless their tool says that repeating does no harm.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from agentkit.approvals import PendingCall, pending_call
from agentkit.context import RunContext
from agentkit.errors import AgentRunError, CheckpointError, ModelRetry, UserError
from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    LimitReachedEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
)
from agentkit.limits import UsageLimits
from agentkit.loop import (
    Action,
    CallModel,
    Finish,
    LoopRules,
    OutputRejected,
    ReadOutput,
    RunTools,
    ToolOutcomes,
    next_action,
    step,
)
from agentkit.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart
from agentkit.models.model import (
    Model,
    ModelDelta,
    ModelRequestParameters,
    ModelSettings,
    TextDelta,
    ThinkingDelta,
)
from agentkit.output import OutputSpec
from agentkit.results import RunResult, RunResultStatus
from agentkit.state import RunState
from agentkit.tools.approval import reason_to_ask
from agentkit.tools.definition import Tool, ToolDefinition
from agentkit.tools.execution import CallResult, CallScope, run_calls
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")
Sink = Callable[[AgentEvent], None]
OutputValidator = Callable[[RunContext[Any], Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class RunPlan(Generic[DepsT, OutputT]):
    """Everything about a run that is settled before it starts."""

    model: Model
    toolsets: tuple[Toolset, ...]
    output: OutputSpec[OutputT]
    output_validators: tuple[OutputValidator, ...]
    request: ModelRequest | None
    """What the run begins with; None where a stored run goes on."""
    state: RunState
    deps: DepsT
    agent_name: str | None
    limits: UsageLimits
    retries: int
    tool_timeout_s: float | None
    settings: ModelSettings
    parallel_tool_calls: bool
    sinks: tuple[Sink, ...]
    checkpointer: Checkpointer | None = None
    """Where a new run's journal is begun."""
    metadata: Mapping[str, str] | None = None
    journal: RunJournal | None = None
    """Of the stored run that goes on."""


class AgentRun(Generic[DepsT, OutputT]):
    """A run in progress. Used by `Agent`; not safe for use from two tasks at once."""

    def __init__(self, plan: RunPlan[DepsT, OutputT]) -> None:
        """Prepare a run; nothing happens before `advance`."""
        self._plan = plan
        self._state = plan.state
        self._next: Action | None = None
        self._tools: dict[str, Tool] = {}
        self._definitions: tuple[ToolDefinition, ...] = ()
        self._rules = LoopRules(max_retries={})
        self._revisions: tuple[int, ...] = ()
        self._journal = plan.journal
        self._n_reported = len(plan.state.messages) if plan.request is not None else _n_answered(plan.state)
        self._reported_tools: tuple[ToolDefinition, ...] | None = None
        self._started = time.perf_counter()
        self._result: RunResult[OutputT] | None = None
        self._has_failed = False
        self._emit: Sink | None = self._send if plan.sinks else None

    @property
    def state(self) -> RunState:
        """The state as of now; whole even after a failure or cancellation."""
        return self._state

    @property
    def next_action(self) -> Action | None:
        """What `advance` will perform; None before the first call and after the end."""
        return self._next

    @property
    def result(self) -> RunResult[OutputT] | None:
        """The result once the run has ended."""
        return self._result

    async def __aiter__(self) -> AsyncIterator[Action]:
        """Advance step by step, yielding each action before it is performed."""
        while (action := await self.advance()) is not None:
            yield action

    async def finish(self) -> RunResult[OutputT]:
        """Advance until the end and return the result."""
        while self._result is None:
            await self.advance()
        return self._result

    async def advance(self) -> Action | None:
        """Perform the next action; return the one after it, None at the end.

        Raises:
            AgentRunError: the run failed; `messages` and `usage` of the error hold what was done.
            UserError: the run has failed before; start another one from `state.messages`.
        """
        if self._result is not None:
            return None
        if self._has_failed:
            raise UserError("this run has failed; go on with a new one: message_history=run.state.messages.")
        try:
            if self._next is None:
                await self._start()
            else:
                await self._perform(self._next)
        except AgentRunError as error:
            error.messages, error.usage = self._state.messages, self._state.usage
            self._report_failure(error)
            if self._journal is not None and not isinstance(error, CheckpointError):
                await self._journal.failed()
            raise
        except BaseException as error:
            self._report_failure(error)
            raise
        return self._next

    async def _start(self) -> None:
        plan = self._plan
        await self._refresh_tools()
        state, names, model_name = self._state, tuple(self._tools), plan.model.name
        if plan.request is None:
            if self._emit is not None:
                self._emit(RunResumedEvent(state.run_id, plan.agent_name, model_name, names, state.step))
            self._next = next_action(state, self._rules)
            await self._save("running")
            return
        if self._emit is not None:
            self._emit(RunStartedEvent(state.run_id, plan.agent_name, model_name, names, state.n_history))
        await self._observe(plan.request)

    async def _perform(self, action: Action) -> None:
        match action:
            case CallModel(final=final):
                from anyio.lowlevel import checkpoint

                await checkpoint()  # a model and tools that never wait must not starve other tasks
                await self._observe(await self._call_model(final))
            case RunTools():
                outcomes = await self._run_tools(action)
                if outcomes is None:
                    await self._end(None, "needs_approval")  # pyright: ignore[reportArgumentType]
                else:
                    await self._observe(outcomes)
            case ReadOutput(response=response, status=status):
                try:
                    output = await self._read_output(response)
                except ModelRetry as signal:
                    await self._observe(OutputRejected(str(signal)))
                else:
                    await self._end(output, status)
            case Finish(status=status):
                await self._end(None, status)  # pyright: ignore[reportArgumentType] - documented on RunResult.output

    async def _observe(self, seen: ModelRequest | ModelResponse | ToolOutcomes | OutputRejected) -> None:
        before = self._state.limit
        self._state, self._next = step(self._state, seen, self._rules)
        await self._save("running")
        if self._emit is not None and self._state.limit is not None and before is None:
            self._emit(LimitReachedEvent(self._state.limit))

    async def _save(self, status: RunResultStatus | Literal["running"]) -> None:
        plan = self._plan
        if self._journal is not None:
            await self._journal.save(self._state, status)
        elif plan.checkpointer is not None:
            self._journal = await plan.checkpointer.create(
                self._state, agent_name=plan.agent_name, metadata=plan.metadata
            )

    async def _call_model(self, final: bool) -> ModelResponse:
        plan, state = self._plan, self._state
        if any(t.revision != seen for t, seen in zip(plan.toolsets, self._revisions, strict=True)):
            await self._refresh_tools()
        allowed = () if final else self._allowed()
        parameters = ModelRequestParameters(
            tools=self._definitions,
            allowed_tools=None if len(allowed) == len(self._definitions) else frozenset(allowed),
            output=plan.output.schema,
            tool_choice=_tool_choice(plan.settings, state, final),
            parallel_tool_calls=plan.parallel_tool_calls,
            settings=plan.settings,
        )
        if self._emit is None:
            return await plan.model.request(state.messages, parameters)
        self._report_request(allowed)
        started = time.perf_counter()
        response = await plan.model.request(state.messages, parameters, on_delta=self._on_delta)
        self._emit(ModelResponseEvent(state.step + 1, response, time.perf_counter() - started))
        self._n_reported = len(state.messages) + 1
        return response

    def _allowed(self) -> tuple[str, ...]:
        if not self._state.disabled_tools:
            return tuple(self._tools)
        return tuple(name for name in self._tools if name not in self._state.disabled_tools)

    async def _run_tools(self, action: RunTools) -> ToolOutcomes | None:
        """Run the calls that have no answer yet; None where one of them waits for a decision."""
        answered = {part.tool_call_id for part in self._state.answers}
        calls = [call for call in action.calls if call.tool_call_id not in answered]
        waiting = await self._waiting(calls)
        if waiting:  # before anything of this response runs: what is allowed may be all or nothing
            return self._wait(waiting)
        try:
            results = await run_calls(calls, self._call_scope(calls))
        except BaseException:
            self._answer_interrupted(action)
            raise
        parts = [*self._state.answers, *(part for part in results if not isinstance(part, PendingCall))]
        waiting = [call for call in results if isinstance(call, PendingCall)]
        if waiting:
            self._state = replace(self._state, answers=tuple(parts))
            return self._wait(waiting)
        if action.refused or answered:
            parts = _in_call_order(self._state, [*parts, *action.refused])
        return ToolOutcomes(tuple(parts), n_run=len(action.calls))

    async def _waiting(self, calls: Sequence[ToolCallPart]) -> list[PendingCall]:
        """Return the calls that must not run before somebody has decided."""
        waiting: list[PendingCall] = []
        unknown = {call.tool_call_id: call for call in self._state.pending if call.kind == "unknown"}
        for call in calls:
            tool = self._tools[call.tool_name]
            if call.tool_call_id in unknown and not tool.is_repeatable:
                asked = unknown[call.tool_call_id]
            elif tool.requires_approval and (reason := await reason_to_ask(tool, call, self._context())):
                asked = pending_call(call, reason)
            else:
                continue
            if not self._is_granted(asked):
                waiting.append(asked)
        return waiting

    def _is_granted(self, call: PendingCall) -> bool:
        return any(g.covers(call.tool_name, call.tool_call_id, call.digest) for g in self._state.grants)

    def _wait(self, calls: Sequence[PendingCall]) -> None:
        self._state = replace(self._state, pending=tuple(calls))
        if self._emit is not None:
            for call in calls:
                self._emit(ApprovalRequestedEvent(call))

    def _call_scope(self, calls: Sequence[ToolCallPart]) -> CallScope:
        state, journal = self._state, self._journal
        scope = CallScope(
            tools=self._tools,
            context=self._context(),
            emit=self._emit,
            default_timeout_s=self._plan.tool_timeout_s,
            retries_of=state.retries_of,
        )
        if state.grants:
            granted = frozenset(call.tool_call_id for call in calls if self._is_granted(pending_call(call, "")))
            scope = replace(scope, approved=granted)
        if journal is None:
            return scope
        n_open = len(calls)

        async def on_start(call: ToolCallPart, tool: Tool) -> None:
            await journal.call_started(call, durable=bool(tool.definition.annotations.destructive))

        async def on_result(result: CallResult) -> None:
            nonlocal n_open
            n_open -= 1
            if n_open and not isinstance(result, PendingCall):  # the last one is stored with the state
                await journal.call_answered(result)

        return replace(scope, on_start=on_start, on_result=on_result)

    def _answer_interrupted(self, action: RunTools) -> None:
        """Keep the conversation usable: a call that was cut off still has a result, which says so.

        A journal is not told: there the calls stay in flight.
        """
        text = "Interrupted; the call may or may not have taken effect."
        known = {part.tool_call_id: part for part in self._state.answers}
        parts = [
            known.get(call.tool_call_id) or ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)
            for call in action.calls
        ]
        answered = ModelRequest(tuple(_in_call_order(self._state, [*parts, *action.refused])))
        self._state = replace(self._state, messages=(*self._state.messages, answered), answers=(), pending=())

    async def _read_output(self, response: ModelResponse) -> OutputT:
        output = self._plan.output.parse(response.text)
        for validate in self._plan.output_validators:
            output = await validate(self._context(), output)
        return output

    async def _end(self, output: OutputT, status: RunResultStatus) -> None:
        await self._save(status)
        self._next = None
        self._result = RunResult(output, status, self._state)
        if self._emit is not None:
            state = self._state
            self._emit(
                RunFinishedEvent(
                    state.run_id,
                    status,
                    output,
                    state.usage,
                    state.confidence,
                    time.perf_counter() - self._started,
                )
            )

    async def _refresh_tools(self) -> None:
        toolsets = self._plan.toolsets
        self._revisions = tuple(toolset.revision for toolset in toolsets)
        listed = await _list_all(toolsets, self._context())
        tools: dict[str, Tool] = {}
        origin: dict[str, str] = {}
        for toolset, its_tools in zip(toolsets, listed, strict=True):
            for tool in its_tools:
                if tool.name in tools:
                    raise UserError(
                        f"tool {tool.name!r} is in {origin[tool.name]!r} and in {toolset.id!r}; give one of them "
                        f"a prefix, e.g. `toolset.prefixed({toolset.id.split()[0]!r})`, or rename it."
                    )
                tools[tool.name], origin[tool.name] = tool, toolset.id
        self._tools = tools
        self._definitions = tuple(tool.definition for tool in tools.values())
        default = self._plan.retries
        self._rules = LoopRules(
            max_retries={t.name: default if t.max_retries is None else t.max_retries for t in tools.values()},
            limits=self._plan.limits,
            output_retries=default,
        )

    def _context(self) -> RunContext[DepsT]:
        state = self._state
        return RunContext(
            deps=self._plan.deps,
            run_id=state.run_id,
            messages=state.messages,
            usage=state.usage,
            step=state.step,
        )

    def _send(self, event: AgentEvent) -> None:
        for sink in self._plan.sinks:
            sink(event)

    def _report_request(self, allowed: tuple[str, ...]) -> None:
        new = tuple(m for m in self._state.messages[self._n_reported :] if isinstance(m, ModelRequest))
        tools = None if self._definitions == self._reported_tools else self._definitions
        self._reported_tools = self._definitions
        self._send(ModelRequestEvent(self._state.step + 1, new, allowed, tools))

    def _on_delta(self, delta: ModelDelta) -> None:
        if isinstance(delta, TextDelta):
            self._send(TextDeltaEvent(delta.text))
        elif isinstance(delta, ThinkingDelta):
            self._send(ThinkingDeltaEvent(delta.text))
        else:
            self._send(ToolCallDeltaEvent(delta.index, delta.tool_name, delta.arguments))

    def _report_failure(self, error: BaseException) -> None:
        self._next, self._has_failed = None, True
        if self._emit is not None:
            state = self._state
            self._emit(RunFailedEvent(state.run_id, type(error).__name__, str(error), state.usage))


def _n_answered(state: RunState) -> int:
    """Return how many messages there are up to the last response, that included."""
    n_after = next((n for n, m in enumerate(reversed(state.messages)) if isinstance(m, ModelResponse)), None)
    return state.n_history if n_after is None else max(state.n_history, len(state.messages) - n_after)


def _tool_choice(settings: ModelSettings, state: RunState, final: bool) -> Literal["auto", "required", "none"]:
    if final or settings.tool_choice == "none":
        return "none"
    return "required" if settings.tool_choice == "required" and state.step == 0 else "auto"


async def _list_all(toolsets: Sequence[Toolset], context: RunContext[Any]) -> list[Sequence[Tool]]:
    """List every toolset's tools, several at once: a server may still be starting."""
    import anyio

    if len(toolsets) == 1:
        return [await toolsets[0].list_tools(context)]
    listed: list[Sequence[Tool]] = [()] * len(toolsets)
    failures: list[Exception] = []

    async def list_one(index: int) -> None:
        try:
            listed[index] = await toolsets[index].list_tools(context)
        except Exception as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for index in range(len(toolsets)):
            tasks.start_soon(list_one, index)
    if failures:
        raise failures[0]
    return listed


def _in_call_order(state: RunState, parts: Sequence[Any]) -> list[Any]:
    response = state.messages[-1]
    assert isinstance(response, ModelResponse)  # RunTools always follows a response
    order = {call.tool_call_id: index for index, call in enumerate(response.tool_calls)}
    return sorted(parts, key=lambda part: order[part.tool_call_id])
