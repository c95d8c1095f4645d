"""A lock that its waiters get in the order in which they came.

A thread that releases Python's own lock and takes it again at once usually gets it, before any waiter wakes up.
With such a lock, a thread that steps an engine until its reply is done would keep all others from submitting.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

POLL_S = 0.05
"""Seconds between checks whether a waiter still wants the lock."""


class FairLock:
    """A lock, first come, first served; not reentrant."""

    def __init__(self) -> None:
        """Start unlocked."""
        self._state = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def n_waiting(self) -> int:
        """Number of threads that wait."""
        return len(self._waiting)

    def acquire(self, stop: Callable[[], bool] | None = None) -> bool:
        """Wait for the lock; return False, without the lock, if `stop` returned True meanwhile."""
        with self._state:
            if not self._is_held:
                self._is_held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            # The thread that hands over releases it.
            while not turn.acquire(timeout=-1 if stop is None else POLL_S):
                if stop is not None and stop():
                    self._leave(turn)
                    return False
        except BaseException:
            self._leave(turn)
            raise
        return True

    def release(self) -> None:
        """Hand over to the first waiter, or unlock."""
        with self._state:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_held = False

    def __enter__(self) -> None:
        """Wait for the lock."""
        self.acquire()

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self.release()

    def _leave(self, turn: threading.Lock) -> None:
        """Give up a place in the line, or the lock if it was handed over meanwhile."""
        with self._state:
            is_in_line = turn in self._waiting
            if is_in_line:
                self._waiting.remove(turn)
        if not is_in_line:
            self.release()
