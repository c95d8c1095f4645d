"""The lock of engines: waiters get it in their order, also before a holder that wants it again."""

from __future__ import annotations

import threading

import pytest

from modelstack.inference.fair_lock import FairLock


def wait_for(lock: FairLock, n_waiting: int) -> None:
    """Wait until that many threads stand in line."""
    while lock.n_waiting < n_waiting:
        pass


def test_waiters_are_served_in_order_and_before_a_holder_that_comes_again() -> None:
    lock, order = FairLock(), list[str]()

    def take(name: str) -> None:
        with lock:
            order.append(name)

    threads = [threading.Thread(target=take, args=(name,)) for name in "abc"]
    with lock:
        for n, thread in enumerate(threads, 1):
            thread.start()
            wait_for(lock, n)
    take("again")
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c", "again"]


def test_only_one_thread_holds_it() -> None:
    lock, counts = FairLock(), [0]

    def count() -> None:
        for _ in range(300):
            with lock:
                before = counts[0]
                counts[0] = before + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [4 * 300]


def test_an_interrupted_waiter_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FairLock()

    class InterruptedLock:
        def __init__(self) -> None:
            self.n_acquired = 0

        def acquire(self, timeout: float = -1) -> None:
            self.n_acquired += 1
            if self.n_acquired == 2:
                raise KeyboardInterrupt

    with lock:
        monkeypatch.setattr(threading, "Lock", InterruptedLock)
        with pytest.raises(KeyboardInterrupt), lock:
            pass
        monkeypatch.undo()
        assert lock.n_waiting == 0
    with lock:
        pass


def test_a_waiter_that_no_longer_wants_it_leaves_the_line() -> None:
    lock, wanted = FairLock(), threading.Event()
    found = list[bool]()
    waiter = threading.Thread(target=lambda: found.append(lock.acquire(wanted.is_set)))
    with lock:
        waiter.start()
        wait_for(lock, 1)
        wanted.set()
        waiter.join()
        assert (found, lock.n_waiting) == ([False], 0)
    assert lock.acquire(lambda: True), "a free lock is taken without a question"
