"""A lock that its waiters get in the order in which they came.

A thread that releases Python's own lock and takes it again at once usually gets it, before any waiter wakes up.
With such a lock, a thread that steps an engine until its reply is done would keep all others from submitting.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """A lock for `with` blocks, first come, first served; not reentrant."""

    def __init__(self) -> None:
        """Start unlocked."""
        self._state = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def n_waiting(self) -> int:
        """Number of threads that wait."""
        return len(self._waiting)

    def __enter__(self) -> None:
        """Wait for the lock."""
        with self._state:
            if not self._is_held:
                self._is_held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()  # released by the thread that hands over
        except BaseException:
            self._leave(turn)
            raise

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Hand over to the first waiter, or unlock."""
        self._hand_over()

    def _hand_over(self) -> None:
        with self._state:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_held = False

    def _leave(self, turn: threading.Lock) -> None:
        """Give up a place in the line, or the lock if it was handed over meanwhile."""
        with self._state:
            is_in_line = turn in self._waiting
            if is_in_line:
                self._waiting.remove(turn)
        if not is_in_line:
            self._hand_over()
