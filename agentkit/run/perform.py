"""Runner: performs the actions of the loop. It asks the model, runs tools, parses the answer, and emits events.

A run is an `AgentRun`: `advance()` performs one action and returns the next, so that `run`, `run_stream` and
`iter` share the same code. The state is consistent at every await: if a run is cancelled while tools are running,
their calls are answered with "interrupted", so no call in a conversation lacks a result.

With a journal, every state is stored before the next action, and a call is recorded before it runs. If a response
has a single call that starts at once, both are one write. A killed process therefore leaves a state, and at most
the calls of one response with an unknown outcome. A person must decide about these calls; they are repeated only
if their tool is idempotent.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from agentkit.basics.well_formed import well_formed
from agentkit.context import RunContext
from agentkit.errors import CheckpointError, ModelRetry, NoRequestLeft, UserError, attach_run
from agentkit.events import (
    LEFT_EARLY,
    AgentEvent,
    CompactionEvent,
    HandoffEvent,
    LimitReachedEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    PlanEvent,
    RepeatedCallEvent,
    RequestShape,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    SideRequestEvent,
    TextCallsEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
)
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import (
    Model,
    ModelDelta,
    ModelRequestParameters,
    ModelSettings,
    OutputSchema,
    TextDelta,
    ThinkingDelta,
    TokensDelta,
)
from agentkit.results import RunResult, RunResultStatus
from agentkit.run.budget import Budget
from agentkit.run.decide import (
    Action,
    CallModel,
    Finish,
    HandOver,
    MakePlan,
    Observation,
    OutOfBudget,
    OutputRejected,
    Planned,
    PlanUpset,
    ReadOutput,
    Refused,
    RunTools,
    Shortened,
    ToolOutcomes,
    next_action,
    step,
    with_answer,
    with_room,
)
from agentkit.run.hand_over import current_member, opening
from agentkit.run.inner_runs import InnerRuns
from agentkit.run.instructions import instructed, resolved
from agentkit.run.limit_note import limit_note, with_note
from agentkit.run.offer import Offer, offered
from agentkit.run.repeated_calls import repeat_of
from agentkit.run.setup import Enter, RunSetup, Sink
from agentkit.run.state import RunState, RunStatus
from agentkit.run.turn import interrupted, run_turn
from agentkit.run.turn_scope import TurnScope
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.execution import CallListener

if TYPE_CHECKING:
    from agentkit.guardrails.checks import Checks
    from agentkit.run.text_calls import TextCalls

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")
Ask = Callable[..., Awaitable[ModelResponse]]


class AgentRun(Generic[DepsT, OutputT]):
    """A run in progress; not safe for concurrent use from two tasks."""

    def __init__(self, setup: RunSetup[DepsT, OutputT], enter: Enter) -> None:
        """Prepare a run, which `advance` starts. `setup` is already entered; `enter` serves hand-offs."""
        self._setup = setup
        self._enter = enter
        self._opening: tuple[ModelMessage, ...] = ()
        """Earlier conversation that the current agent sees of the time before its hand-off."""
        self._state = setup.state
        self._next: Action | None = None
        self._offer = Offer()
        self._journal = setup.journal
        self._goes_on = False
        """True if the next action follows immediately, without returning to the caller."""
        self._is_stored = True
        """True if the journal has the state; if not, the start of the next call stores it."""
        self._n_reported = len(setup.state.messages) if setup.request is not None else _n_answered(setup.state)
        self._reported_tools: tuple[ToolDefinition, ...] | None = None
        self._reported_shape: RequestShape | None = None
        self._reported_instructions: str | None = None
        self._shortened_at: int | None = None
        """Step at which the conversation was last compacted; the model's token count predates the compaction."""
        self._tokens: TokensDelta | None = None
        """Token ids of the last response."""
        self._started = time.perf_counter()
        self._result: RunResult[OutputT] | None = None
        self._has_failed = False
        self._interruptions: list[str] = []
        self._budget = setup.budget or Budget(setup.limits, setup.state.usage)
        self._emit: Sink | None = self._send if setup.sinks else None
        self._hears = self._on_delta if setup.sinks else None
        self._call_listeners = tuple(sink for sink in setup.sinks if isinstance(sink, CallListener))

    @property
    def state(self) -> RunState:
        """The current state; consistent even after a failure or cancellation."""
        return self._state

    @property
    def next_action(self) -> Action | None:
        """Action that `advance` performs next; None before the first call and after the end."""
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
        """Advance until the end and return the result; `pace` is awaited before each action except the first."""
        await self._advance(goes_on=True)
        while self._result is None:
            if pace is not None:
                await pace()
            await self._advance(goes_on=True)
        return self._result

    async def advance(self) -> Action | None:
        """Perform the next action and return the one after it; None at the end. The journal then has the state.

        Raises:
            AgentRunError: the run failed; `state`, `messages` and `usage` of the error describe the work done. Any
                other error that ends a run (a developer's mistake, an error in a listener) has them too.
            UserError: the run has failed before; start a new one from `state.messages`.
        """
        return await self._advance(goes_on=False)

    async def _advance(self, *, goes_on: bool) -> Action | None:
        """Perform the next action; `goes_on` says that the one after it follows immediately."""
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
        setup, state, names = self._setup, self._state, tuple(self._offer.tools)
        model_name, provider = setup.model.name, setup.model.provider
        if not state.tainted and not state.handed and self._offer.taints(state):
            self._state = replace(state, tainted=True)
        if self._state.tainted:
            self._offer = self._offer.tainted()
        if setup.request is None:
            if self._emit is not None:
                self._emit(
                    RunResumedEvent(state.run_id, setup.agent_name, model_name, names, state.step, provider)
                )
            self._next = next_action(self._state, self._offer.rules)
            await self._save("running")
            return
        if self._emit is not None:
            self._emit(
                RunStartedEvent(state.run_id, setup.agent_name, model_name, names, state.n_history, provider)
            )
        await self._observe(await self._checked_request(setup.request))

    async def _checked_request(self, request: ModelRequest) -> ModelRequest | Refused:
        if self._offer.checks is None:
            return request
        parts: list[ModelRequestPart] = []
        for part in request.parts:
            if isinstance(part, UserPromptPart):
                text = await self._offer.checks.input(part.content, self._context())
                if not isinstance(text, str):
                    return Refused("prompt")
                part = replace(part, content=text)
            parts.append(part)
        return ModelRequest(tuple(parts))

    async def _perform(self, action: Action) -> None:
        match action:
            case MakePlan(reason=reason):
                await self._observe(await self._make_plan(reason))
            case CallModel(final=final) if (upset := await self._upset(final)) is not None:
                await self._observe(upset)
            case CallModel() if (shortened := await self._shortened()) is not None:
                await self._observe(shortened)
            case CallModel(final=final) if (limit := self._budget.take_request(final=final)) is not None:
                await self._observe(OutOfBudget(limit))
            case CallModel(final=final):
                from anyio.lowlevel import checkpoint

                await checkpoint()  # a model and tools that never wait must not starve other tasks
                await self._observe(await self._call_model(final))
            case RunTools():
                outcomes = await self._run_tools(action)
                if outcomes is None:
                    await self._end(None, "needs_approval")  # pyright: ignore[reportArgumentType]
                else:
                    if self._emit is not None:
                        self._report_repeats(outcomes)
                    await self._observe(outcomes)
            case ReadOutput(response=response, status=status):
                await self._answer(response.text, status)
            case HandOver():
                await self._take_over()
                self._next = next_action(self._state, self._offer.rules)
            case Finish(status=status):
                await self._end(None, status)  # pyright: ignore[reportArgumentType] - documented on RunResult.output

    async def _answer(self, answer: str, status: RunStatus) -> None:
        """End the run with an answer, unless the answer is blocked or must be corrected."""
        if status == "completed" and (found := self._text_calls(answer)) is not None and found.problem:
            names = ", ".join(map(repr, found.tool_names))
            reason = f"The reply looks like a call of {names}, written as text, but {found.problem} "
            await self._observe(OutputRejected(f"{reason}Call the tool, or answer in words.", "malformed_call"))
            return
        checks = self._offer.checks
        try:
            text = answer if checks is None else await checks.output(answer, self._context())
            if isinstance(text, str) and text != answer:  # the conversation must contain the published answer
                self._state = with_answer(self._state, text)
            output = await self._read_output(text) if isinstance(text, str) else None
        except ModelRetry as signal:
            await self._observe(OutputRejected(str(signal)))
            return
        if not isinstance(text, str):
            await self._observe(Refused("answer"))
        else:
            await self._end(output, status)  # pyright: ignore[reportArgumentType]

    async def _take_over(self) -> None:
        """Replace the setup by that of the agent that the state names as current."""
        before, state = self._setup, self._state
        if before.team is None:  # only for a stored state: without a team no tool hands over
            raise CheckpointError(
                f"run {state.run_id} was handed over to {state.handed[-1].to!r}, and this agent has no `handoffs`."
            )
        self._opening = opening(before.team, state)
        self._setup = before.handed_to(current_member(before.team, state).setup)
        await self._enter(self._setup)
        await self._refresh_tools()
        self._n_reported = max(self._n_reported, state.handed[-1].at)
        if self._emit is not None:
            after = self._setup
            names, model = tuple(self._offer.tools), after.model
            to = state.handed[-1].to
            text = self._reported_instructions = await resolved(after.instructions, self._context)
            shown = tuple(instructed(self._opening, text))
            self._emit(HandoffEvent(before.agent_name, to, model.name, names, shown, model.provider))

    def _conversation(self) -> tuple[ModelMessage, ...]:
        """Return the conversation as the current agent sees it."""
        state = self._state
        return (*self._opening, *state.messages[state.handed[-1].at :]) if state.handed else state.messages

    async def leave(self, error: BaseException | None) -> None:
        """Report an abandoned run to listeners, so that they close it, and release its journal.

        `error` is the reason; None if the application left without an error.
        """
        try:
            if self._next is None:
                return
            if error is not None and not isinstance(error, GeneratorExit):
                self._report_failure(error)
            elif failed := self._report_end(LEFT_EARLY, "The application left the run before its end."):
                raise failed[0]
        finally:
            await self.release()

    async def release(self) -> None:
        """Release the journal, so that another process may resume the run; no effect after the end."""
        if self._journal is None or self._result is not None:
            return
        from anyio import CancelScope

        with CancelScope(shield=True), suppress(CheckpointError):  # if the write fails, the lease expires
            await self._journal.release()

    def interrupt(self, message: str) -> None:
        """Send a user message to a run in progress: the model reads it before its next reply; a plan is revised.

        All input guardrails check it before the model is asked. If one blocks it, the run ends as "refused": a run
        that continues without the message could do what the user wanted to stop.
        """
        self._interruptions.append(well_formed(message))

    async def _upset(self, final: bool) -> PlanUpset | Refused | None:
        """Return the event that stops the run from following its plan; for the last reply only a user message."""
        if self._interruptions:
            message = await self._checked_interruption(self._interruptions.pop(0))
            if message is None:
                return Refused("interruption")
            return PlanUpset(f"the user says: {message}", said=message)
        plan, planner = self._state.plan, self._setup.planner
        if final or plan is None or planner is None or plan.current is None:
            return None
        if plan.current.tool is not None and plan.current.tool not in self._offer.tools:
            return PlanUpset(f"the tool {plan.current.tool!r} is not there any more")
        if await planner.holds(plan, self._context()):
            return None
        return PlanUpset(f"the precondition of the step {plan.current.goal!r} does not hold")

    async def _checked_interruption(self, message: str) -> str | None:
        """Return the user's message after the input guardrails; None if one blocks it."""
        if self._offer.checks is None:
            return message
        text = await self._offer.checks.input(message, self._context())
        if not isinstance(text, str) or await self._offer.checks.input_beside(text, self._context()) is not None:
            return None
        return text

    async def _make_plan(self, reason: str | None) -> Planned:
        from agentkit.planning.planner import Situation

        state, planner = self._state, self._setup.planner
        assert planner is not None  # MakePlan follows from `max_revisions`, which a planner has

        async def ask(messages: Sequence[ModelMessage], schema: OutputSchema) -> ModelResponse:
            parameters = ModelRequestParameters(output=schema, settings=self._setup.settings)
            return await self._ask_aside("plan", self._setup.model, messages, parameters)

        prompts = (part for message in state.messages[state.n_history :] for part in message.parts)
        said = next((part.content for part in prompts if isinstance(part, UserPromptPart)), "")
        if state.handed:
            said = state.handed[-1].task
        task = said if state.plan is None else state.plan.task
        situation = Situation(task, self._offer.definitions, self._context(), ask)
        try:
            if state.plan is None:
                steps = await planner.plan(situation)
            else:
                steps = await planner.revise(situation, state.plan, reason or "")
        except NoRequestLeft:
            steps = () if state.plan is None else None
        steps = None if steps is None else tuple(steps)
        if self._emit is not None:
            self._emit(PlanEvent(steps, reason))
        return Planned(task, steps)

    async def _ask_aside(
        self,
        purpose: Literal["plan", "summary"],
        model: Model,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask a model outside the conversation; its usage counts for the run, and an event is sent.

        Raises:
            NoRequestLeft: the run's limits allow only the last answer.
        """
        has_room = self._setup.limits.reached(self._state.usage) is None
        if not has_room or self._budget.take_request(final=False) is not None:
            raise NoRequestLeft(f"no request for a {purpose} is left")
        started = time.perf_counter()
        response = await model.request(messages, parameters)
        self._state = replace(self._state, usage=self._state.usage.plus_request(response.usage))
        if self._emit is not None:
            duration_s = time.perf_counter() - started
            asked = tuple(messages)
            self._emit(SideRequestEvent(purpose, model.name, asked, response, duration_s, model.provider))
        return response

    async def _observe(self, seen: Observation) -> None:
        before = self._state.limit
        self._state, self._next = step(self._state, seen, self._offer.rules)
        self._budget.settle(self._state.usage)
        self._is_stored = not self._starts_a_call(self._next)
        if self._is_stored:
            await self._save("running")
        if self._emit is not None and self._state.limit is not None and before is None:
            self._emit(LimitReachedEvent(self._state.limit))

    def _starts_a_call(self, action: Action) -> bool:
        """Return whether the next step only starts one call: no approval rule, no guardrail, no second call."""
        if not (self._goes_on and isinstance(action, RunTools) and len(action.calls) == 1):
            return False
        has_rule = self._offer.tools[action.calls[0].tool_name].requires_approval
        return self._journal is not None and self._offer.checks is None and has_rule is False

    async def _save(self, status: RunResultStatus | Literal["running"]) -> None:
        setup = self._setup
        if self._journal is not None:
            await self._journal.save(self._state, status)
        elif setup.checkpointer is not None:
            self._journal = await setup.checkpointer.create(
                self._state, agent_name=setup.agent_name, metadata=setup.metadata
            )

    async def _call_model(self, final: bool) -> ModelResponse | Refused:
        setup, state = self._setup, self._state
        if self._offer.has_changed(setup.toolsets):
            await self._refresh_tools()
        allowed = self._allowed()
        note = limit_note(state) if final and self._offer.tools else None
        parameters = ModelRequestParameters(
            tools=self._offer.definitions,
            allowed_tools=None if len(allowed) == len(self._offer.definitions) else frozenset(allowed),
            output=setup.output.schema,
            tool_choice=_tool_choice(setup.settings, state, final),
            parallel_tool_calls=setup.parallel_tool_calls,
            settings=setup.settings,
        )
        messages: Sequence[ModelMessage] = self._conversation()
        if state.compacted is not None:
            from agentkit.history.compaction import view

            messages = view(messages, state.compacted)
        text = None if setup.instructions is None else await resolved(setup.instructions, self._context)
        ask = partial(setup.model.request, with_note(instructed(messages, text), note), parameters)
        if self._emit is not None:
            self._report_request(() if final else allowed, parameters, note, text)
        started, self._tokens, checks = time.perf_counter(), None, self._offer.checks
        response = await (ask(on_delta=self._hears) if checks is None else self._guarded(ask, checks))
        if isinstance(response, ModelResponse) and not response.tool_calls:
            response = self._with_text_calls(response)
        if self._emit is not None and isinstance(response, ModelResponse):
            self._emit(ModelResponseEvent(state.step + 1, response, time.perf_counter() - started, self._tokens))
            self._n_reported = len(state.messages) + 1
        return response

    def _with_text_calls(self, response: ModelResponse) -> ModelResponse:
        """Return the response with its text replaced by calls, if the text consists only of calls."""
        found = None if response.finish_reason == "content_filter" else self._text_calls(response.text)
        if found is None:
            return response
        if self._emit is not None:
            self._emit(TextCallsEvent(response.text, found.tool_names, len(found.calls), found.problem))
        if not found.calls:
            return response
        kept = (part for part in response.parts if not isinstance(part, TextPart))
        return replace(response, parts=(*kept, *found.calls))

    def _text_calls(self, text: str) -> TextCalls | None:
        """Return the calls in a text; None for an answer of the run's output type.

        None for a model with a grammar too: it cannot write a call as text by mistake.
        """
        setup = self._setup
        if (
            not text
            or not self._offer.tools
            or setup.settings.tool_choice == "none"
            or setup.model.profile.grammar
        ):
            return None
        from agentkit.run.text_calls import text_calls, unfenced

        found = text_calls(text, self._offer.tools)
        if found is not None and setup.output.schema is not None:
            for answer in (text, unfenced(text)):
                with suppress(ModelRetry):
                    setup.output.parse(answer)
                    return None
        return found

    async def _shortened(self) -> Shortened | None:
        """Return a shorter view of a conversation that is too long; at most one per step."""
        compaction, step = self._setup.compaction, self._state.step
        if compaction is None or step == self._shortened_at:
            return None

        async def ask(
            messages: Sequence[ModelMessage], settings: ModelSettings, model: Model | None
        ) -> ModelResponse:
            parameters = ModelRequestParameters(settings=settings)
            return await self._ask_aside("summary", model or self._setup.model, messages, parameters)

        compacted = await compaction.compact(self._conversation(), self._state.compacted, ask)
        if compacted is None:
            return None
        self._shortened_at = step
        if self._emit is not None:
            self._emit(CompactionEvent(compacted))
        return Shortened(compacted)

    async def _guarded(self, ask: Ask, checks: Checks) -> ModelResponse | Refused:
        """Ask the model while parallel and streaming checks run beside it; a `Block` stops the model at once."""
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
        if isinstance(response, ModelResponse):
            return response
        return Refused("prompt" if response == "input" else "partial answer")

    def _allowed(self) -> tuple[str, ...]:
        step = None if self._state.plan is None else self._state.plan.current
        if step is not None and step.tool is not None and step.tool in self._offer.tools:
            return (step.tool,)
        if not self._state.disabled_tools:
            return tuple(self._offer.tools)
        return tuple(name for name in self._offer.tools if name not in self._state.disabled_tools)

    async def _run_tools(self, action: RunTools) -> ToolOutcomes | None:
        n_calls = self._budget.begin_turn(self._state.usage, len(action.calls))
        if n_calls < len(action.calls):
            action = with_room(self._state, action, n_calls)
        begun = self._budget.used
        scope = TurnScope(
            tools=self._offer.tools,
            context=self._context(InnerRuns(self._state, self._journal)),
            emit=self._emit,
            default_timeout_s=self._setup.tool_timeout_s,
            checks=self._offer.checks,
            checks_if_tainted=self._offer.checks_if_tainted,
            journal=self._journal,
            is_stored=self._is_stored,
            nested=self._offer.nested,
            around_call=self._around_call if self._call_listeners else None,
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
            if self._budget.used is not begun:  # inner runs and nested calls have counted here
                more = self._budget.used.minus(begun)
                self._state = replace(self._state, usage=self._state.usage.plus(more))
        if self._state.tainted:
            self._offer = self._offer.tainted()
        return outcomes

    def _report_repeats(self, outcomes: ToolOutcomes) -> None:
        """Send an event for each call that was not run because it repeats another."""
        names = {call.tool_call_id: call.tool_name for call in self._state.open_calls}
        for call_id, first_id in outcomes.copied.items():
            self._send(RepeatedCallEvent(names.get(call_id, ""), call_id, first_id, "copied"))
        for part in outcomes.parts:
            if (first_id := repeat_of(part)) is not None and isinstance(part, ToolReturnPart):
                kind = "withdrawn" if part.tool_name in outcomes.withdrawn else "told"
                self._send(RepeatedCallEvent(part.tool_name, part.tool_call_id, first_id, kind))

    def _around_call(self, call: ToolCallPart) -> AbstractContextManager[object]:
        with ExitStack() as stack:
            for listener in self._call_listeners:
                stack.enter_context(listener.around_call(call))
            return stack.pop_all()

    async def _note_answers(self, scope: TurnScope) -> None:
        """Store results that the journal may lack: the last one of a turn is normally stored with the state."""
        if self._journal is not None:
            for part in scope.progress.answers.values():
                await self._journal.call_answered(part)

    async def _read_output(self, text: str) -> OutputT:
        output = self._setup.output.parse(text)
        for validate in self._setup.output_validators:
            output = await validate(self._context(), output)
        return output

    async def _end(self, output: OutputT, status: RunResultStatus) -> None:
        await self._save(status)
        setup, said = self._setup, self._state.messages[self._state.n_history :]
        if setup.session is not None and said and status != "needs_approval":
            await setup.session.append(said, setup.session_version or "")
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
        self._offer = await offered(self._setup, self._context(), self._emit)

    def _context(self, inner: InnerRuns | None = None) -> RunContext[DepsT]:
        state = self._state
        return RunContext(
            deps=self._setup.deps,
            run_id=state.run_id,
            messages=state.messages,
            usage=state.usage,
            step=state.step,
            tainted=state.tainted,
            budget=self._budget,
            inner=inner,
        )

    def _send(self, event: AgentEvent) -> None:
        for sink in self._setup.sinks:
            sink(event)

    def _report_request(
        self,
        allowed: tuple[str, ...],
        parameters: ModelRequestParameters,
        note: str | None,
        instructions: str | None,
    ) -> None:
        messages: Sequence[ModelMessage] = self._state.messages[self._n_reported :]
        changed = instructions != self._reported_instructions
        self._reported_instructions = instructions
        if changed and self._n_reported == 0 and not self._state.handed:
            messages, changed = instructed(messages, instructions), False
        new = tuple(m for m in messages if isinstance(m, ModelRequest))
        tools = None if self._offer.definitions == self._reported_tools else self._offer.definitions
        self._reported_tools = self._offer.definitions
        asked = RequestShape(parameters.output, parameters.settings, parameters.parallel_tool_calls)
        shape = None if asked == self._reported_shape else asked
        self._reported_shape = asked
        step, choice = self._state.step + 1, parameters.tool_choice
        told = (instructions or "") if changed else None
        self._send(ModelRequestEvent(step, new, allowed, tools, choice, shape, note, told))

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
        for also in self._report_end(type(error).__name__, str(error)):
            error.add_note(f"A listener failed when it was told of this: {type(also).__name__}: {also}")

    def _report_end(self, error_type: str, text: str) -> list[Exception]:
        """Tell all listeners that the run has ended; return the errors that they raised."""
        self._next, self._has_failed = None, True
        event = RunFailedEvent(self._state.run_id, error_type, text, self._state.usage)
        failed: list[Exception] = []
        for sink in self._setup.sinks:
            try:
                sink(event)
            except Exception as error:  # the other listeners must still be told
                failed.append(error)
        return failed


def _n_answered(state: RunState) -> int:
    """Return the number of messages up to and including the last response of the run."""
    n_after = next((n for n, m in enumerate(reversed(state.messages)) if isinstance(m, ModelResponse)), None)
    return state.n_history if n_after is None else max(state.n_history, len(state.messages) - n_after)


def _tool_choice(settings: ModelSettings, state: RunState, final: bool) -> Literal["auto", "required", "none"]:
    if final or settings.tool_choice == "none":
        return "none"
    if state.plan is not None and state.plan.current is not None and state.plan.current.tool is not None:
        return "required"
    return "required" if settings.tool_choice == "required" and state.step == 0 else "auto"
