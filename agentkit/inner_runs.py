"""The runs that the calls of one turn perform with other agents, kept in the run that they serve.

An inner run is part of the outer one: while it waits, its state is in the outer state (`RunState.inner`); while it
goes on, its steps are in the outer journal (`RunJournal.inner_run`). So whoever has the outer run, in any process,
has the inner one too, and nothing of it depends on the object that began it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentkit.approvals import PendingCall
from agentkit.state import InnerRun, RunState

if TYPE_CHECKING:
    from agentkit.persistence.checkpointer import RunJournal


class InnerRuns:
    """The inner runs of one turn, by the call that each serves."""

    def __init__(self, state: RunState, journal: RunJournal | None) -> None:
        """Begin a turn with the inner runs that the state holds; `journal` is the outer run's."""
        self._states = {run.call_id: run.state for run in state.inner}
        self._journal = journal
        self._asks: dict[str, tuple[PendingCall, ...]] = {}
        self.tainted = any(run.state.tainted for run in state.inner)
        """Whether one of them has untrusted content in its conversation."""

    def known(self, call_id: str) -> RunState | None:
        """Return where the inner run of a call stands; None if it has not begun."""
        return self._states.get(call_id)

    async def journal(self, call_id: str, state: RunState) -> RunJournal | None:
        """Return the journal of a call's inner run, which begins or goes on with `state`; None: it is not kept.

        Raises:
            CheckpointError: the outer run's journal cannot be written.
        """
        return None if self._journal is None else await self._journal.inner_run(call_id, state)

    def waits(self, call_id: str, state: RunState, asks: Sequence[PendingCall]) -> None:
        """Keep an inner run that waits, and its questions as the outer run asks them."""
        self._states[call_id], self._asks[call_id] = state, tuple(asks)

    def ended(self, call_id: str) -> None:
        """Forget an inner run; its answer is the call's."""
        self._states.pop(call_id, None)

    def asks(self, pending: PendingCall) -> tuple[PendingCall, ...] | None:
        """Return the questions of the inner run that makes a call wait; None if the call waits for itself."""
        return self._asks.get(pending.tool_call_id)

    def left(self) -> tuple[InnerRun, ...]:
        """Return the inner runs that have not ended."""
        return tuple(InnerRun(call_id, state) for call_id, state in self._states.items())
