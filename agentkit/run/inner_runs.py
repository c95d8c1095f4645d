"""Inner runs: runs of other agents that the calls of one turn perform, stored in the outer run.

An inner run is part of the outer run. While it waits, its state is in the outer state (`RunState.inner`); while it
is in progress, its steps are in the outer journal (`RunJournal.inner_run`). So a process that holds the outer run
holds the inner run too, and nothing depends on the object that started it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentkit.approvals.pending import PendingCall
from agentkit.run.state import InnerRun, RunState

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
        """True if the conversation of any inner run contains untrusted content."""

    def known(self, call_id: str) -> RunState | None:
        """Return the state of a call's inner run; None if it has not begun."""
        return self._states.get(call_id)

    async def journal(self, call_id: str, state: RunState) -> RunJournal | None:
        """Return the journal of a call's inner run, which begins or continues at `state`; None: it is not stored.

        Raises:
            CheckpointError: the outer run's journal cannot be written.
        """
        return None if self._journal is None else await self._journal.inner_run(call_id, state)

    def waits(self, call_id: str, state: RunState, asks: Sequence[PendingCall]) -> None:
        """Store an inner run that waits, and its questions in the outer run's form."""
        self._states[call_id], self._asks[call_id] = state, tuple(asks)

    def ended(self, call_id: str) -> None:
        """Remove an inner run that ended; its answer is the result of the call."""
        self._states.pop(call_id, None)

    def asks(self, pending: PendingCall) -> tuple[PendingCall, ...] | None:
        """Return the questions of a waiting call's inner run; None if the call itself needs the decision."""
        return self._asks.get(pending.tool_call_id)

    def left(self) -> tuple[InnerRun, ...]:
        """Return the inner runs that have not ended."""
        return tuple(InnerRun(call_id, state) for call_id, state in self._states.items())
