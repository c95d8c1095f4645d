"""Runs snippets in Monty, an interpreter for untrusted code, in separate processes.

Monty (pydantic-monty) has no files, no network, no environment and no imports beyond a few safe modules of its
own; an unsupported operation is a Python error in the snippet. Its worker is a separate process: if it is killed
or hangs past its limits, only its session is lost. (https://github.com/pydantic/monty)
"""

from __future__ import annotations

import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pydantic_monty as monty

from mcp_servers.failures import ToolFailure
from mcp_servers.python.policy import Limits, Printed, check_code, check_session


@dataclass(frozen=True)
class Outcome:
    """Output, value and error of a snippet."""

    printed: Printed
    value: object
    error: str
    """Traceback of the snippet's exception; empty on success."""
    is_new: bool
    """True if the session began with this snippet."""


class Stop:
    """Ends a running snippet from another thread, by killing its worker."""

    def __init__(self) -> None:
        """Start without a running snippet."""
        self._lock = threading.Lock()
        self._worker: int | None = None
        self._is_asked = False

    def __call__(self) -> None:
        """Kill the running snippet, or prevent a later start."""
        with self._lock:
            self._is_asked = True
            if self._worker is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._worker, signal.SIGTERM)

    def begun(self, worker: int | None) -> None:
        """Record the process that runs the snippet.

        Raises:
            ToolFailure: The call was cancelled before.
        """
        with self._lock:
            if self._is_asked:
                raise ToolFailure("The call was cancelled before the code began.")
            self._worker = worker

    def ended(self) -> bool:
        """Forget the process, which may run other snippets next; return whether it was killed."""
        with self._lock:
            is_killed = self._is_asked and self._worker is not None
            self._worker = None
            return is_killed


class _Session:
    """A session: a worker that keeps variables, and a lock that makes its snippets run one after another."""

    def __init__(self, limits: Limits) -> None:
        self.lock = threading.Lock()
        self.is_new = True
        self.is_ended = False
        """True after its worker has ended; a call that waited for the lock then needs another session."""
        self._stack = ExitStack()
        try:
            pool = self._stack.enter_context(monty.Monty(max_processes=1))
            self.monty = self._stack.enter_context(
                pool.checkout(
                    limits={
                        "max_feed_duration_secs": limits.seconds,
                        "max_memory": limits.memory_bytes,
                        "max_suspensions": 4 * limits.function_calls,  # names that are looked up count too
                    },
                    os_policy={"sleep": "zero"},
                )
            )
        except monty.MontyError as error:
            self.end()
            raise ToolFailure(f"The interpreter could not be started: {error}. Try again.") from error

    def close(self) -> None:
        """End the worker after its current snippet."""
        with self.lock:
            self.end()

    def end(self) -> None:
        """End the worker; the caller holds the lock or is the only user of the session."""
        self.is_ended = True
        with suppress(monty.MontyError):  # raised if the worker is gone already
            self._stack.close()


class Sandbox:
    """Runs snippets; keeps the most recent named sessions."""

    def __init__(self, limits: Limits, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Store the limits and functions.

        Args:
            limits: Limits of one snippet.
            functions: Functions that snippets may call, by name; nothing else reaches out of the sandbox.
        """
        self._limits = limits
        self._functions = functions
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def sessions(self) -> list[str]:
        """Names of the kept sessions, the last used one at the end."""
        with self._lock:
            return list(self._sessions)

    def run(self, code: str, session: str, stop: Stop | None = None) -> Outcome:
        """Run a snippet.

        Args:
            code: Python code.
            session: Name of the session whose variables it shares; empty: a new session that is dropped
                afterwards.
            stop: Ends the snippet early.

        Raises:
            ToolFailure: The code is empty or too long, the name is invalid, or the call was cancelled before the
                start.
        """
        check_code(code)
        stop = stop or Stop()
        if not session:
            fresh = _Session(self._limits)
            try:
                return self._fed(fresh, code, stop)
            except _SessionLost as lost:
                return lost.outcome
            finally:
                fresh.close()
        check_session(session)
        while True:
            kept = self._kept(session)
            with kept.lock:
                if kept.is_ended:  # the call before was cancelled, or the session dropped, meanwhile
                    continue
                try:
                    return self._fed(kept, code, stop)
                except _SessionLost as lost:
                    self._forget(session, kept)
                    return lost.outcome

    def drop(self, session: str) -> None:
        """Drop a session and its variables.

        Raises:
            ToolFailure: No session has this name.
        """
        with self._lock:
            dropped = self._sessions.pop(check_session(session), None)
        if dropped is None:
            raise ToolFailure(
                f"There is no session {session!r}. Those there are: {', '.join(self.sessions) or 'none'}."
            )
        dropped.close()

    def close(self) -> None:
        """End all workers; no session starts afterwards."""
        with self._lock:
            self._is_closed = True
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.close()

    def _kept(self, name: str) -> _Session:
        oldest: _Session | None = None
        with self._lock:
            if self._is_closed:
                raise ToolFailure("The server is closing; nothing runs any more.")
            session = self._sessions.get(name)
            if session is None:
                if len(self._sessions) >= self._limits.max_sessions:
                    _, oldest = self._sessions.popitem(last=False)
                session = self._sessions[name] = _Session(self._limits)
            self._sessions.move_to_end(name)
        if oldest is not None:
            oldest.close()
        return session

    def _forget(self, name: str, session: _Session) -> None:
        with self._lock:
            if self._sessions.get(name) is session:
                del self._sessions[name]
        session.end()

    def _fed(self, session: _Session, code: str, stop: Stop) -> Outcome:
        printed, is_new = Printed(self._limits.output_chars), session.is_new
        session.is_new = False
        stop.begun(session.monty.worker_pid)
        outcome, lost = Outcome(printed, None, "", is_new), None
        try:
            value = session.monty.feed_run(code, external_lookup=dict(self._functions), print_callback=printed.add)
            outcome = Outcome(printed, value, "", is_new)
        except (monty.MontyRuntimeError, monty.MontySyntaxError) as error:
            outcome = Outcome(printed, None, error.display(), is_new)
        except monty.MontyError as error:
            outcome, lost = Outcome(printed, None, f"The interpreter was stopped: {error}", is_new), error
        finally:
            is_killed = stop.ended()
        if lost is not None or is_killed:  # killed just after it finished: no other snippet may use this worker
            raise _SessionLost(outcome) from lost
        return outcome


class _SessionLost(Exception):
    """The worker is gone, and the variables with it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome
