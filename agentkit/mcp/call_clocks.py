"""Call time limits that pause while a person answers a question.

A server's question (MCP elicitation) comes in the middle of a call, and the person who answers may take minutes.
The call's limit measures the server, so its clock stops meanwhile; the person has a limit of their own. A pushed
question does not name the call that it belongs to, so it stops the clocks of all calls on its connection.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager

import anyio


class CallClocks:
    """The clocks of one connection's calls. Belongs to one event loop."""

    def __init__(self) -> None:
        """Start without calls."""
        self._left_s: dict[anyio.CancelScope, float] = {}
        """Seconds left to each call when its clock was last stopped; initially its time limit."""
        self._n_asked = 0
        """Number of questions that a person is answering."""

    @contextmanager
    def limited(self, timeout_s: float) -> Generator[anyio.CancelScope]:
        """Cancel the body once its clock has run for `timeout_s`, and continue after it."""
        with anyio.CancelScope() as scope:
            self._left_s[scope] = timeout_s
            if not self._n_asked:
                self._run(scope)
            try:
                yield scope
            finally:
                del self._left_s[scope]

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Stop all clocks, also those of calls that begin meanwhile, until the body ends."""
        if not self._n_asked:
            now = anyio.current_time()
            for scope in self._left_s:
                self._left_s[scope] = scope.deadline - now
                scope.deadline = math.inf
        self._n_asked += 1
        try:
            yield
        finally:
            self._n_asked -= 1
            if not self._n_asked:
                for scope in self._left_s:
                    self._run(scope)

    def _run(self, scope: anyio.CancelScope) -> None:
        scope.deadline = anyio.current_time() + self._left_s[scope]
