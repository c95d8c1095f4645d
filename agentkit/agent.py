"""`Agent`: the declaration of an agent and its run methods, nothing else.

`agentkit.run.declaration` sets a run up, `agentkit.run.decide` decides what happens in it, and
`agentkit.run.perform` performs it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, Unpack, cast, overload

from typing_extensions import TypeVar

from agentkit.approvals.pending import Decision
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.files import FileLimits, Prompt
from agentkit.limits import UsageLimits
from agentkit.models.base import Model, ModelSettings
from agentkit.models.model_price import Prices, checked_prices
from agentkit.output import output_spec
from agentkit.results import RunResult
from agentkit.run import sync
from agentkit.run.agent_run import AgentRun, entered, open_all
from agentkit.run.argument_checks import check_arguments
from agentkit.run.declaration import Declaration, checkpointer_of, handoffs_of, resolved_model
from agentkit.run.instructions import Instructions
from agentkit.run.overrides import NOTHING, Override, overridden
from agentkit.run.setup import OutputValidator, ResumeOptions, RunOptions, Sink
from agentkit.run.state import RunState
from agentkit.run.stream import AgentStream, SyncAgentStream, streamed
from agentkit.tools.execution import DEFAULT_TOOL_TIMEOUT_S
from agentkit.tools.function import FunctionT, FunctionToolset, ToolOptions
from agentkit.tools.tool import ON_TOOL_ERROR, OnToolError, Tool
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.guardrails.guardrail import Guardrail, GuardrailSource
    from agentkit.history.compaction import Compaction
    from agentkit.history.processors import HistoryProcessor
    from agentkit.improve.pieces import Pieces
    from agentkit.middleware import Middleware
    from agentkit.output import OutputType
    from agentkit.persistence.checkpointer import Checkpointer
    from agentkit.planning.planner import Planner
    from agentkit.teams.handoffs import Handoff
    from agentkit.tools.code_mode import CodeMode
    from agentkit.tools.prepare import PrepareTools
    from agentkit.tracing.telemetry import Telemetry

DepsT = TypeVar("DepsT", default=None)
OutputT = TypeVar("OutputT", default=str)


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
        output_type: OutputType[OutputT] = str,
        deps_type: type[DepsT] = NoneType,
        name: str | None = None,
        limits: UsageLimits = UsageLimits(),
        retries: int = 1,
        settings: ModelSettings = ModelSettings(),
        tool_timeout_s: float | None = DEFAULT_TOOL_TIMEOUT_S,
        on_tool_error: OnToolError = "tell",
        parallel_tool_calls: bool = True,
        code_mode: CodeMode | None = None,
        planner: Planner | None = None,
        compaction: Compaction | None = None,
        history_processors: Sequence[HistoryProcessor] = (),
        middleware: Sequence[Middleware] = (),
        prepare_tools: PrepareTools | None = None,
        handoffs: Sequence[Agent[DepsT, OutputT] | Handoff] = (),
        file_limits: FileLimits = FileLimits(),
        prices: Prices | None = None,
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
            output_type: Any type that pydantic can validate, `str` for plain text; a union or a list of types; or
                a function whose arguments the model fills in and whose return value is the output. See
                `agentkit.output`.
            deps_type: The type of `deps`; used only by type checkers.
            name: Name of the agent in traces and hand-offs.
            limits: Usage limits of a run; reaching a limit ends the run with a result.
            retries: Number of consecutive retries after a rejected call or answer.
            settings: Defaults for sampling and deadlines.
            tool_timeout_s: Seconds before a tool call times out, unless the tool sets its own; None for no limit.
            on_tool_error: "tell": the model reads the class and the shortened, cleaned message of an exception
                that a tool did not declare, as a failed result; "raise": the exception ends the run as
                `ToolExecutionError`. A tool may set its own (`@tool(on_error=...)`).
            parallel_tool_calls: Whether a response may contain several calls.
            code_mode: The model writes Python that calls the tools, run in a sandbox (extra `code`), instead of
                calling them directly; hand-offs stay direct calls. See `agentkit.tools.code_mode`.
            planner: Makes a plan first, which the run follows step by step: `PlanTemplate` or `ModelPlanner`.
            compaction: Shortens a conversation that is too long for the model, `SlidingWindow` or `Summary`; None
                always sends the whole conversation.
            history_processors: Functions (messages, context) that change the conversation as it is sent to the
                model, never as it is stored; sync or async. See `agentkit.history.processors`.
            middleware: Code around each model request and each tool call, the first outermost; see
                `agentkit.middleware`. After a hand-off, the middleware of the other agent applies.
            prepare_tools: Function (context, definitions) that returns the tools of each step, as definitions or
                names; sync or async. See `agentkit.tools.prepare`.
            handoffs: Agents that this agent may hand the conversation over to; they continue the same run. A
                `Handoff` sets when, and what the other agent sees; see `agentkit.teams.handoffs`.
            file_limits: Bounds on the images, sounds and documents of a message; see `agentkit.files`.
            prices: Prices by the name of a model, `{"my-model": ModelPrice(...)}`, for models that the price list
                of the extra `cost` does not know; they hold for hand-offs too. See `agentkit.models.prices`.
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
            UserError: a tool or the output type cannot be expressed as a schema, two tools share a name, or an
                argument has a value that is not allowed.
        """
        check_arguments(locals())  # here these are the arguments alone
        if retries < 0:
            raise UserError(f"retries={retries!r} must be zero or more.")
        if on_tool_error not in ON_TOOL_ERROR:
            raise UserError(f'on_tool_error={on_tool_error!r} must be "tell" or "raise".')
        self.output_type = output_type
        self.deps_type = deps_type
        self._declared: Declaration[DepsT, OutputT] = Declaration(
            name=name,
            model=model,
            functions=FunctionToolset(tools, id=f"functions of {name}" if name else "functions"),
            toolsets=tuple(toolsets),
            instructions=instructions,
            output_type=output_type,
            output=output_spec(output_type),
            limits=limits,
            retries=retries,
            settings=settings,
            tool_timeout_s=tool_timeout_s,
            on_tool_error=on_tool_error,
            parallel_tool_calls=parallel_tool_calls,
            code_mode=code_mode,
            planner=planner,
            compaction=compaction,
            history_processors=tuple(history_processors),
            middleware=tuple(middleware),
            prepare_tools=prepare_tools,
            handoffs=handoffs_of(handoffs),
            file_limits=file_limits,
            prices=checked_prices(prices),
            guardrails=tuple(guardrails),
            taint_rule=taint_rule,
            trace=Path(trace) if trace is not None else None,
            telemetry=telemetry,
            checkpointer=checkpointer_of(checkpointer),
            on_event=on_event,
        )
        self._open: list[AsyncExitStack] = []
        self._sync_open: list[AbstractContextManager[Any]] = []

    @property
    def name(self) -> str | None:
        """The agent's name in traces, journals and hand-offs."""
        return self._declared.name

    # -- running ------------------------------------------------------------------------------------------

    async def run(self, prompt: Prompt, **options: Unpack[RunOptions[DepsT]]) -> RunResult[OutputT]:
        """Run until the model answers, or a call waits for an approval; see `RunOptions`.

        A `session` stores the messages of the run, without text that a guardrail blocked.

        Raises:
            AgentRunError: the run failed; the error carries the messages and the usage so far.
            UserError: the declaration of the agent or of its tools is wrong, or an option is unknown or has the
                wrong type.
        """
        async with self.iter(prompt, **options) as run:
            return await run.finish()

    def run_sync(self, prompt: Prompt, **options: Unpack[RunOptions[DepsT]]) -> RunResult[OutputT]:
        """Run and wait, from any thread; an event loop that runs in this thread is blocked meanwhile.

        Raises:
            AgentRunError: see `run`.
            UserError: see `run`.
        """
        return sync.run(partial(self.run, prompt, **options))

    @asynccontextmanager
    async def run_stream(
        self, prompt: Prompt, **options: Unpack[RunOptions[DepsT]]
    ) -> AsyncGenerator[AgentStream[OutputT]]:
        """Run in the background and iterate over the events; leaving the context early cancels the run.

        The iteration raises the error of the run, unchanged. A run whose events are not read pauses after about a
        thousand unread events.
        """
        async with streamed(await self._declared.new_setup(prompt, options)) as stream:
            yield stream

    @contextmanager
    def run_stream_sync(
        self, prompt: Prompt, **options: Unpack[RunOptions[DepsT]]
    ) -> Generator[SyncAgentStream[OutputT]]:
        """Run in the background loop and iterate over the events in this thread, like `run_stream`."""
        with sync.opened(self.run_stream(prompt, **options)) as (stream, portal):
            yield SyncAgentStream(stream, portal)

    @asynccontextmanager
    async def iter(
        self, prompt: Prompt, **options: Unpack[RunOptions[DepsT]]
    ) -> AsyncGenerator[AgentRun[DepsT, OutputT]]:
        """Run step by step: iterate over the run to see each action before it is performed."""
        async with entered(await self._declared.new_setup(prompt, options)) as run:
            yield run

    async def resume(
        self, run: str | RunState, decisions: Sequence[Decision] = (), **options: Unpack[ResumeOptions[DepsT]]
    ) -> RunResult[OutputT]:
        """Resume a run that was killed, failed, or stopped for an approval; in this process or another one.

        A run that had ended returns its result again. While a call still waits, the status is "needs_approval" (or
        "needs_results", if only results of external tools are missing) and `result.pending` lists the waiting
        calls. A call that was running when its process died waits with kind "unknown", unless its tool is known to
        be idempotent.

        Args:
            run: A run's id in the agent's journal, or the state of a result, wherever it was stored. Without a
                `checkpointer` two processes can resume the same state, and both run its calls: the application
                must give a state to only one process.
            decisions: Decisions about the waiting calls: `result.pending[0].approve()`, `.deny(reason)`, or
                `.settle(content)` with the result of a call that has run.
            options: See `ResumeOptions`; `session` is the session that the run was started with.

        Raises:
            CheckpointError: the run is unknown or damaged, or another process holds it.
            UserError: a decision is about a call that does not wait, or the run belongs to another agent.
            AgentRunError: see `run`.
        """
        async with self.iter_resumed(run, decisions, **options) as resumed:
            return await resumed.finish()

    def resume_sync(
        self, run: str | RunState, decisions: Sequence[Decision] = (), **options: Unpack[ResumeOptions[DepsT]]
    ) -> RunResult[OutputT]:
        """Resume a run and wait, like `run_sync`.

        Raises:
            AgentKitError: see `resume`.
        """
        return sync.run(partial(self.resume, run, decisions, **options))

    @asynccontextmanager
    async def iter_resumed(
        self, run: str | RunState, decisions: Sequence[Decision] = (), **options: Unpack[ResumeOptions[DepsT]]
    ) -> AsyncGenerator[AgentRun[DepsT, OutputT]]:
        """Resume a run, like `resume`, step by step, like `iter`."""
        async with entered(await self._declared.resumed_setup(run, decisions, options)) as resumed:
            yield resumed

    def as_tool(self, description: str, *, name: str | None = None) -> Tool:
        """Return the agent as a tool of an outer agent, which sends a task and receives the answer.

        The inner runs share the outer agent's `deps` and budget: the inner limits and the outer agent's remaining
        budget both apply. The outer run and its journal store them. If an inner call needs a decision, the outer
        run asks for it (`result.pending`). `name` defaults to the agent's name. A failed inner run ends the outer
        run, whatever `on_tool_error` says.

        Raises:
            UserError: neither the agent nor the tool has a name.
        """
        from agentkit.teams.agent_tool import agent_tool

        named = name or self.name
        if named is None:
            raise UserError("an agent needs a name to be a tool: Agent(name=...), or as_tool(..., name=...).")
        return agent_tool(
            self._declared.run_inner,
            name=named,
            description=description,
            checkpointer=self._declared.checkpointer,
            is_untrusted=self._declared.may_read_untrusted(),
        )

    def improved(self, by: Pieces | str | Path) -> Agent[DepsT, OutputT]:
        """Return this agent with an improved prompt; the agent itself does not change, and both share their tools.

        Args:
            by: Folder of `agentkit improve`, of which the accepted version is read now; or the pieces of a prompt.

        Raises:
            UserError: the folder has no improvement, it is damaged, or it does not fit this agent.
        """
        from agentkit.improve.applying import improved_declaration

        other = copy(self)
        other._declared = improved_declaration(self._declared, by)
        other._open, other._sync_open = [], []
        return other

    # -- declaring ----------------------------------------------------------------------------------------

    @overload
    def tool(self, function: FunctionT, /) -> FunctionT: ...
    @overload
    def tool(self, /, **options: Unpack[ToolOptions]) -> Callable[[FunctionT], FunctionT]: ...
    def tool(self, function: Callable[..., Any] | None = None, /, **options: Unpack[ToolOptions]) -> Any:
        """Add a function as a tool: `@agent.tool`, or with options, `@agent.tool(timeout_s=5)`.

        The options are those of `agentkit.tool`.

        Raises:
            UserError: an option is unknown, the name is taken, or the signature has no schema.
        """

        def add(target: FunctionT) -> FunctionT:
            self._declared.functions.add(target, **options)
            return target

        return add if function is None else add(function)

    def add_handoff(self, to: Agent[DepsT, OutputT] | Handoff) -> None:
        """Add a hand-off later, for example back to the agent that hands over to this one.

        Raises:
            UserError: the other agent has no name, or the name of an earlier hand-off.
        """
        self._declared.handoffs = handoffs_of((*self._declared.handoffs, to))

    def output_validator(self, function: Callable[[RunContext[DepsT], OutputT], Any]) -> Callable[..., Any]:
        """Add a function, plain or coroutine, that checks or changes an answer; it may raise `ModelRetry`."""
        declared = self._declared
        declared.output_validators = (*declared.output_validators, cast(OutputValidator, function))
        return function

    @contextmanager
    def override(
        self,
        *,
        model: Model | str | None = None,
        tools: Sequence[Callable[..., Any] | Tool] | None = None,
        toolsets: Sequence[Toolset] | None = None,
        deps: Any = NOTHING,
    ) -> Generator[None]:
        """Replace the model, tools or deps within this context and the tasks started in it; for tests."""
        check_arguments({"model": model, "tools": tools, "toolsets": toolsets}, never_none=())
        declared, replaced = self._declared, None
        if tools is not None or toolsets is not None:
            functions = declared.functions if tools is None else FunctionToolset(tools)
            replaced = (functions, *(declared.toolsets if toolsets is None else toolsets))
        override = Override(resolved_model(model) if model is not None else None, replaced, deps)
        with overridden(declared, override):
            yield

    # -- keeping connections open -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Keep the model and the tool servers open between runs."""
        stack = AsyncExitStack()
        await open_all(stack, self._declared.current_model(), self._declared.current_toolsets())
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
