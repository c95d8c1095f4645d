"""Call time limits that pause while a person answers a question, and start again when the server reports progress.

A server's question (MCP elicitation) comes in the middle of a call, and the person who answers may take minutes.
The call's limit measures the server, so its clock stops meanwhile; the person has a limit of their own. A pushed
question does not name the call that it belongs to, so it stops the clocks of all calls on its connection.

A report of progress starts a call's time limit again, up to a maximum for the whole call (MCP, Timeouts).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager

import anyio


class CallClock:
    """The clock of one call."""

    def __init__(self, timeout_s: float, max_total_s: float) -> None:
        """Allow `timeout_s` seconds without a report of progress, and `max_total_s` in all."""
        self.scope = anyio.CancelScope()
        """Cancelled when the time is up."""
        self.has_restarted = False
        """True if a report of progress has started the time limit again."""
        self._timeout_s = timeout_s
        self._left_s = timeout_s
        """Seconds left without progress when the clock was last stopped."""
        self._total_left_s = max(max_total_s, timeout_s)
        """Seconds left in all at that time."""
        self._runs_since: float | None = None

    @property
    def was_total(self) -> bool:
        """True if the maximum for the whole call was the limit, not the time without progress."""
        return self._total_left_s <= self._left_s

    def run(self) -> None:
        """Run on."""
        self._runs_since = anyio.current_time()
        self.scope.deadline = self._runs_since + min(self._left_s, self._total_left_s)

    def stop(self) -> None:
        """Stop until `run`."""
        if self._runs_since is not None:
            passed_s = anyio.current_time() - self._runs_since
            self._left_s -= passed_s
            self._total_left_s -= passed_s
            self._runs_since = None
            self.scope.deadline = math.inf

    def restart(self) -> None:
        """Start the time without progress again."""
        self.has_restarted = True
        is_running = self._runs_since is not None
        self.stop()
        self._left_s = self._timeout_s
        if is_running:
            self.run()


class CallClocks:
    """The clocks of one connection's calls. Belongs to one event loop."""

    def __init__(self) -> None:
        """Start without calls."""
        self._clocks: set[CallClock] = set()
        self._n_asked = 0
        """Number of questions that a person is answering."""

    @contextmanager
    def limited(self, timeout_s: float, max_total_s: float = 0.0) -> Generator[CallClock]:
        """Cancel the body once its clock has run for `timeout_s`, and continue after it.

        `CallClock.restart` gives it another `timeout_s`, up to `max_total_s` seconds in all.
        """
        clock = CallClock(timeout_s, max_total_s)
        with clock.scope:
            self._clocks.add(clock)
            if not self._n_asked:
                clock.run()
            try:
                yield clock
            finally:
                self._clocks.remove(clock)

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Stop all clocks, also those of calls that begin meanwhile, until the body ends."""
        if not self._n_asked:
            for clock in self._clocks:
                clock.stop()
        self._n_asked += 1
        try:
            yield
        finally:
            self._n_asked -= 1
            if not self._n_asked:
                for clock in self._clocks:
                    clock.run()
