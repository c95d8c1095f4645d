"""`Agent`: the declaration of an agent and its run methods, nothing else.

`agentkit.run.decide` decides what happens in a run; `agentkit.run.perform` performs it.
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

from agentkit.approvals.pending import Decision
from agentkit.basics.well_formed import well_formed
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.limits import UsageLimits
from agentkit.messages import ModelMessage, ModelRequest, UserPromptPart
from agentkit.models.base import Model, ModelSettings
from agentkit.output import output_spec
from agentkit.results import RunResult
from agentkit.run import sync
from agentkit.run.budget import Budget
from agentkit.run.instructions import Instructions
from agentkit.run.perform import AgentRun
from agentkit.run.setup import Member, OutputValidator, RunSetup, Sink, Team
from agentkit.run.state import RunState
from agentkit.run.stream import AgentStream, streamed
from agentkit.tools.execution import DEFAULT_TOOL_TIMEOUT_S
from agentkit.tools.function import FunctionT, FunctionToolset
from agentkit.tools.tool import Tool
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.guardrails.guardrail import Guardrail, GuardrailSource
    from agentkit.history.compaction import Compaction
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.persistence.session import Session
    from agentkit.planning.planner import Planner
    from agentkit.teams.handoffs import Handoff
    from agentkit.tools.code_mode import CodeMode
    from agentkit.tracing.telemetry import Telemetry

DepsT = TypeVar("DepsT", default=None)
OutputT = TypeVar("OutputT", default=str)


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

    `DepsT` is the type of the application's own objects, which tools receive through `RunContext.deps`. `OutputT`
    is the type of `result.output`.
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
            instructions: System text, or a function of the run's context that returns it (sync or async). It is
                resolved for each request and sent before the conversation; the messages do not contain it.
            output_type: Any type that pydantic can validate; `str` for plain text.
            deps_type: The type of `deps`; used only by type checkers.
            name: Name of the agent in traces and hand-offs.
            limits: Usage limits of a run; reaching a limit ends the run with a result.
            retries: Number of consecutive retries after a rejected call or answer.
            settings: Defaults for sampling and deadlines.
            tool_timeout_s: Seconds before a tool call times out, unless the tool sets its own; None for no limit.
            parallel_tool_calls: Whether a response may contain several calls.
            code_mode: The model writes Python that calls the tools, run in a sandbox (extra `code`), instead of
                calling them directly; hand-offs stay direct calls. See `agentkit.tools.code_mode`.
            planner: Makes a plan first, which the run follows step by step: `PlanTemplate` or `ModelPlanner`.
            compaction: Shortens a conversation that is too long for the model, `SlidingWindow` or `Summary`; None
                always sends the whole conversation.
            handoffs: Agents that this agent may hand the conversation over to; they continue the same run. A
                `Handoff` sets when, and what the other agent sees; see `agentkit.teams.handoffs`.
            guardrails: Checks of prompts, tool calls, their results and answers; see `agentkit.guardrails`.
            taint_rule: After a result of an untrusted tool (MCP tools by default), destructive and open-world
                calls require approval. An MCP tool without annotations counts as both
                (`MCPToolset(assume_harmless=...)`). A `TaintRule` among `guardrails` replaces this rule, to allow
                tools by name.
            trace: Directory for JSONL traces, one file per run; None disables traces.
            telemetry: Reports runs as OpenTelemetry spans, `agentkit.tracing.telemetry.Telemetry()`.
            checkpointer: Stores every run so that it can be resumed after a crash or an approval: the path of a
                SQLite file, or a `Checkpointer`; None stores nothing.
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

        `metadata` is stored with the run in the journal, for searches. A `session` supplies the earlier
        conversation, and stores the run's messages when the run ends, without text that a guardrail blocked.

        Raises:
            AgentRunError: the run failed; the error carries the messages and the usage so far.
            UserError: the declaration of the agent or of its tools is wrong.
        """
        setup = await self._new_setup(prompt, deps, message_history, limits, settings, metadata, session)
        async with _entered(setup) as run:
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
        """Run and wait, from any thread; an event loop that runs in this thread is blocked meanwhile.

        Raises:
            AgentRunError: see `run`.
            UserError: see `run`.
        """
        return sync.run(
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
        """Resume a run that was killed, failed, or stopped for an approval; in this process or another one.

        A run that had ended returns its result again. While a call still waits, the status is "needs_approval" and
        `result.pending` lists the waiting calls. A call that was running when its process died waits with kind
        "unknown", unless its tool is known to be idempotent.

        Args:
            run: A run's id in the agent's journal, or the state of a result, wherever it was stored. Without a
                `checkpointer` two processes can resume the same state, and both run its calls: the application
                must give a state to only one process.
            decisions: Decisions about the waiting calls: `result.pending[0].approve()`, `.deny(reason)`.
            deps: See `run`; they are not stored.
            limits: See `run`.
            settings: See `run`.
            session: The session that the run was started with.

        Raises:
            CheckpointError: the run is unknown or damaged, or another process holds it.
            UserError: a decision is about a call that does not wait, or the run belongs to another agent.
            AgentRunError: see `run`.
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
        """Resume a run and wait, like `run_sync`.

        Raises:
            AgentKitError: see `resume`.
        """
        resume = partial(self.resume, run, decisions, deps=deps, limits=limits, settings=settings, session=session)
        return sync.run(resume)

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

        The iteration raises the error of the run, unchanged. A run whose events are not read pauses after about a
        thousand unread events.
        """
        setup = await self._new_setup(prompt, deps, message_history, limits, settings, metadata, session)
        async with streamed(setup, _entered) as stream:
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
            await self._new_setup(prompt, deps, message_history, limits, settings, metadata, session)
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
        """Resume a run, like `resume`, step by step, like `iter`."""
        async with _entered(await self._resumed(run, decisions, deps, limits, settings, session)) as resumed:
            yield resumed

    def as_tool(self, description: str, *, name: str | None = None) -> Tool:
        """Return the agent as a tool of an outer agent, which sends a task and receives the answer.

        The inner runs share the outer agent's `deps` and budget: the inner limits and the outer agent's remaining
        budget both apply. The outer run and its journal store them. If an inner call needs a decision, the outer
        run asks for it (`result.pending`). `name` defaults to the agent's name.

        Raises:
            UserError: neither the agent nor the tool has a name.
        """
        from agentkit.teams.agent_tool import agent_tool

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
        """Return whether the agent, or an agent that it can hand over to, has tools with untrusted results."""
        agents: list[Agent[Any, Any]] = [self]
        for agent in agents:
            agents += [each.agent for each in agent._handoffs if each.agent not in agents]
        return any(agent._toolsets or agent._functions.is_untrusted for agent in agents)

    async def _go_on_inner(
        self, task: str, state: RunState, deps: Any, outer: Budget | None, journal: RunJournal | None
    ) -> RunResult[OutputT]:
        """Continue or begin an inner run for a call of an outer run, which stores it and counts its usage."""
        if state.messages:
            setup = self._setup_of(state, None, self._current_deps(deps), None, None)
        else:
            setup = await self._new_setup(task, deps, (), None, None, None, None)
            begun = replace(setup.state, run_id=state.run_id, tainted=state.tainted)
            setup = replace(setup, state=begun, checkpointer=None)
        budget = Budget(setup.limits, state.usage, outer)
        async with _entered(replace(setup, journal=journal, budget=budget)) as run:
            try:
                return await run.finish()
            finally:
                budget.close(run.state.usage)

    # -- declaring ----------------------------------------------------------------------------------------

    def tool(self, function: FunctionT) -> FunctionT:
        """Add a function as a tool; usable as a decorator."""
        self._functions.add(function)
        return function

    def add_handoff(self, to: Agent[DepsT, OutputT] | Handoff) -> None:
        """Add a hand-off later, for example back to the agent that hands over to this one.

        Raises:
            UserError: the other agent has no name, or the name of an earlier hand-off.
        """
        self._handoffs = _handoffs((*self._handoffs, to))

    def output_validator(self, function: Callable[[RunContext[DepsT], OutputT], Any]) -> Callable[..., Any]:
        """Add a coroutine function that checks or changes an answer; it may raise `ModelRetry`."""
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
        """Replace the model, tools or deps within this context and the tasks started in it; for tests."""
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
        """Close the model and the tool servers."""
        await self._open.pop().aclose()

    def __enter__(self) -> Self:
        """Keep the model and the tool servers open between calls of `run_sync`."""
        context = sync.enter(self)
        context.__enter__()
        self._sync_open.append(context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the model and the tool servers."""
        self._sync_open.pop().__exit__(kind, error, trace)

    # -- inside -------------------------------------------------------------------------------------------

    async def _new_setup(
        self,
        prompt: str,
        deps: DepsT,
        history: Sequence[ModelMessage],
        limits: UsageLimits | None,
        settings: ModelSettings | None,
        metadata: Mapping[str, str] | None,
        session: Session | None,
    ) -> RunSetup[DepsT, OutputT]:
        deps = self._current_deps(deps)
        version = None
        if session is not None:
            if history:
                raise UserError("message_history and session both give the conversation; leave one of them out.")
            kept = await session.load()
            history, version = kept.messages, kept.version
        history = _whole(history)
        state = RunState(messages=history, n_history=len(history))
        request = ModelRequest((UserPromptPart(well_formed(prompt)),))
        setup = self._setup_of(state, request, deps, limits, settings)
        return replace(
            setup, checkpointer=self._checkpointer, metadata=metadata, session=session, session_version=version
        )

    async def _resumed(
        self,
        run: str | RunState,
        decisions: Sequence[Decision],
        deps: DepsT,
        limits: UsageLimits | None,
        settings: ModelSettings | None,
        session: Session | None,
    ) -> RunSetup[DepsT, OutputT]:
        from agentkit.run.resume import claimed, decided, version_before

        journal = None
        if self._checkpointer is not None:
            state, journal = await claimed(self._checkpointer, run, agent_name=self.name)
        elif isinstance(run, RunState):
            state = run
        else:
            raise UserError(f"run {run!r} cannot be looked up: give the agent a `checkpointer`, or a RunState.")
        try:
            setup = self._setup_of(decided(state, decisions), None, self._current_deps(deps), limits, settings)
            if session is not None and (version := await version_before(session, state)) is not None:
                setup = replace(setup, session=session, session_version=version)
        except BaseException:
            if journal is not None:
                await journal.release()
            raise
        return replace(setup, journal=journal)

    def _setup_of(
        self,
        state: RunState,
        request: ModelRequest | None,
        deps: DepsT,
        limits: UsageLimits | None,
        settings: ModelSettings | None,
    ) -> RunSetup[DepsT, OutputT]:
        setup = self._own_setup(state, request, deps, limits, settings)
        if not self._handoffs:
            return setup

        def member(agent: Agent[Any, Any], its_setup: RunSetup[Any, Any]) -> Member:
            return Member(its_setup, {each.name: each.history for each in agent._handoffs})

        others = {
            name: member(agent, agent._own_setup(state, None, deps, limits, settings))
            for name, agent in self._reachable().items()
        }
        return replace(setup, team=Team(member(self, setup), others))

    def _reachable(self) -> dict[str, Agent[Any, Any]]:
        """Return all agents that a run can reach by hand-offs, by name; includes this agent if it can be reached.

        Raises:
            UserError: two of them share a name, or one has another output type.
        """
        found: dict[str, Agent[Any, Any]] = {}
        waiting = list(self._handoffs)
        while waiting:
            handoff = waiting.pop()
            agent, name = handoff.agent, handoff.name
            if not isinstance(agent, Agent):
                raise UserError(f"handoffs=[{agent!r}]: a run can be handed over to an Agent or a Handoff only.")
            if found.setdefault(name, agent) is not agent:
                raise UserError(f"two agents that a run can be handed over to are called {name!r}; rename one.")
            if agent.output_type is not self.output_type:
                raise UserError(
                    f"agent {name!r} answers with {agent.output_type!r}, and {self.name!r}, which can hand over "
                    f"to it, with {self.output_type!r}: a run has one type of answer."
                )
            waiting += [each for each in agent._handoffs if found.get(each.name) is not each.agent]
        return found

    def _own_setup(
        self,
        state: RunState,
        request: ModelRequest | None,
        deps: DepsT,
        limits: UsageLimits | None,
        settings: ModelSettings | None,
    ) -> RunSetup[DepsT, OutputT]:
        return RunSetup(
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
            instructions=self._instructions,
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
async def _entered(setup: RunSetup[DepsT, OutputT]) -> AsyncGenerator[AgentRun[DepsT, OutputT]]:
    async with AsyncExitStack() as stack:

        async def enter(other: RunSetup[Any, Any]) -> None:
            await _enter_all(stack, other.model, other.toolsets)

        run = AgentRun(setup, enter)

        async def leave(kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
            await run.leave(error)

        stack.push_async_exit(leave)
        await _enter_all(stack, setup.model, setup.toolsets)
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
    from agentkit.teams.handoffs import as_handoffs

    return as_handoffs(given)


def _whole(history: Sequence[ModelMessage]) -> tuple[ModelMessage, ...]:
    if not history:
        return ()
    from agentkit.history.repair import repaired

    return repaired(history)


def _resolve(model: Model | str) -> Model:
    if isinstance(model, Model):
        return model
    from agentkit.models.resolve import resolve_model

    return resolve_model(model)
