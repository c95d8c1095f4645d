"""One refresh at a time, on a thread of its own: calls start it, wait for it for a while, and say how far it is.

The first refresh of a large folder takes longer than a client waits for a call. So no call owns it: it goes on
when a call's patience ends, and ends when the server does, or when a call that asked for it is cancelled.
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

# How often a waiting call looks whether there is progress to report.
POLL_S = 0.2


@dataclass(frozen=True)
class State:
    """How far the refreshes of this process are."""

    is_running: bool = False
    done: float = 0.0
    """Files done by the running one."""
    total: int = 0
    """Files it has to read; 0 while it still looks for them."""
    n_finished: int = 0
    """Refreshes that ended, well or not."""
    refreshed: Refreshed = Refreshed()
    """What they did together."""
    failure: str = ""
    """Why the last one failed."""


class _Stopped(Exception):
    """The refresh is to end; what it has read so far stays in the index."""


class BackgroundRefresh:
    """Runs `refresh` when asked; safe to call from threads."""

    def __init__(self, refresh: Callable[[Report], Refreshed]) -> None:
        """Nothing is started yet."""
        self._refresh = refresh
        self._changed = threading.Condition()  # guards what follows
        self._state = State()
        self._n_wanted = 0
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def ensure_one(self, wait_s: float) -> State:
        """Wait a while until one refresh has ended; it is started if none was."""
        with self._changed:
            self._want(1)
        return self._wait(1, wait_s)

    def run_one(self, wait_s: float) -> tuple[Refreshed, State]:
        """Start a refresh, after a running one (which may have passed what changed since), and wait a while.

        Returns:
            What was done meanwhile, and how far it is now.
        """
        with self._changed:
            before = self._state.refreshed
            wanted = self._state.n_finished + (2 if self._state.is_running else 1)
            self._want(wanted)
        try:
            state = self._wait(wanted, wait_s)
        except BaseException:  # cancelled: nobody wants it any more
            self.stop()
            raise
        return state.refreshed.since(before), state

    def stop(self) -> None:
        """End what runs; a later call starts anew."""
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
            if state.done > reported:  # progress may only grow, also over two refreshes
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
            failure = os.strerror(error.errno or 0).lower()  # its own text may name a path outside the folder
        except (ToolFailure, sqlite3.Error) as error:
            failure = visible(str(error))  # it may quote the index, which may be another's
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
