"""Declaration of an agent, and the setup of each of its runs: new, resumed, or inner to another run.

`Agent` is the face; this is what it declares. All agents that a run can reach by hand-offs are set up with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from agentkit.approvals.pending import Decision
from agentkit.errors import UserError
from agentkit.files import FileLimits, Prompt, checked_prompt, unreadable
from agentkit.limits import UsageLimits
from agentkit.messages import Content, ModelMessage, ModelRequest, UserPromptPart
from agentkit.models.base import Model, ModelSettings
from agentkit.models.model_price import Prices
from agentkit.output import OutputSpec
from agentkit.results import RunResult
from agentkit.run.agent_run import entered
from agentkit.run.argument_checks import check_arguments
from agentkit.run.budget import Budget
from agentkit.run.instructions import Instructions
from agentkit.run.overrides import NOTHING, override_of
from agentkit.run.setup import (
    Member,
    OutputValidator,
    ResumeOptions,
    RunOptions,
    RunSetup,
    Sink,
    Team,
    check_options,
)
from agentkit.run.state import RunState
from agentkit.tools.function import FunctionToolset
from agentkit.tools.tool import OnToolError
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.guardrails.guardrail import Guardrail, GuardrailSource
    from agentkit.history.compaction import Compaction
    from agentkit.history.processors import HistoryProcessor
    from agentkit.middleware import Middleware
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.persistence.outbox import Outbox
    from agentkit.planning.planner import Planner
    from agentkit.teams.handoffs import Handoff, NamedAgent
    from agentkit.tools.code_mode import CodeMode
    from agentkit.tools.prepare import PrepareTools
    from agentkit.tracing.telemetry import Telemetry

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")


@dataclass(slots=True, eq=False)
class Declaration(Generic[DepsT, OutputT]):
    """Everything that an agent declares; see `Agent.__init__`."""

    name: str | None
    model: Model | str
    functions: FunctionToolset
    toolsets: tuple[Toolset, ...]
    instructions: Instructions | None
    output_type: Any
    output: OutputSpec[OutputT]
    limits: UsageLimits
    retries: int
    settings: ModelSettings
    tool_timeout_s: float | None
    on_tool_error: OnToolError
    parallel_tool_calls: bool
    code_mode: CodeMode | None
    planner: Planner | None
    compaction: Compaction | None
    history_processors: tuple[HistoryProcessor, ...]
    middleware: tuple[Middleware, ...]
    prepare_tools: PrepareTools | None
    handoffs: tuple[Handoff, ...]
    file_limits: FileLimits
    prices: Prices
    guardrails: tuple[Guardrail | GuardrailSource, ...]
    taint_rule: bool
    trace: Path | None
    telemetry: Telemetry | None
    checkpointer: Checkpointer | None
    on_event: Sink | None
    output_validators: tuple[OutputValidator, ...] = ()

    async def new_setup(self, prompt: Prompt | Content, options: RunOptions[DepsT]) -> RunSetup[DepsT, OutputT]:
        """Return the setup of a new run.

        Raises:
            UserError: an option is unknown, two options contradict each other, or a file of the prompt is refused.
        """
        check_options(options, RunOptions.__annotations__)
        check_arguments({"prompt": prompt})
        history, session = options.get("message_history") or (), options.get("session")
        version = None
        if session is not None:
            if history:
                raise UserError("message_history and session both give the conversation; leave one of them out.")
            kept = await session.load()
            history, version = kept.messages, kept.version
        history = _whole(history)
        state = RunState(
            messages=history,
            n_history=len(history),
            tainted=options.get("tainted", False),
            user=options.get("user"),
        )
        content = checked_prompt(prompt, self.file_limits)
        setup = self._setup_of(state, ModelRequest((UserPromptPart(content),)), options)
        if (file := unreadable(content, setup.model.profile.inputs)) is not None:
            raise UserError(
                f"prompt: the model {setup.model.name!r} does not read files like {file.note}; give a model that "
                f"does, or say in words what is in it."
            )
        return replace(
            setup,
            checkpointer=self.checkpointer,
            metadata=options.get("metadata"),
            session=session,
            session_version=version,
        )

    async def resumed_setup(
        self, run: str | RunState, decisions: Sequence[Decision], options: ResumeOptions[DepsT]
    ) -> RunSetup[DepsT, OutputT]:
        """Return the setup of a stored run, which is claimed in its journal.

        Raises:
            CheckpointError: the run is unknown or damaged, or another process holds it.
            UserError: a decision is about a call that does not wait, the run belongs to another agent, or an
                option is unknown.
        """
        from agentkit.run.resume import claimed, decided

        check_options(options, ResumeOptions.__annotations__)
        journal = None
        if self.checkpointer is not None:
            state, journal = await claimed(self.checkpointer, run, agent_name=self.name)
        elif isinstance(run, RunState):
            state = run
        else:
            raise UserError(f"run {run!r} cannot be looked up: give the agent a `checkpointer`, or a RunState.")
        try:
            setup = await self._continued(decided(state, decisions), options)
        except BaseException:
            if journal is not None:
                await journal.release()
            raise
        return replace(setup, journal=journal)

    async def held_setup(
        self,
        journal: RunJournal,
        state: RunState,
        opening: tuple[Content, Sequence[ModelMessage]],
        options: ResumeOptions[DepsT],
        outbox: Outbox,
    ) -> RunSetup[DepsT, OutputT]:
        """Return the setup of a run that this process holds: continued from its state, or begun.

        Args:
            journal: Journal of the run.
            state: State as it is stored.
            opening: Prompt and earlier conversation of a run that has not begun.
            options: Options of the run.
            outbox: Outbox of the journal, which becomes a listener.

        Raises:
            CheckpointError: the session is damaged, or has changed since the run began.
        """
        if state.messages:
            setup = await self._continued(state, options)
        else:
            prompt, history = opening
            given: RunOptions[DepsT] = {**options, "user": state.user}
            if history:
                given["message_history"] = history
            setup = await self.new_setup(prompt, given)
            begun = replace(setup.state, run_id=state.run_id)
            setup = replace(setup, state=begun, checkpointer=None)
        return replace(setup, journal=journal, outbox=outbox, sinks=(*setup.sinks, outbox))

    async def _continued(self, state: RunState, options: ResumeOptions[DepsT]) -> RunSetup[DepsT, OutputT]:
        """Return the setup of a run that has begun, with the session that it was begun with."""
        from agentkit.run.resume import version_before

        setup, session = self._setup_of(state, None, options), options.get("session")
        if session is not None and (version := await version_before(session, state)) is not None:
            setup = replace(setup, session=session, session_version=version)
        return setup

    async def run_inner(
        self, task: str, state: RunState, deps: Any, outer: Budget | None, journal: RunJournal | None
    ) -> RunResult[OutputT]:
        """Continue or begin an inner run for a call of an outer run, which stores it and counts its usage."""
        if state.messages:
            setup = self._setup_of(state, None, {"deps": deps})
        else:
            setup = await self.new_setup(task, {"deps": deps, "user": state.user})
            begun = replace(setup.state, run_id=state.run_id, tainted=state.tainted)
            setup = replace(setup, state=begun, checkpointer=None)
        budget = Budget(setup.limits, state.usage, outer)
        async with entered(replace(setup, journal=journal, budget=budget)) as run:
            try:
                return await run.finish()
            finally:
                budget.close(run.state.usage)

    def may_read_untrusted(self) -> bool:
        """Return whether the agent, or an agent that it can hand over to, has tools with untrusted results."""
        agents: list[Declaration[Any, Any]] = [self]
        for each in agents:
            agents += [other for handoff in each.handoffs if (other := _declared(handoff.agent)) not in agents]
        return any(each.toolsets or each.functions.is_untrusted for each in agents)

    def current_model(self) -> Model:
        """Return the model; a name is resolved once."""
        if (model := override_of(self).model) is not None:
            return model
        if isinstance(self.model, str):
            self.model = resolved_model(self.model)
        return self.model

    def current_toolsets(self) -> tuple[Toolset, ...]:
        """Return all toolsets, with that of the hand-offs."""
        toolsets = override_of(self).toolsets
        if toolsets is None:
            toolsets = (self.functions, *self.toolsets)
        if self.handoffs:
            toolsets = (*toolsets, FunctionToolset([each.tool() for each in self.handoffs], id="hand-offs"))
        return toolsets

    def _setup_of(
        self, state: RunState, request: ModelRequest | None, options: ResumeOptions[DepsT]
    ) -> RunSetup[DepsT, OutputT]:
        """Return the setup of a run, with the setups of all agents that it can reach."""
        setup = self._own_setup(state, request, options)
        if not self.handoffs:
            return setup

        def member(agent: Declaration[Any, Any], its_setup: RunSetup[Any, Any]) -> Member:
            return Member(its_setup, {each.name: each.history for each in agent.handoffs})

        others = {
            name: member(agent, agent._own_setup(state, None, options))
            for name, agent in self._reachable().items()
        }
        return replace(setup, team=Team(member(self, setup), others))

    def _own_setup(
        self, state: RunState, request: ModelRequest | None, options: ResumeOptions[DepsT]
    ) -> RunSetup[DepsT, OutputT]:
        deps = override_of(self).deps
        return RunSetup(
            model=self.current_model(),
            toolsets=self.current_toolsets(),
            output=self.output,
            output_validators=self.output_validators,
            request=request,
            state=state,
            deps=cast(DepsT, options.get("deps") if deps is NOTHING else deps),
            agent_name=self.name,
            limits=options.get("limits") or self.limits,
            retries=self.retries,
            tool_timeout_s=self.tool_timeout_s,
            on_tool_error=self.on_tool_error,
            settings=self.settings.merged(options.get("settings")),
            parallel_tool_calls=self.parallel_tool_calls,
            sinks=self._sinks(),
            instructions=self.instructions,
            planner=self.planner,
            compaction=self.compaction,
            history_processors=self.history_processors,
            middleware=self.middleware,
            prepare_tools=self.prepare_tools,
            prices=self.prices,
            guardrails=self.guardrails,
            taint_rule=self.taint_rule,
            code_mode=self.code_mode,
            handoffs={each.tool_name: each.name for each in self.handoffs},
            file_limits=self.file_limits,
        )

    def _sinks(self) -> tuple[Sink, ...]:
        sinks: tuple[Sink, ...] = () if self.on_event is None else (self.on_event,)
        if self.trace is not None:
            from agentkit.tracing.jsonl import JsonlTrace

            sinks = (*sinks, JsonlTrace(self.trace))
        if self.telemetry is not None:
            sinks = (*sinks, self.telemetry.sink())
        return sinks

    def _reachable(self) -> dict[str, Declaration[Any, Any]]:
        """Return all agents that a run can reach by hand-offs, by name; includes this agent if it can be reached.

        Raises:
            UserError: two of them share a name, or one has another output type.
        """
        found: dict[str, Declaration[Any, Any]] = {}
        waiting = list(self.handoffs)
        while waiting:
            handoff = waiting.pop()
            agent, name = _declared(handoff.agent), handoff.name
            if found.setdefault(name, agent) is not agent:
                raise UserError(f"two agents that a run can be handed over to are called {name!r}; rename one.")
            if agent.output_type != self.output_type:
                raise UserError(
                    f"agent {name!r} answers with {agent.output_type!r}, and {self.name!r}, which can hand over "
                    f"to it, with {self.output_type!r}: a run has one type of answer."
                )
            waiting += [each for each in agent.handoffs if found.get(each.name) is not _declared(each.agent)]
        return found


def checkpointer_of(named: Checkpointer | str | Path | None) -> Checkpointer | None:
    """Return a checkpointer; a path names a SQLite file, a URL a PostgreSQL database."""
    if not isinstance(named, str | Path):
        return named
    from agentkit.persistence.named_journal import named_journal

    return named_journal(named)


def handoffs_of(given: Sequence[NamedAgent | Handoff]) -> tuple[Handoff, ...]:
    """Return the hand-offs of an agent.

    Raises:
        UserError: an agent has no name, or two tools would share a name.
    """
    if not given:
        return ()
    from agentkit.teams.handoffs import as_handoffs

    return as_handoffs(given)


def resolved_model(model: Model | str) -> Model:
    """Return a model; a string is a name for `resolve_model`."""
    if isinstance(model, Model):
        return model
    from agentkit.models.resolve import resolve_model

    return resolve_model(model)


def _declared(agent: object) -> Declaration[Any, Any]:
    declared: object = getattr(agent, "_declared", None)
    if not isinstance(declared, Declaration):
        raise UserError(f"handoffs=[{agent!r}]: a run can be handed over to an Agent or a Handoff only.")
    return cast("Declaration[Any, Any]", declared)


def _whole(history: Sequence[ModelMessage]) -> tuple[ModelMessage, ...]:
    if not history:
        return ()
    from agentkit.history.repair import repaired

    return repaired(history)
