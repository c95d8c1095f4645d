"""Performs what the loop decides: asks the model, runs tools, reads the answer, and tells listeners.

A run is an `AgentRun`: `advance()` performs one action and returns the next, so that `run`, `run_stream` and
`iter` are the same code. The state is kept whole at every await: when a run is cancelled while tools are
running, their calls are answered with "interrupted", so no conversation is left with a call without result.

With a journal, every state is stored before anything follows from it, and a call is noted before it runs; where a
response asks for one call, which starts at once, both are one write. What a process that is killed leaves is
therefore a state, and at most the calls of one response whose outcome is unknown; those are asked about and not
repeated, unless their tool says that repeating does no harm.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from agentkit.context import RunContext
from agentkit.errors import CheckpointError, ModelRetry, UserError, attach_run
from agentkit.events import (
    AgentEvent,
    CompactionEvent,
    HandoffEvent,
    LimitReachedEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    PlanEvent,
    RequestShape,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
)
from agentkit.inner_runs import InnerRuns
from agentkit.limit_note import limit_note, with_note
from agentkit.limits import RunUsage
from agentkit.loop import (
    Action,
    CallModel,
    Finish,
    HandOver,
    MakePlan,
    Observation,
    OutputRejected,
    Planned,
    PlanUpset,
    ReadOutput,
    Refused,
    RunTools,
    ToolOutcomes,
    next_action,
    step,
)
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    UserPromptPart,
)
from agentkit.models.model import (
    ModelDelta,
    ModelRequestParameters,
    ModelSettings,
    OutputSchema,
    TextDelta,
    ThinkingDelta,
    TokensDelta,
)
from agentkit.results import RunResult, RunResultStatus
from agentkit.run_plan import Enter, RunPlan, Sink
from agentkit.run_tools import Offer, offered
from agentkit.state import RunState, RunStatus
from agentkit.tool_turn import interrupted, run_turn
from agentkit.tools.definition import ToolDefinition
from agentkit.turn_scope import TurnScope
from agentkit.well_formed import well_formed

if TYPE_CHECKING:
    from agentkit.compaction import Compaction
    from agentkit.guardrails.checks import Checks

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")
Ask = Callable[..., Awaitable[ModelResponse]]


class AgentRun(Generic[DepsT, OutputT]):
    """A run in progress. Used by `Agent`; not safe for use from two tasks at once."""

    def __init__(self, plan: RunPlan[DepsT, OutputT], enter: Enter) -> None:
        """Prepare a run; nothing happens before `advance`. The plan is entered, `enter` is for hand-offs."""
        self._plan = plan
        self._enter = enter
        self._opening: tuple[ModelMessage, ...] = ()
        """What the agent that has the run is shown of the time before it had it."""
        self._state = plan.state
        self._next: Action | None = None
        self._offer = Offer()
        self._journal = plan.journal
        self._goes_on = False
        """Whether the action that follows from what is observed is performed at once."""
        self._is_stored = True
        """Whether the journal has the state; if not, it gets it with the start of the call that is next."""
        self._n_reported = len(plan.state.messages) if plan.request is not None else _n_answered(plan.state)
        self._reported_tools: tuple[ToolDefinition, ...] | None = None
        self._reported_shape: RequestShape | None = None
        self._tokens: TokensDelta | None = None
        """Of the last reply."""
        self._started = time.perf_counter()
        self._result: RunResult[OutputT] | None = None
        self._has_failed = False
        self._interruptions: list[str] = []
        self._charged: RunUsage | None = None
        """Used by tools for models of their own, in this turn."""
        self._emit: Sink | None = self._send if plan.sinks else None
        self._hears = self._on_delta if plan.sinks else None

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

    async def finish(self, *, pace: Callable[[], Awaitable[None]] | None = None) -> RunResult[OutputT]:
        """Advance until the end and return the result; `pace` is awaited before each action but the first."""
        await self._advance(goes_on=True)
        while self._result is None:
            if pace is not None:
                await pace()
            await self._advance(goes_on=True)
        return self._result

    async def advance(self) -> Action | None:
        """Perform the next action; return the one after it, None at the end. The journal has the state then.

        Raises:
            AgentRunError: the run failed; `state`, `messages` and `usage` of the error hold what was done. Any
                other error that ends a run (a developer's mistake, a listener's own error) has them as well.
            UserError: the run has failed before; start another one from `state.messages`.
        """
        return await self._advance(goes_on=False)

    async def _advance(self, *, goes_on: bool) -> Action | None:
        """Perform the next action; `goes_on` says that the one after it is performed at once."""
        if self._result is not None:
            return None
        if self._has_failed:
            raise UserError("this run has failed; go on with a new one: message_history=run.state.messages.")
        self._goes_on = goes_on
        try:
            if self._next is None:
                await self._start()
            else:
                await self._perform(self._next)
        except Exception as error:
            attach_run(error, self._state)
            self._report_failure(error)
            if self._journal is not None and not isinstance(error, CheckpointError):
                await self._journal.failed()
            raise
        except BaseException as error:
            self._report_failure(error)
            raise
        return self._next

    async def _start(self) -> None:
        if self._state.handed:
            await self._take_over()
        else:
            await self._refresh_tools()
        plan, state, names = self._plan, self._state, tuple(self._offer.tools)
        model_name = plan.model.name
        if not state.tainted and not state.handed and self._offer.taints(state):
            self._state = replace(state, tainted=True)
        if self._state.tainted:
            self._offer = self._offer.tainted()
        if plan.request is None:
            if self._emit is not None:
                self._emit(RunResumedEvent(state.run_id, plan.agent_name, model_name, names, state.step))
            self._next = next_action(self._state, self._offer.rules)
            await self._save("running")
            return
        if self._emit is not None:
            self._emit(RunStartedEvent(state.run_id, plan.agent_name, model_name, names, state.n_history))
        await self._observe(await self._checked_request(plan.request))

    async def _checked_request(self, request: ModelRequest) -> ModelRequest | Refused:
        if self._offer.checks is None:
            return request
        parts: list[ModelRequestPart] = []
        for part in request.parts:
            if isinstance(part, UserPromptPart):
                text = await self._offer.checks.input(part.content, self._context())
                if not isinstance(text, str):
                    return Refused()
                part = replace(part, content=text)
            parts.append(part)
        return ModelRequest(tuple(parts))

    async def _perform(self, action: Action) -> None:
        match action:
            case MakePlan(reason=reason):
                await self._observe(await self._make_plan(reason))
            case CallModel(final=final) if (upset := await self._upset(final)) is not None:
                await self._observe(upset)
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
                await self._answer(response.text, status)
            case HandOver():
                await self._take_over()
                self._next = next_action(self._state, self._offer.rules)
            case Finish(status=status):
                await self._end(None, status)  # pyright: ignore[reportArgumentType] - documented on RunResult.output

    async def _answer(self, answer: str, status: RunStatus) -> None:
        """End with an answer, unless it is blocked or must be mended."""
        checks = self._offer.checks
        try:
            text = answer if checks is None else await checks.output(answer, self._context())
            output = await self._read_output(text) if isinstance(text, str) else None
        except ModelRetry as signal:
            await self._observe(OutputRejected(str(signal)))
            return
        if not isinstance(text, str):
            await self._observe(Refused())
        else:
            await self._end(output, status)  # pyright: ignore[reportArgumentType]

    async def _take_over(self) -> None:
        """Let the agent that has the run, as the state says, take the place of the one before."""
        before, state = self._plan, self._state
        if before.team is None:  # of a stored state: without a team no tool hands over
            raise CheckpointError(
                f"run {state.run_id} was handed over to {state.handed[-1].to!r}, and this agent has no `handoffs`."
            )
        self._opening = before.team.opening(state, self._context())
        self._plan = before.handed_to(before.team.member(state).plan)
        await self._enter(self._plan)
        await self._refresh_tools()
        self._n_reported = max(self._n_reported, state.handed[-1].at)
        if self._emit is not None:
            after = self._plan
            names = tuple(self._offer.tools)
            self._emit(
                HandoffEvent(before.agent_name, state.handed[-1].to, after.model.name, names, self._opening)
            )

    def _conversation(self) -> tuple[ModelMessage, ...]:
        """Return the conversation as the agent that has the run sees it."""
        state = self._state
        return (*self._opening, *state.messages[state.handed[-1].at :]) if state.handed else state.messages

    async def release(self) -> None:
        """Let other processes take the run up: this one does not go on with it."""
        if self._journal is None or self._result is not None:
            return
        from anyio import CancelScope

        with CancelScope(shield=True), suppress(CheckpointError):  # if it cannot be written, the lease runs out
            await self._journal.release()

    def interrupt(self, message: str) -> None:
        """Say something to a run that goes on: the model reads it before its next reply, and a plan is revised."""
        self._interruptions.append(well_formed(message))

    async def _upset(self, final: bool) -> PlanUpset | None:
        """Return what keeps the run from going on as planned; before the last reply only the user can."""
        if self._interruptions:
            message = self._interruptions.pop(0)
            return PlanUpset(f"the user says: {message}", said=message)
        plan, planner = self._state.plan, self._plan.planner
        if final or plan is None or planner is None or plan.current is None:
            return None
        if plan.current.tool is not None and plan.current.tool not in self._offer.tools:
            return PlanUpset(f"the tool {plan.current.tool!r} is not there any more")
        if await planner.holds(plan, self._context()):
            return None
        return PlanUpset(f"the precondition of the step {plan.current.goal!r} does not hold")

    async def _make_plan(self, reason: str | None) -> Planned:
        from agentkit.planning.planner import Situation

        state, planner = self._state, self._plan.planner
        assert planner is not None  # MakePlan follows from `max_revisions`, which a planner has
        used = RunUsage()

        async def ask(messages: Sequence[ModelRequest], schema: OutputSchema) -> ModelResponse:
            nonlocal used
            parameters = ModelRequestParameters(output=schema, settings=self._plan.settings)
            response = await self._plan.model.request(messages, parameters)
            used = used.plus_request(response.usage)
            return response

        prompts = (part for message in state.messages[state.n_history :] for part in message.parts)
        said = next((part.content for part in prompts if isinstance(part, UserPromptPart)), "")
        if state.handed:
            said = state.handed[-1].task
        task = said if state.plan is None else state.plan.task
        situation = Situation(task, self._offer.definitions, self._context(), ask)
        if state.plan is None:
            steps = await planner.plan(situation)
        else:
            steps = await planner.revise(situation, state.plan, reason or "")
        steps = None if steps is None else tuple(steps)
        if self._emit is not None:
            self._emit(PlanEvent(steps, reason))
        return Planned(task, steps, used)

    async def _observe(self, seen: Observation) -> None:
        before = self._state.limit
        self._state, self._next = step(self._state, seen, self._offer.rules)
        self._is_stored = not self._starts_a_call(self._next)
        if self._is_stored:
            await self._save("running")
        if self._emit is not None and self._state.limit is not None and before is None:
            self._emit(LimitReachedEvent(self._state.limit))

    def _starts_a_call(self, action: Action) -> bool:
        """Say whether next is the start of one call and nothing else: nobody is asked, no call runs beside it."""
        if not (self._goes_on and isinstance(action, RunTools) and len(action.calls) == 1):
            return False
        has_rule = self._offer.tools[action.calls[0].tool_name].requires_approval
        return self._journal is not None and self._offer.checks is None and has_rule is False

    async def _save(self, status: RunResultStatus | Literal["running"]) -> None:
        plan = self._plan
        if self._journal is not None:
            await self._journal.save(self._state, status)
        elif plan.checkpointer is not None:
            self._journal = await plan.checkpointer.create(
                self._state, agent_name=plan.agent_name, metadata=plan.metadata
            )

    async def _call_model(self, final: bool) -> ModelResponse | Refused:
        plan, state = self._plan, self._state
        if self._offer.has_changed(plan.toolsets):
            await self._refresh_tools()
        allowed = self._allowed()
        note = limit_note(state) if final and self._offer.tools else None
        parameters = ModelRequestParameters(
            tools=self._offer.definitions,
            allowed_tools=None if len(allowed) == len(self._offer.definitions) else frozenset(allowed),
            output=plan.output.schema,
            tool_choice=_tool_choice(plan.settings, state, final),
            parallel_tool_calls=plan.parallel_tool_calls,
            settings=plan.settings,
        )
        messages = self._conversation()
        if plan.compaction is not None:
            messages = await self._shown(plan.compaction, messages)
        ask = partial(plan.model.request, with_note(messages, note), parameters)
        if self._emit is not None:
            self._report_request(() if final else allowed, parameters, note)
        started, self._tokens, checks = time.perf_counter(), None, self._offer.checks
        response = await (ask(on_delta=self._hears) if checks is None else self._guarded(ask, checks))
        if self._emit is not None and isinstance(response, ModelResponse):
            self._emit(ModelResponseEvent(state.step + 1, response, time.perf_counter() - started, self._tokens))
            self._n_reported = len(state.messages) + 1
        return response

    async def _shown(self, compaction: Compaction, messages: tuple[ModelMessage, ...]) -> Sequence[ModelMessage]:
        """Return the conversation as the model is shown it, made shorter if it has grown too long."""
        from agentkit.compaction import view

        state = self._state
        compacted = await compaction.compact(messages, state.compacted, self._plan.model)
        if compacted is not None:
            self._state = state = replace(state, compacted=compacted)
            if self._emit is not None:
                self._emit(CompactionEvent(compacted))
        return view(messages, state.compacted)

    async def _guarded(self, ask: Ask, checks: Checks) -> ModelResponse | Refused:
        """Ask the model while the checks that may do so run beside it; a `Block` stops it where it is."""
        state, context = self._state, self._context()
        guardrails = checks.guardrails
        beside = state.step == 0 and any(each.mode == "parallel" for each in guardrails.input)
        streaming = any(each.streaming for each in guardrails.output)
        if not beside and not streaming:
            return await ask(on_delta=self._hears)
        from agentkit.guardrails.beside import ask_beside

        prompt = "\n".join(
            part.content
            for message in state.messages[state.n_history :]
            for part in message.parts
            if isinstance(part, UserPromptPart)
        )
        response = await ask_beside(
            ask,
            check_input=partial(checks.input_beside, prompt, context) if beside else None,
            check_text=partial(checks.output_so_far, context=context) if streaming else None,
            on_delta=self._hears,
        )
        return response if response is not None else Refused()

    def _allowed(self) -> tuple[str, ...]:
        step = None if self._state.plan is None else self._state.plan.current
        if step is not None and step.tool is not None and step.tool in self._offer.tools:
            return (step.tool,)
        if not self._state.disabled_tools:
            return tuple(self._offer.tools)
        return tuple(name for name in self._offer.tools if name not in self._state.disabled_tools)

    async def _run_tools(self, action: RunTools) -> ToolOutcomes | None:
        scope = TurnScope(
            tools=self._offer.tools,
            context=self._context(InnerRuns(self._state, self._journal)),
            emit=self._emit,
            default_timeout_s=self._plan.tool_timeout_s,
            checks=self._offer.checks,
            checks_if_tainted=self._offer.checks_if_tainted,
            journal=self._journal,
            is_stored=self._is_stored,
            nested=self._offer.nested,
        )
        try:
            self._state, outcomes = await run_turn(self._state, action, scope)
        except BaseException as error:
            self._state = interrupted(self._state, action, scope.progress)
            if not self._state.tainted and self._offer.taints(self._state):
                self._state = replace(self._state, tainted=True)
            if isinstance(error, Exception) and not isinstance(error, CheckpointError):
                await self._note_answers(scope)
            raise
        finally:
            if self._charged is not None:
                self._state = replace(self._state, usage=self._state.usage.plus(self._charged))
                self._charged = None
        if self._state.tainted:
            self._offer = self._offer.tainted()
        return outcomes

    async def _note_answers(self, scope: TurnScope) -> None:
        """Store the results that the journal does not have: the last one of a turn is stored with its end."""
        if self._journal is not None:
            for part in scope.progress.answers.values():
                await self._journal.call_answered(part)

    async def _read_output(self, text: str) -> OutputT:
        output = self._plan.output.parse(text)
        for validate in self._plan.output_validators:
            output = await validate(self._context(), output)
        return output

    async def _end(self, output: OutputT, status: RunResultStatus) -> None:
        await self._save(status)
        plan, said = self._plan, self._state.messages[self._state.n_history :]
        if plan.session is not None and said and status != "needs_approval":
            await plan.session.append(said, plan.session_version or "")
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
        self._offer = await offered(self._plan, self._context(), self._emit)

    def _context(self, inner: InnerRuns | None = None) -> RunContext[DepsT]:
        state = self._state
        return RunContext(
            deps=self._plan.deps,
            run_id=state.run_id,
            messages=state.messages,
            usage=state.usage,
            step=state.step,
            tainted=state.tainted,
            limits=self._plan.limits.left(state.usage),
            charge=self._charge,
            inner=inner,
        )

    def _charge(self, usage: RunUsage) -> None:
        self._charged = usage if self._charged is None else self._charged.plus(usage)

    def _send(self, event: AgentEvent) -> None:
        for sink in self._plan.sinks:
            sink(event)

    def _report_request(
        self, allowed: tuple[str, ...], parameters: ModelRequestParameters, note: str | None
    ) -> None:
        new = tuple(m for m in self._state.messages[self._n_reported :] if isinstance(m, ModelRequest))
        tools = None if self._offer.definitions == self._reported_tools else self._offer.definitions
        self._reported_tools = self._offer.definitions
        asked = RequestShape(parameters.output, parameters.settings, parameters.parallel_tool_calls)
        shape = None if asked == self._reported_shape else asked
        self._reported_shape = asked
        step, choice = self._state.step + 1, parameters.tool_choice
        self._send(ModelRequestEvent(step, new, allowed, tools, choice, shape, note))

    def _on_delta(self, delta: ModelDelta) -> None:
        if isinstance(delta, TextDelta):
            self._send(TextDeltaEvent(delta.text))
        elif isinstance(delta, ThinkingDelta):
            self._send(ThinkingDeltaEvent(delta.text))
        elif isinstance(delta, TokensDelta):
            self._tokens = delta
        else:
            self._send(ToolCallDeltaEvent(delta.index, delta.tool_name, delta.arguments))

    def _report_failure(self, error: BaseException) -> None:
        self._next, self._has_failed = None, True
        state = self._state
        event = RunFailedEvent(state.run_id, type(error).__name__, str(error), state.usage)
        for sink in self._plan.sinks:  # all are told, whatever one of them raises: the first error counts
            try:
                sink(event)
            except Exception as also:
                error.add_note(f"A listener failed when it was told of this: {type(also).__name__}: {also}")


def _n_answered(state: RunState) -> int:
    """Return how many messages there are up to the last response, that included."""
    n_after = next((n for n, m in enumerate(reversed(state.messages)) if isinstance(m, ModelResponse)), None)
    return state.n_history if n_after is None else max(state.n_history, len(state.messages) - n_after)


def _tool_choice(settings: ModelSettings, state: RunState, final: bool) -> Literal["auto", "required", "none"]:
    if final or settings.tool_choice == "none":
        return "none"
    if state.plan is not None and state.plan.current is not None and state.plan.current.tool is not None:
        return "required"
    return "required" if settings.tool_choice == "required" and state.step == 0 else "auto"
