"""Report of a run: builds the run's events and sends them to the listeners.

A run without listeners has no report. Events about requests hold what is new since the last one, so the report
remembers what it has sent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from agentkit.events import (
    LEFT_EARLY,
    AgentEvent,
    CompactionEvent,
    GuardrailEvent,
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
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
)
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, ToolReturnPart
from agentkit.models.base import FilterDelta, Model, ModelDelta, TextDelta, ThinkingDelta, TokensDelta
from agentkit.results import RunResultStatus
from agentkit.run.actions import Planned, ToolOutcomes
from agentkit.run.instructions import instructed
from agentkit.run.repeated_calls import repeat_of
from agentkit.run.request import Request, SidePurpose
from agentkit.run.setup import RunSetup, Sink
from agentkit.run.state import Compacted, RunState
from agentkit.tools.definition import ToolDefinition


class Report:
    """Sends the events of one run."""

    def __init__(self, setup: RunSetup[Any, Any]) -> None:
        """Report to the sinks of `setup`; earlier messages of a resumed run count as reported."""
        self._sinks: tuple[Sink, ...] = setup.sinks
        self._outbox = setup.outbox
        self._began = time.perf_counter()
        self._n_messages = len(setup.state.messages) if setup.request is not None else _n_answered(setup.state)
        self._tools: tuple[ToolDefinition, ...] | None = None
        self._asked_for: tuple[object, ...] | None = None
        """Shape of the last request, by its fields."""
        self._instructions: str | None = None
        self._tokens: TokensDelta | None = None
        """Token ids of the last response."""
        self._asked = self._began
        """Time at which the step's first request was sent."""

    def send(self, event: AgentEvent) -> None:
        """Send an event to all listeners."""
        for sink in self._sinks:
            sink(event)

    def begun(self, setup: RunSetup[Any, Any], state: RunState, tools: tuple[str, ...]) -> None:
        """Report that a run begins, or is resumed."""
        name, model = setup.agent_name, setup.model
        if setup.request is None:
            kind, before = RunResumedEvent, state.step
        else:
            kind, before = RunStartedEvent, state.n_history
        self.send(kind(state.run_id, name, model.name, tools, before, model.provider, model.adapter))

    def handed_over(
        self,
        from_agent: str | None,
        setup: RunSetup[Any, Any],
        state: RunState,
        tools: tuple[str, ...],
        opening: Sequence[ModelMessage],
        instructions: str | None,
    ) -> None:
        """Report that the agent of `setup` takes over, with its view of the earlier conversation."""
        handed, model = state.handed[-1], setup.model
        self._n_messages = max(self._n_messages, handed.at)
        self._instructions = instructions
        shown = tuple(instructed(opening, instructions))
        self.send(HandoffEvent(from_agent, handed.to, model.name, tools, shown, model.provider, model.adapter))

    def asking(self) -> None:
        """Note the time at which the requests of a step begin."""
        self._asked, self._tokens = time.perf_counter(), None

    def request(self, state: RunState, request: Request) -> None:
        """Report a request, as it is sent."""
        messages: Sequence[ModelMessage] = state.messages[self._n_messages :]
        parameters, text = request.parameters, request.instructions
        changed = text != self._instructions
        self._instructions = text
        if changed and self._n_messages == 0 and not state.handed:
            messages, changed = instructed(messages, text), False
        self._n_messages = len(state.messages)
        tools = None if parameters.tools == self._tools else parameters.tools
        self._tools = parameters.tools
        asked = (parameters.output, parameters.settings, parameters.parallel_tool_calls)
        shape = None if asked == self._asked_for else RequestShape(*asked)
        self._asked_for = asked
        self.send(
            ModelRequestEvent(
                state.step + 1,
                tuple(m for m in messages if isinstance(m, ModelRequest)),
                () if request.final else tuple(tool.name for tool in parameters.offered_tools),
                tools,
                parameters.tool_choice,
                shape,
                request.note,
                (text or "") if changed else None,
                None if request.is_conversation else tuple(request.messages),
            )
        )

    def response(
        self, state: RunState, response: ModelResponse, received: tuple[ModelResponse, ...] | None
    ) -> None:
        """Report the reply of a step; see `ModelResponseEvent.received`."""
        duration_s = time.perf_counter() - self._asked
        self.send(ModelResponseEvent(state.step + 1, response, duration_s, self._tokens, received))
        self._n_messages = len(state.messages) + 1

    def delta(self, delta: ModelDelta) -> None:
        """Report a piece of a reply."""
        if isinstance(delta, TextDelta):
            self.send(TextDeltaEvent(delta.text))
        elif isinstance(delta, ThinkingDelta):
            self.send(ThinkingDeltaEvent(delta.text))
        elif isinstance(delta, TokensDelta):
            self._tokens = delta
        elif isinstance(delta, FilterDelta):
            stage = "input" if delta.what == "request" else "output"
            self.send(GuardrailEvent(stage, "Monitor", "block", delta.reason, time.perf_counter() - self._asked))
        else:
            self.send(ToolCallDeltaEvent(delta.index, delta.tool_name, delta.arguments))

    def side_request(
        self,
        purpose: SidePurpose,
        model: Model,
        messages: Sequence[ModelMessage],
        response: ModelResponse,
        duration_s: float,
    ) -> None:
        """Report a request outside the conversation."""
        event = SideRequestEvent(
            purpose, model.name, tuple(messages), response, duration_s, model.provider, model.adapter
        )
        self.send(event)

    def plan(self, planned: Planned, reason: str | None) -> None:
        """Report a plan, or its revision for a reason."""
        self.send(PlanEvent(planned.steps, reason))

    def compaction(self, compacted: Compacted) -> None:
        """Report a shorter view of the conversation."""
        self.send(CompactionEvent(compacted))

    def outcomes(self, state: RunState, outcomes: ToolOutcomes) -> None:
        """Report each call that was not run because it repeats another."""
        names = {call.tool_call_id: call.tool_name for call in state.open_calls}
        for call_id, first_id in outcomes.copied.items():
            self.send(RepeatedCallEvent(names.get(call_id, ""), call_id, first_id, "copied"))
        for part in outcomes.parts:
            if (first_id := repeat_of(part)) is not None and isinstance(part, ToolReturnPart):
                kind = "withdrawn" if part.tool_name in outcomes.withdrawn else "told"
                self.send(RepeatedCallEvent(part.tool_name, part.tool_call_id, first_id, kind))

    def limit(self, limit: str) -> None:
        """Report that a limit was reached."""
        self.send(LimitReachedEvent(limit))

    def end(self, state: RunState, status: RunResultStatus, output: object) -> RunFinishedEvent:
        """Return the event of the result."""
        duration_s = time.perf_counter() - self._began
        return RunFinishedEvent(state.run_id, status, output, state.usage, state.confidence, duration_s)

    def finished(self, event: RunFinishedEvent) -> None:
        """Report the result to all listeners but the outbox, which got it before the last state was stored."""
        for sink in self._sinks:
            if sink is not self._outbox:
                sink(event)

    def failed(self, state: RunState, error: BaseException) -> None:
        """Report that an error ended the run; errors of listeners become notes of `error`."""
        for also in self._ended(RunFailedEvent(state.run_id, type(error).__name__, str(error), state.usage)):
            error.add_note(f"A listener failed when it was told of this: {type(also).__name__}: {also}")

    def left(self, state: RunState) -> None:
        """Report that the application left the run before its end.

        Raises:
            Exception: the first error of a listener, after all listeners were told.
        """
        text = "The application left the run before its end."
        if failed := self._ended(RunFailedEvent(state.run_id, LEFT_EARLY, text, state.usage)):
            raise failed[0]

    def _ended(self, event: RunFailedEvent) -> list[Exception]:
        """Tell all listeners that the run has ended; return the errors that they raised."""
        failed: list[Exception] = []
        for sink in self._sinks:
            try:
                sink(event)
            except Exception as error:  # the other listeners must still be told
                failed.append(error)
        return failed


def _n_answered(state: RunState) -> int:
    """Return the number of messages up to and including the last response of the run."""
    n_after = next((n for n, m in enumerate(reversed(state.messages)) if isinstance(m, ModelResponse)), None)
    return state.n_history if n_after is None else max(state.n_history, len(state.messages) - n_after)
