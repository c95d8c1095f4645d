"""Background refresh: one at a time, on its own thread; calls start it, wait a limited time and report progress.

The first refresh of a large folder takes longer than a client waits for a call. So no call owns it: it continues
after a call's wait ends. It stops when the server does, or when a call that requested it is cancelled.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mcp_servers.failures import ToolFailure
from mcp_servers.long_calls import report_progress
from mcp_servers.search.refreshing import Refreshed, Report
from mcp_servers.search.visible import visible

# Interval at which a waiting call checks for progress to report.
POLL_S = 0.2


@dataclass(frozen=True)
class State:
    """Progress of this process's refreshes."""

    is_running: bool = False
    done: float = 0.0
    """Files processed by the running refresh."""
    total: int = 0
    """Files that it has to read; 0 while it still walks the folder."""
    n_finished: int = 0
    """Refreshes that ended, successfully or not."""
    refreshed: Refreshed = Refreshed()
    """Sum of the completed refreshes."""
    failure: str = ""
    """Reason why the last refresh failed; empty if it did not."""


class _Stopped(Exception):
    """Raised to end the refresh; files read so far stay in the index."""


class BackgroundRefresh:
    """Runs `refresh` when asked; safe to call from threads."""

    def __init__(self, refresh: Callable[[Report], Refreshed]) -> None:
        """Store the function; nothing is started yet."""
        self._refresh = refresh
        self._changed = threading.Condition()  # guards the attributes below
        self._state = State()
        self._n_wanted = 0
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def ensure_one(self, wait_s: float) -> State:
        """Wait up to `wait_s` seconds for the first finished refresh; start it if there was none."""
        with self._changed:
            self._want(1)
        return self._wait(1, wait_s)

    def run_one(self, wait_s: float) -> tuple[Refreshed, State]:
        """Start a refresh, after any running one (which may have passed newer changes), and wait up to `wait_s`.

        Returns:
            The work done meanwhile, and the state now.
        """
        with self._changed:
            before = self._state.refreshed
            wanted = self._state.n_finished + (2 if self._state.is_running else 1)
            self._want(wanted)
        try:
            state = self._wait(wanted, wait_s)
        except BaseException:  # cancelled: the refresh is no longer needed
            self.stop()
            raise
        return state.refreshed.since(before), state

    def wait_idle(self, wait_s: float) -> State:
        """Wait up to `wait_s` seconds until no refresh runs, and return the state then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._state.is_running, wait_s)
            return self._state

    @property
    def state(self) -> State:
        """The progress now."""
        with self._changed:
            return self._state

    def stop(self) -> None:
        """Stop the running refresh; a later call starts a new one."""
        with self._changed:
            self._is_stopping = True
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._changed:
            self._is_stopping = False
            self._n_wanted = self._state.n_finished

    def _want(self, n_finished: int) -> None:
        self._n_wanted = max(self._n_wanted, n_finished)
        if self._n_wanted > self._state.n_finished and not self._state.is_running:
            self._state = replace(self._state, is_running=True, done=0.0, total=0)
            self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)
            self._thread.start()

    def _wait(self, n_finished: int, wait_s: float) -> State:
        deadline = time.monotonic() + wait_s
        reported = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_ended(n_finished), min(POLL_S, wait_s))
                state = self._state
                if self._has_ended(n_finished) or time.monotonic() >= deadline:
                    return state
            if state.done > reported:  # progress must not decrease, even over two refreshes
                reported = state.done
                report_progress(state.done, state.total or None, "files read")

    def _has_ended(self, n_finished: int) -> bool:
        return self._state.n_finished >= n_finished or not self._state.is_running

    def _run(self) -> None:
        try:
            while self._goes_on():
                self._run_once()
        except BaseException:
            with self._changed:
                self._state = replace(self._state, is_running=False, failure="an error inside the server")
                self._changed.notify_all()
            raise

    def _goes_on(self) -> bool:
        with self._changed:
            if not self._is_stopping and self._n_wanted > self._state.n_finished:
                return True
            self._state = replace(self._state, is_running=False)
            self._changed.notify_all()
            return False

    def _run_once(self) -> None:
        did, failure = Refreshed(), ""
        try:
            did = self._refresh(self._report)
        except _Stopped:
            return
        except OSError as error:
            failure = os.strerror(error.errno or 0).lower()  # its own text may contain an outside path
        except (ToolFailure, sqlite3.Error) as error:
            failure = visible(str(error))  # it may quote the index, which may be untrusted
        with self._changed:
            n_finished = self._state.n_finished + 1
            refreshed = self._state.refreshed.and_then(did)
            self._state = replace(self._state, n_finished=n_finished, refreshed=refreshed, failure=failure)
            self._changed.notify_all()

    def _report(self, done: float, total: int) -> None:
        with self._changed:
            if self._is_stopping:
                raise _Stopped
            self._state = replace(self._state, done=done, total=total)
