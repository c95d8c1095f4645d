"""Performer: performs the actions of the loop. It asks the model, runs tools and parses the answer.

`agentkit.run.decide` chooses the action, `agentkit.run.request` composes a model request, `agentkit.run.turn` runs
the calls of a response, and `agentkit.run.report` sends the events. The state is consistent at every await: if a
run is cancelled while tools are running, their calls are answered with "interrupted", so no call in a conversation
lacks a result.

With a journal, every state is stored before the next action, and a call is recorded before it runs. If a response
has a single call that starts at once, both are one write. A killed process therefore leaves a state, and at most
the calls of one response with an unknown outcome. A person must decide about these calls; they are repeated only
if their tool is idempotent.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from agentkit.context import RunContext
from agentkit.errors import CheckpointError, ModelRetry
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
)
from agentkit.models.prices import priced_request
from agentkit.results import RunResult, RunResultStatus
from agentkit.run.actions import (
    Action,
    CallModel,
    CountedResponse,
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
)
from agentkit.run.additions import is_tainted_by, tell_end, with_additions
from agentkit.run.admission import with_room
from agentkit.run.budget import Budget
from agentkit.run.decide import next_action, step, with_answer
from agentkit.run.hand_over import current_member, opening
from agentkit.run.inner_runs import InnerRuns
from agentkit.run.instructions import resolved
from agentkit.run.offer import Offer, found_tools, offered, prepared
from agentkit.run.report import Report
from agentkit.run.request import (
    Request,
    calls_in,
    checked_interruption,
    checked_request,
    composed,
    guarded,
    with_text_calls,
)
from agentkit.run.setup import Enter, RunSetup
from agentkit.run.state import RunState, RunStatus
from agentkit.run.turn import interrupted, run_turn
from agentkit.run.turn_scope import TurnScope
from agentkit.tools.execution import CallListener
from agentkit.usage import RequestUsage

if TYPE_CHECKING:
    from agentkit.middleware import Middleware
    from agentkit.run.side_requests import SideRequests
    from agentkit.run.through_middleware import StepRequests

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")


class Performer(Generic[DepsT, OutputT]):
    """Holds the state of a run in progress and performs its actions."""

    def __init__(self, setup: RunSetup[DepsT, OutputT], enter: Enter) -> None:
        """Prepare a run, which `advance` starts. `setup` is already entered; `enter` serves hand-offs."""
        self._setup = setup
        self._enter = enter
        self._opening: tuple[ModelMessage, ...] = ()
        """Earlier conversation that the current agent sees of the time before its hand-off."""
        self.state = setup.state
        self.next_action: Action | None = None
        """Action to perform next; None before the start and after the end."""
        self._offer = Offer()
        self.journal = setup.journal
        if self.journal is not None:
            self.journal.outbox = setup.outbox
        self._goes_on = False
        self._is_stored = True
        """True if the journal has the state; if not, the start of the next call stores it."""
        self._shortened_at: int | None = None
        """Step at which the conversation was last compacted; the model's token count predates the compaction."""
        self.result: RunResult[OutputT] | None = None
        self.interruptions: list[str] = []
        """Messages of the user that the model has not read yet."""
        self._budget = setup.budget or Budget(setup.limits, setup.state.usage)
        self.report = Report(setup) if setup.sinks else None
        self._emit = None if self.report is None else self.report.send
        self._hears = None if self.report is None else self.report.delta
        self._prepared_at: tuple[int, int] | None = None
        """Step and hand-offs for which `prepare_tools` has chosen the tools."""
        self._around_model = _around_model(setup.middleware)
        self._call_listeners = tuple(sink for sink in setup.sinks if isinstance(sink, CallListener))

    async def start(self, *, goes_on: bool) -> None:
        """Begin or resume the run, up to its first action; `goes_on` says that it follows immediately."""
        self._goes_on = goes_on
        if self._budget.has_cost_limit:
            from agentkit.run.price_check import check_prices

            await check_prices(self._setup, self.state)
        if self.state.handed:
            await self._take_over()
        else:
            await self._refresh_tools()
        setup, state = self._setup, self.state
        if not state.tainted and not state.handed and self._offer.taints(state):
            self.state = state.changed(tainted=True)
        if self.state.tainted:
            self._offer = self._offer.tainted()
        if state.withheld:
            self._offer = self._offer.narrowed(setup, state.withheld)
        if self.report is not None:
            self.report.begun(setup, state, tuple(self._offer.tools))
        if setup.request is None:
            self.next_action = next_action(self.state, self._offer.rules)
            await self._save("running")
        else:
            await self._begin(setup.request)

    async def _begin(self, request: ModelRequest) -> None:
        """Take the first request of the run: checked, and with the additions of the toolsets."""
        checks = self._offer.checks
        checked = await checked_request(request, checks, self._context())
        if isinstance(checked, ModelRequest):
            checked = await with_additions(checked, self._setup.toolsets, checks, self._context())
            if is_tainted_by(checked) and not self.state.tainted:
                self.state, self._offer = self.state.changed(tainted=True), self._offer.tainted()
        await self._observe(checked)
        if self._offer.has_changed(self._setup.toolsets, self._found()):  # a planner comes before the model
            await self._refresh_tools()

    async def perform(self, action: Action, *, goes_on: bool) -> None:
        """Perform an action; `goes_on` says that the next one follows immediately."""
        self._goes_on = goes_on
        match action:
            case MakePlan(reason=reason):
                await self._observe(await self._make_plan(reason))
            case CallModel(final=final):
                await self._observe(await self._model_turn(final))
            case RunTools():
                outcomes = await self._run_tools(action)
                if outcomes is None:
                    await self._end(None, _waiting_status(self.state))
                else:
                    if self.report is not None:
                        self.report.outcomes(self.state, outcomes)
                    await self._observe(outcomes)
            case ReadOutput(response=response, status=status):
                await self._answer(response.text, status)
            case HandOver():
                await self._take_over()
                self.next_action = next_action(self.state, self._offer.rules)
            case Finish(status=status):
                await self._end(None, status)

    async def _model_turn(self, final: bool) -> Observation:
        """Ask the model, unless an event comes first."""
        await self._update_tools()
        may_upset = bool(self.interruptions) or self.state.plan is not None
        if may_upset and (upset := await self._upset(final)) is not None:
            return upset
        if self._setup.compaction is not None and (shortened := await self._shortened()) is not None:
            return shortened
        if (limit := self._budget.take_request(final=final)) is not None:
            return OutOfBudget(limit)
        from anyio.lowlevel import checkpoint

        await checkpoint()  # a model and tools that never wait must not starve other tasks
        return await self._call_model(final)

    async def _answer(self, answer: str, status: RunStatus) -> None:
        """End the run with an answer, unless the answer is blocked or must be corrected."""
        if (
            status == "completed"
            and (found := calls_in(answer, self._setup, self._offer)) is not None
            and found.problem
        ):
            names = ", ".join(map(repr, found.tool_names))
            reason = f"The reply looks like a call of {names}, written as text, but {found.problem} "
            await self._observe(OutputRejected(f"{reason}Call the tool, or answer in words.", "malformed_call"))
            return
        checks = self._offer.checks
        try:
            text = answer if checks is None else await checks.output(answer, self._context())
            if isinstance(text, str) and text != answer:  # the conversation must contain the published answer
                self.state = with_answer(self.state, text)
            output = await self._read_output(text) if isinstance(text, str) else None
        except ModelRetry as signal:
            await self._observe(OutputRejected(str(signal)))
            return
        if not isinstance(text, str):
            await self._observe(Refused("answer"))
        else:
            await self._end(output, status)

    async def _take_over(self) -> None:
        """Replace the setup by that of the agent that the state names as current."""
        before, state = self._setup, self.state
        if before.team is None:  # only for a stored state: without a team no tool hands over
            raise CheckpointError(
                f"run {state.run_id} was handed over to {state.handed[-1].to!r}, and this agent has no `handoffs`."
            )
        self._opening = opening(before.team, state)
        self._setup = before.handed_to(current_member(before.team, state).setup)
        await self._enter(self._setup)
        self._around_model = _around_model(self._setup.middleware)
        await self._refresh_tools()
        if self.report is not None:
            after, names = self._setup, tuple(self._offer.tools)
            text = await resolved(after.instructions, after.toolsets, self._context)
            self.report.handed_over(before.agent_name, after, state, names, self._opening, text)

    def _conversation(self) -> tuple[ModelMessage, ...]:
        """Return the conversation as the current agent sees it."""
        state = self.state
        return (*self._opening, *state.messages[state.handed[-1].at :]) if state.handed else state.messages

    async def _upset(self, final: bool) -> PlanUpset | Refused | None:
        """Return the event that stops the run from following its plan; for the last reply only a user message."""
        if self.interruptions:
            said = self.interruptions.pop(0)
            message = await checked_interruption(said, self._offer.checks, self._context())
            if message is None:
                return Refused("interruption")
            return PlanUpset(f"the user says: {message}", said=message)
        if final or self.state.plan is None:
            return None
        from agentkit.run.planned import upset_of_plan

        return await upset_of_plan(self._setup, self.state, self._offer, self._context())

    async def _make_plan(self, reason: str | None) -> Planned:
        from agentkit.run.planned import made_plan

        ask = self._aside().for_plan
        planned = await made_plan(self._setup, self.state, self._offer, self._context(), ask, reason)
        if self.report is not None:
            self.report.plan(planned, reason)
        return planned

    def _aside(self) -> SideRequests:
        """Return the requests outside the conversation, which only a planner or a summary makes."""
        from agentkit.run.side_requests import SideRequests

        def has_room() -> bool:
            reached = self._setup.limits.reached(self.state.usage)
            return reached is None and self._budget.take_request(final=False) is None

        return SideRequests(self._setup, self._context, has_room, self._count, self.report)

    def _count(self, usage: RequestUsage, model_name: str) -> None:
        """Count a request whose response `step` does not count."""
        self.state = self.state.changed(usage=self.state.usage.plus_request(usage, model_name))

    async def _observe(self, seen: Observation) -> None:
        before = self.state.limit
        self.state, self.next_action = step(self.state, seen, self._offer.rules)
        self._budget.settle(self.state.usage)
        if self.report is not None and self.state.limit is not None and before is None:
            self.report.limit(self.state.limit)
        self._is_stored = not self._starts_a_call(self.next_action)
        if self._is_stored:
            await self._save("running")

    def _starts_a_call(self, action: Action) -> bool:
        """Return whether the next step only starts one call: no approval rule, no guardrail, no second call."""
        if not (self._goes_on and isinstance(action, RunTools) and len(action.calls) == 1):
            return False
        tool = self._offer.tools[action.calls[0].tool_name]
        starts = tool.requires_approval is False and not tool.is_external
        return starts and self.journal is not None and self._offer.checks is None

    async def _save(self, status: RunResultStatus | Literal["running"]) -> None:
        setup = self._setup
        if self.journal is not None:
            await self.journal.save(self.state, status)
        elif setup.checkpointer is not None:
            self.journal = await setup.checkpointer.create(
                self.state, agent_name=setup.agent_name, metadata=setup.metadata
            )

    async def _call_model(self, final: bool) -> ModelResponse | CountedResponse | Refused:
        setup = self._setup
        await self._update_tools()
        state, checks = self.state, self._offer.checks
        request = await composed(setup, state, self._offer, self._conversation(), self._context, final=final)
        behind = None
        if self._around_model:
            behind = self._behind_middleware(request)
            ask = behind.reply
        else:
            ask = partial(priced_request, setup.model, request.messages, request.parameters)
        if self.report is not None:
            self.report.asking()
            if behind is None:
                self.report.request(state, request)
        if checks is None:
            response = await ask(on_delta=self._hears)
        else:
            response = await guarded(ask, checks, state, self._context(), self._hears)
        if isinstance(response, Refused):
            return response
        received = None if behind is None else behind.received_unless_only(response)
        if not response.tool_calls:
            response = with_text_calls(response, setup, self._offer, self._emit)
        if self.report is not None:
            self.report.response(state, response, received)
        return response if behind is None else CountedResponse(response)

    async def _shortened(self) -> Shortened | None:
        """Return a shorter view of a conversation that is too long; at most one per step."""
        compaction, step = self._setup.compaction, self.state.step
        if compaction is None or step == self._shortened_at:
            return None
        ask = self._aside().for_summary
        compacted = await compaction.compact(self._conversation(), self.state.compacted, ask)
        if compacted is None:
            return None
        self._shortened_at = step
        if self.report is not None:
            self.report.compaction(compacted)
        return Shortened(compacted)

    def _behind_middleware(self, request: Request) -> StepRequests:
        from agentkit.run.through_middleware import StepRequests

        return StepRequests(
            self._around_model,
            self._setup,
            request,
            self._context(),
            lambda: self.state,
            self._count,
            self._budget,
            self.report,
        )

    async def _update_tools(self) -> None:
        """List the tools again if they have changed; `prepare_tools` chooses once for each step and list."""
        step = (self.state.step, len(self.state.handed))
        if self._offer.has_changed(self._setup.toolsets, self._found()):
            await self._refresh_tools()
        elif self._prepared_at == step:
            return
        if self._setup.prepare_tools is None:
            return
        self._prepared_at = step
        self._offer, withheld = await prepared(self._offer, self._setup, self._context())
        if withheld != self.state.withheld:
            self.state = self.state.changed(withheld=withheld)

    async def _run_tools(self, action: RunTools) -> ToolOutcomes | None:
        n_calls = self._budget.begin_turn(self.state.usage, len(action.calls))
        if n_calls < len(action.calls):
            action = with_room(self.state, action, n_calls)
        begun = self._budget.used
        scope = TurnScope(
            tools=self._offer.tools,
            context=self._context(InnerRuns(self.state, self.journal)),
            emit=self._emit,
            default_timeout_s=self._setup.tool_timeout_s,
            on_tool_error=self._setup.on_tool_error,
            checks=self._offer.checks,
            checks_if_tainted=self._offer.checks_if_tainted,
            journal=self.journal,
            is_stored=self._is_stored,
            nested=self._offer.nested,
            around_call=self._around_call if self._call_listeners else None,
            middleware=self._setup.middleware,
            file_limits=self._setup.file_limits,
        )
        try:
            self.state, outcomes = await run_turn(self.state, action, scope)
        except BaseException as error:
            self.state = interrupted(self.state, action, scope.progress)
            if not self.state.tainted and self._offer.taints(self.state):
                self.state = self.state.changed(tainted=True)
            if isinstance(error, Exception) and not isinstance(error, CheckpointError):
                await self._note_answers(scope)
            raise
        finally:
            if self._budget.used is not begun:  # inner runs and nested calls have counted here
                more = self._budget.used.minus(begun)
                self.state = self.state.changed(usage=self.state.usage.plus(more))
        if self.state.tainted:
            self._offer = self._offer.tainted()
        return outcomes

    def _around_call(self, call: ToolCallPart) -> AbstractContextManager[object]:
        with ExitStack() as stack:
            for listener in self._call_listeners:
                stack.enter_context(listener.around_call(call))
            return stack.pop_all()

    async def _note_answers(self, scope: TurnScope) -> None:
        """Store results that the journal may lack: the last one of a turn is normally stored with the state."""
        if self.journal is not None:
            for part in scope.progress.answers.values():
                await self.journal.call_answered(part)

    async def _read_output(self, text: str) -> OutputT:
        output = await self._setup.output.read(text, self._context)
        for validate in self._setup.output_validators:
            validated = validate(self._context(), output)
            output = await validated if inspect.isawaitable(validated) else validated
        return output

    async def _end(self, output: OutputT | None, status: RunResultStatus) -> None:
        setup = self._setup
        if status == "completed":
            await tell_end(setup, self.state, self._context())
        ended = None if self.report is None else self.report.end(self.state, status, output)
        if ended is not None and setup.outbox is not None:
            setup.outbox(ended)  # stored with the last state
        await self._save(status)
        said = self.state.messages[self.state.n_history :]
        if setup.session is not None and said and not self.state.pending:
            await setup.session.append(said, setup.session_version or "")
        self.next_action = None
        self.result = RunResult(output, status, self.state)
        if self.report is not None and ended is not None:
            self.report.finished(ended)

    async def _refresh_tools(self) -> None:
        self._offer = await offered(self._setup, self._context(), self._emit, self._read_found)

    def _found(self) -> tuple[str, ...]:
        return self._read_found() if self._offer.has_deferred else ()

    def _read_found(self) -> tuple[str, ...]:
        return found_tools(self.state, self._conversation())

    def _context(self, inner: InnerRuns | None = None) -> RunContext[DepsT]:
        state = self.state
        return RunContext(
            deps=self._setup.deps,
            run_id=state.run_id,
            messages=state.messages,
            usage=state.usage,
            step=state.step,
            tainted=state.tainted,
            user=state.user,
            budget=self._budget,
            inner=inner,
        )


def _around_model(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    if not middleware:
        return ()
    from agentkit.run.through_middleware import around_model

    return around_model(middleware)


def _waiting_status(state: RunState) -> Literal["needs_approval", "needs_results"]:
    """Return the status of a run that waits: a decision comes first."""
    is_external = all(call.kind == "external" for call in state.pending)
    return "needs_results" if is_external else "needs_approval"
