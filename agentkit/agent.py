"""`Agent`: the declaration of an agent and its run methods, nothing else.

What happens in a run is decided in `agentkit.loop` and performed in `agentkit.runner`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, cast

from typing_extensions import TypeVar

from agentkit import background
from agentkit.agent_stream import AgentStream, streamed
from agentkit.approvals import Decision
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.limits import UsageLimits
from agentkit.messages import ModelMessage, ModelRequest, ModelRequestPart, SystemPromptPart, UserPromptPart
from agentkit.models.model import Model, ModelSettings
from agentkit.output import output_spec
from agentkit.results import RunResult
from agentkit.run_plan import OutputValidator, RunPlan, Sink
from agentkit.runner import AgentRun
from agentkit.state import RunState
from agentkit.tools.definition import Tool
from agentkit.tools.execution import DEFAULT_TOOL_TIMEOUT_S
from agentkit.tools.function import FunctionT, FunctionToolset
from agentkit.tools.toolset import Toolset
from agentkit.well_formed import well_formed

if TYPE_CHECKING:
    from agentkit.code_mode import CodeMode
    from agentkit.compaction import Compaction
    from agentkit.guardrails.guardrail import Guardrail, GuardrailSource
    from agentkit.handoffs import Handoff
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.persistence.session import Session
    from agentkit.planning.planner import Planner
    from agentkit.tracing.telemetry import Telemetry

DepsT = TypeVar("DepsT", default=None)
OutputT = TypeVar("OutputT", default=str)
Instructions = str | Callable[[RunContext[Any]], str]


@dataclass(frozen=True, slots=True)
class _Override:
    model: Model | None = None
    toolsets: tuple[Toolset, ...] | None = None
    deps: Any = None
    has_deps: bool = False


_overrides: ContextVar[dict[int, _Override]] = ContextVar("agentkit_overrides")
_NOTHING: Any = object()


class Agent(Generic[DepsT, OutputT]):
    """An agent: a model, tools, instructions and the type of its answer.

    Typed in `DepsT`, the application's own objects that tools receive through `RunContext.deps`, and in
    `OutputT`, the type of `result.output`.
    """

    def __init__(
        self,
        model: Model | str,
        *,
        tools: Sequence[Callable[..., Any] | Tool] = (),
        toolsets: Sequence[Toolset] = (),
        instructions: Instructions | None = None,
        output_type: type[OutputT] = str,
        deps_type: type[DepsT] = NoneType,
        name: str | None = None,
        limits: UsageLimits = UsageLimits(),
        retries: int = 1,
        settings: ModelSettings = ModelSettings(),
        tool_timeout_s: float | None = DEFAULT_TOOL_TIMEOUT_S,
        parallel_tool_calls: bool = True,
        code_mode: CodeMode | None = None,
        planner: Planner | None = None,
        compaction: Compaction | None = None,
        handoffs: Sequence[Agent[DepsT, OutputT] | Handoff] = (),
        guardrails: Sequence[Guardrail | GuardrailSource] = (),
        taint_rule: bool = True,
        trace: str | Path | None = None,
        telemetry: Telemetry | None = None,
        checkpointer: Checkpointer | str | Path | None = None,
        on_event: Sink | None = None,
    ) -> None:
        """Declare an agent; nothing is loaded or connected before the first run.

        Args:
            model: A model, or its name for `agentkit.models.resolve_model`: "local", "local:small",
                "local:PATH.gguf", "openai:NAME", "http://HOST/v1#NAME".
            tools: Plain functions (see `agentkit.tool`) or `Tool` objects.
            toolsets: Sources of tools, such as `MCPToolset`.
            instructions: System prompt, or a function of the run's context that gives it.
            output_type: Any type that pydantic can validate; `str` for plain text.
            deps_type: Only for type checkers: the type of `deps`.
            name: For traces and hand-offs.
            limits: What a run may use; reaching a limit ends it with a result.
            retries: How often in a row the model may mend a rejected call or answer.
            settings: Defaults for sampling and deadlines.
            tool_timeout_s: Seconds a tool call may take unless the tool says otherwise; None for no limit.
            parallel_tool_calls: Whether a response may hold several calls.
            code_mode: Has the model write Python that calls the tools, run in a sandbox (extra `code`), instead of
                calling them itself; hand-offs stay calls. See `agentkit.code_mode`.
            planner: Makes a plan first, which the run follows step by step: `PlanTemplate` or `ModelPlanner`.
            compaction: How a conversation is made shorter for the model once it is too long, `SlidingWindow` or
                `Summary`; None shows it whole.
            handoffs: Agents that this one may give the conversation to; they go on with the same run. A `Handoff`
                says when, and what the other one sees; see `agentkit.handoffs`.
            guardrails: Checks of prompts, tool calls, their results and answers; see `agentkit.guardrails`.
            taint_rule: After results of tools that are not trusted (those of MCP servers, unless told otherwise),
                calls that destroy or reach out need approval; an MCP tool that does not say that it does neither
                counts as one that does (`MCPToolset(assume_harmless=...)`). A `TaintRule` among `guardrails` takes
                the place of this one, to allow tools by name.
            trace: Directory for one JSONL trace a run; None writes none.
            telemetry: Reports runs as OpenTelemetry spans, `agentkit.tracing.telemetry.Telemetry()`.
            checkpointer: Keeps every run so that it can be resumed after a crash or an approval: the path of a
                SQLite file, or a `Checkpointer`; None keeps none.
            on_event: Called with every event of every run.

        Raises:
            UserError: a tool or the output type cannot be expressed as a schema, or two tools share a name.
        """
        if retries < 0:
            raise UserError(f"retries={retries!r} must be zero or more.")
        self.name = name
        self.output_type = output_type
        self.deps_type = deps_type
        self._model = model
        self._functions = FunctionToolset(tools, id=f"functions of {name}" if name else "functions")
        self._toolsets = tuple(toolsets)
        self._instructions = instructions
        self._output = output_spec(output_type)
        self._output_validators: tuple[OutputValidator, ...] = ()
        self._limits = limits
        self._retries = retries
        self._settings = settings
        self._tool_timeout_s = tool_timeout_s
        self._parallel_tool_calls = parallel_tool_calls
        self._trace = Path(trace) if trace is not None else None
        self._code_mode = code_mode
        self._planner = planner
        self._compaction = compaction
        self._handoffs = _handoffs(handoffs)
        self._guardrails = tuple(guardrails)
        self._taint_rule = taint_rule
        self._telemetry = telemetry
        self._checkpointer = _checkpointer(checkpointer)
        self._on_event = on_event
        self._open: list[AsyncExitStack] = []
        self._sync_open: list[AbstractContextManager[Any]] = []

    # -- running ------------------------------------------------------------------------------------------

    async def run(
        self,
        prompt: str,
        *,
        deps: DepsT = cast(Any, None),
        message_history: Sequence[ModelMessage] = (),
        limits: UsageLimits | None = None,
        settings: ModelSettings | None = None,
        metadata: Mapping[str, str] | None = None,
        session: Session | None = None,
    ) -> RunResult[OutputT]:
        """Run until the model answers, or a call waits for an approval.

        `metadata` are kept with the run in the journal, to find it by. A `session` gives the conversation that the
        run goes on with, and keeps what it adds once it has ended.

        Raises:
            AgentRunError: the run failed; the error carries the messages and the usage so far.
            UserError: the agent or its tools are declared wrongly.
        """
        plan = await self._plan(prompt, deps, message_history, limits, settings, metadata, session)
        async with _entered(plan) as run:
            return await run.finish()

    def run_sync(
        self,
        prompt: str,
        *,
        deps: DepsT = cast(Any, None),
        message_history: Sequence[ModelMessage] = (),
        limits: UsageLimits | None = None,
        settings: ModelSettings | None = None,
        metadata: Mapping[str, str] | None = None,
        session: Session | None = None,
    ) -> RunResult[OutputT]:
        """Run and wait, from any thread, also where an event loop is running (it is then blocked meanwhile).

        Raises:
            AgentRunError: as `run`.
            UserError: as `run`.
        """
        return background.run(
            partial(
                self.run,
                prompt,
                deps=deps,
                message_history=message_history,
                limits=limits,
                settings=settings,
                metadata=metadata,
                session=session,
            )
        )

    async def resume(
        self,
        run: str | RunState,
        decisions: Sequence[Decision] = (),
        *,
        deps: DepsT = cast(Any, None),
        limits: UsageLimits | None = None,
        settings: ModelSettings | None = None,
        session: Session | None = None,
    ) -> RunResult[OutputT]:
        """Go on with a run that was killed, failed, or stopped for an approval; in this process or another one.

        A run that had ended gives its result again. While a call still waits, the status is "needs_approval" and
        `result.pending` says which; a call that was running when its process died waits with kind "unknown",
        unless its tool is known to be idempotent.

        Args:
            run: A run's id in the agent's journal, or the state of a result, wherever it was kept.
            decisions: What was decided about the calls that wait: `result.pending[0].approve()`, `.deny(reason)`.
            deps: As in `run`; they are not stored.
            limits: As in `run`.
            settings: As in `run`.
            session: The one that the run was begun with.

        Raises:
            CheckpointError: the run is unknown or damaged, or another process goes on with it.
            UserError: a decision is about a call that does not wait, or the run is another agent's.
            AgentRunError: as `run`.
        """
        async with self.iter_resumed(
            run, decisions, deps=deps, limits=limits, settings=settings, session=session
        ) as resumed:
            return await resumed.finish()

    def resume_sync(
        self,
        run: str | RunState,
        decisions: Sequence[Decision] = (),
        *,
        deps: DepsT = cast(Any, None),
        limits: UsageLimits | None = None,
        settings: ModelSettings | None = None,
        session: Session | None = None,
    ) -> RunResult[OutputT]:
        """Go on with a run and wait, as `run_sync`.

        Raises:
            AgentKitError: as `resume`.
        """
        resume = partial(self.resume, run, decisions, deps=deps, limits=limits, settings=settings, session=session)
        return background.run(resume)

    @asynccontextmanager
    async def run_stream(
        self,
        prompt: str,
        *,
        deps: DepsT = cast(Any, None),
        message_history: Sequence[ModelMessage] = (),
        limits: UsageLimits | None = None,
        settings: ModelSettings | None = None,
        metadata: Mapping[str, str] | None = None,
        session: Session | None = None,
    ) -> AsyncGenerator[AgentStream[OutputT]]:
        """Run in the background and iterate over the events; leaving the context early cancels the run.

        What the run raises is raised by the iteration, as it is. A run whose events are not read waits after about
        a thousand of them.
        """
        plan = await self._plan(prompt, deps, message_history, limits, settings, metadata, session)
        async with streamed(plan, _entered) as stream:
            yield stream

    @asynccontextmanager
    async def iter(
        self,
        prompt: str,
        *,
        deps: DepsT = cast(Any, None),
        message_history: Sequence[ModelMessage] = (),
        limits: UsageLimits | None = None,
        settings: ModelSettings | None = None,
        metadata: Mapping[str, str] | None = None,
        session: Session | None = None,
    ) -> AsyncGenerator[AgentRun[DepsT, OutputT]]:
        """Run step by step: iterate over the run to see each action before it is performed."""
        async with _entered(
            await self._plan(prompt, deps, message_history, limits, settings, metadata, session)
        ) as run:
            yield run

    @asynccontextmanager
    async def iter_resumed(
        self,
        run: str | RunState,
        decisions: Sequence[Decision] = (),
        *,
        deps: DepsT = cast(Any, None),
        limits: UsageLimits | None = None,
        settings: ModelSettings | None = None,
        session: Session | None = None,
    ) -> AsyncGenerator[AgentRun[DepsT, OutputT]]:
        """Go on with a run, as `resume`, step by step, as `iter`."""
        async with _entered(await self._resumed(run, decisions, deps, limits, settings, session)) as resumed:
            yield resumed

    def as_tool(self, description: str, *, name: str | None = None) -> Tool:
        """Return the agent as a tool of another one, which gives it a task and gets its answer.

        Its runs share the other agent's `deps` and budget, and are kept in the other agent's run and journal. If a
        call of its own needs a decision, the other agent's run asks for it (`result.pending`). It is named after
        the agent unless `name` says otherwise.

        Raises:
            UserError: neither the agent nor the tool has a name.
        """
        from agentkit.agent_tool import agent_tool

        named = name or self.name
        if named is None:
            raise UserError("an agent needs a name to be a tool: Agent(name=...), or as_tool(..., name=...).")
        return agent_tool(
            self._go_on_inner,
            name=named,
            description=description,
            checkpointer=self._checkpointer,
            is_untrusted=self._may_read_untrusted(),
        )

    def _may_read_untrusted(self) -> bool:
        """Return whether the agent, or one that it can hand over to, has tools whose results anybody may write."""
        agents: list[Agent[Any, Any]] = [self]
        for agent in agents:
            agents += [each.agent for each in agent._handoffs if each.agent not in agents]
        return any(agent._toolsets or agent._functions.is_untrusted for agent in agents)

    async def _go_on_inner(
        self, task: str, state: RunState, deps: Any, limits: UsageLimits | None, journal: RunJournal | None
    ) -> RunResult[OutputT]:
        """Go on with a run that a call of another agent's run performs, or begin it; that run keeps it."""
        if state.messages:
            plan = self._plan_of(state, None, self._current_deps(deps), limits, None)
        else:
            plan = await self._plan(task, deps, (), limits, None, None, None)
            begun = replace(plan.state, run_id=state.run_id, tainted=state.tainted)
            plan = replace(plan, state=begun, checkpointer=None)
        async with _entered(replace(plan, journal=journal)) as run:
            return await run.finish()

    # -- declaring ----------------------------------------------------------------------------------------

    def tool(self, function: FunctionT) -> FunctionT:
        """Add a function as a tool; usable as a decorator."""
        self._functions.add(function)
        return function

    def add_handoff(self, to: Agent[DepsT, OutputT] | Handoff) -> None:
        """Let this agent hand over to another one that was made after it, for one to get the conversation back.

        Raises:
            UserError: the other one has no name, or that of an earlier one.
        """
        self._handoffs = _handoffs((*self._handoffs, to))

    def output_validator(self, function: Callable[[RunContext[DepsT], OutputT], Any]) -> Callable[..., Any]:
        """Add a coroutine function that checks, or changes, an answer; it may raise `ModelRetry`."""
        self._output_validators = (*self._output_validators, cast(OutputValidator, function))
        return function

    @contextmanager
    def override(
        self,
        *,
        model: Model | str | None = None,
        tools: Sequence[Callable[..., Any] | Tool] | None = None,
        toolsets: Sequence[Toolset] | None = None,
        deps: Any = _NOTHING,
    ) -> Generator[None]:
        """Within this context (and tasks started in it) use another model, other tools or deps; for tests."""
        replaced = None
        if tools is not None or toolsets is not None:
            functions = self._functions if tools is None else FunctionToolset(tools)
            replaced = (functions, *(self._toolsets if toolsets is None else toolsets))
        override = _Override(_resolve(model) if model is not None else None, replaced, deps, deps is not _NOTHING)
        token = _overrides.set({**_overrides.get({}), id(self): override})
        try:
            yield
        finally:
            _overrides.reset(token)

    # -- keeping connections open -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Keep the model and the tool servers open between runs."""
        stack = AsyncExitStack()
        await _enter_all(stack, self._current_model(), self._current_toolsets())
        self._open.append(stack)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        await self._open.pop().aclose()

    def __enter__(self) -> Self:
        """Keep the model and the tool servers open between calls of `run_sync`."""
        context = background.enter(self)
        context.__enter__()
        self._sync_open.append(context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        self._sync_open.pop().__exit__(kind, error, trace)

    # -- inside -------------------------------------------------------------------------------------------

    async def _plan(
        self,
        prompt: str,
        deps: DepsT,
        history: Sequence[ModelMessage],
        limits: UsageLimits | None,
        settings: ModelSettings | None,
        metadata: Mapping[str, str] | None,
        session: Session | None,
    ) -> RunPlan[DepsT, OutputT]:
        deps = self._current_deps(deps)
        version = None
        if session is not None:
            if history:
                raise UserError("message_history and session both give the conversation; leave one of them out.")
            kept = await session.load()
            history, version = kept.messages, kept.version
        history = _whole(history)
        state = RunState(messages=history, n_history=len(history))
        parts: tuple[ModelRequestPart, ...] = (UserPromptPart(well_formed(prompt)),)
        if not history and (system := self._system_prompt(deps, state)):
            parts = (SystemPromptPart(well_formed(system)), *parts)
        plan = self._plan_of(state, ModelRequest(parts), deps, limits, settings)
        return replace(
            plan, checkpointer=self._checkpointer, metadata=metadata, session=session, session_version=version
        )

    async def _resumed(
        self,
        run: str | RunState,
        decisions: Sequence[Decision],
        deps: DepsT,
        limits: UsageLimits | None,
        settings: ModelSettings | None,
        session: Session | None,
    ) -> RunPlan[DepsT, OutputT]:
        from agentkit.resuming import claimed, decided, version_before

        journal = None
        if self._checkpointer is not None:
            state, journal = await claimed(self._checkpointer, run, agent_name=self.name)
        elif isinstance(run, RunState):
            state = run
        else:
            raise UserError(f"run {run!r} cannot be looked up: give the agent a `checkpointer`, or a RunState.")
        try:
            plan = self._plan_of(decided(state, decisions), None, self._current_deps(deps), limits, settings)
            if session is not None and (version := await version_before(session, state)) is not None:
                plan = replace(plan, session=session, session_version=version)
        except BaseException:
            if journal is not None:
                await journal.release()
            raise
        return replace(plan, journal=journal)

    def _plan_of(
        self,
        state: RunState,
        request: ModelRequest | None,
        deps: DepsT,
        limits: UsageLimits | None,
        settings: ModelSettings | None,
    ) -> RunPlan[DepsT, OutputT]:
        plan = self._own_plan(state, request, deps, limits, settings)
        if not self._handoffs:
            return plan
        from agentkit.handoffs import Member, Team

        def member(agent: Agent[Any, Any], its_plan: RunPlan[Any, Any]) -> Member:
            return Member(its_plan, agent._instructions, {each.name: each.history for each in agent._handoffs})

        others = {
            name: member(agent, agent._own_plan(state, None, deps, limits, settings))
            for name, agent in self._reachable().items()
        }
        return replace(plan, team=Team(member(self, plan), others))

    def _reachable(self) -> dict[str, Agent[Any, Any]]:
        """Return all agents that a run can get to, by name; itself where it can get back.

        Raises:
            UserError: two of them share a name, or one answers with another type.
        """
        found: dict[str, Agent[Any, Any]] = {}
        waiting = list(self._handoffs)
        while waiting:
            handoff = waiting.pop()
            agent, name = handoff.agent, handoff.name
            if found.setdefault(name, agent) is not agent:
                raise UserError(f"two agents that a run can be handed over to are called {name!r}; rename one.")
            if agent.output_type is not self.output_type:
                raise UserError(
                    f"agent {name!r} answers with {agent.output_type!r}, and {self.name!r}, which can hand over "
                    f"to it, with {self.output_type!r}: a run has one type of answer."
                )
            waiting += [each for each in agent._handoffs if found.get(each.name) is not each.agent]
        return found

    def _own_plan(
        self,
        state: RunState,
        request: ModelRequest | None,
        deps: DepsT,
        limits: UsageLimits | None,
        settings: ModelSettings | None,
    ) -> RunPlan[DepsT, OutputT]:
        return RunPlan(
            model=self._current_model(),
            toolsets=self._current_toolsets(),
            output=self._output,
            output_validators=self._output_validators,
            request=request,
            state=state,
            deps=deps,
            agent_name=self.name,
            limits=limits or self._limits,
            retries=self._retries,
            tool_timeout_s=self._tool_timeout_s,
            settings=self._settings.merged(settings),
            parallel_tool_calls=self._parallel_tool_calls,
            sinks=self._sinks(),
            planner=self._planner,
            compaction=self._compaction,
            guardrails=self._guardrails,
            taint_rule=self._taint_rule,
            code_mode=self._code_mode,
            handoffs={each.tool_name: each.name for each in self._handoffs},
        )

    def _sinks(self) -> tuple[Sink, ...]:
        sinks: tuple[Sink, ...] = () if self._on_event is None else (self._on_event,)
        if self._trace is not None:
            from agentkit.tracing.jsonl import JsonlTrace

            sinks = (*sinks, JsonlTrace(self._trace))
        if self._telemetry is not None:
            sinks = (*sinks, self._telemetry.sink())
        return sinks

    def _system_prompt(self, deps: DepsT, state: RunState) -> str | None:
        if callable(self._instructions):
            return self._instructions(RunContext(deps=deps, run_id=state.run_id))
        return self._instructions

    def _current_deps(self, deps: DepsT) -> DepsT:
        override = _overrides.get({}).get(id(self), _Override())
        return override.deps if override.has_deps else deps

    def _current_model(self) -> Model:
        override = _overrides.get({}).get(id(self))
        if override is not None and override.model is not None:
            return override.model
        if isinstance(self._model, str):
            self._model = _resolve(self._model)
        return self._model

    def _current_toolsets(self) -> tuple[Toolset, ...]:
        override = _overrides.get({}).get(id(self))
        toolsets = (self._functions, *self._toolsets)
        if override is not None and override.toolsets is not None:
            toolsets = override.toolsets
        if self._handoffs:
            toolsets = (*toolsets, FunctionToolset([each.tool() for each in self._handoffs], id="hand-offs"))
        return toolsets


@asynccontextmanager
async def _entered(plan: RunPlan[DepsT, OutputT]) -> AsyncGenerator[AgentRun[DepsT, OutputT]]:
    async with AsyncExitStack() as stack:

        async def enter(other: RunPlan[Any, Any]) -> None:
            await _enter_all(stack, other.model, other.toolsets)

        run = AgentRun(plan, enter)
        stack.push_async_callback(run.release)
        await _enter_all(stack, plan.model, plan.toolsets)
        yield run


async def _enter_all(stack: AsyncExitStack, model: Model, toolsets: tuple[Toolset, ...]) -> None:
    await stack.enter_async_context(model)
    for toolset in toolsets:
        await stack.enter_async_context(toolset)


def _checkpointer(named: Checkpointer | str | Path | None) -> Checkpointer | None:
    if not isinstance(named, str | Path):
        return named
    from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer

    return SQLiteCheckpointer(named)


def _handoffs(given: Sequence[Agent[Any, Any] | Handoff]) -> tuple[Handoff, ...]:
    if not given:
        return ()
    from agentkit.handoffs import as_handoffs

    return as_handoffs(given)


def _whole(history: Sequence[ModelMessage]) -> tuple[ModelMessage, ...]:
    if not history:
        return ()
    from agentkit.repair import repaired

    return repaired(history)


def _resolve(model: Model | str) -> Model:
    if isinstance(model, Model):
        return model
    from agentkit.models.resolve import resolve_model

    return resolve_model(model)
