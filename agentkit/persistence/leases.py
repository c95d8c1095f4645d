"""Leases: which process holds a run, and when another process may claim it.

A process that performs a run holds a lease on it, stored in the run's row. The lease names the machine, the
process with its start time, and the holder within the process. It is stale once its process or holder is gone, or
once it expires. A thread renews it while the run is in progress, even while a tool blocks the event loop. A lease
of another machine, or of another container on this machine, can only expire: its process is not visible here. The
journal's generation stops a holder that wakes up later.

A run that is resumed from a `RunState` alone, by an agent without `checkpointer`, has no lease: all processes must
see a lease, which requires storage. The application that stores the state must give it to one process only, for
example by deleting it, or marking it as taken, in the transaction that reads it.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from secrets import token_hex

LEASE_S = 60.0
"""Seconds after the last renewal until a lease is stale: long enough for a machine that is busy or swaps."""
RENEWAL_S = LEASE_S / 4
"""Seconds between renewals; three may fail."""


class Lease:
    """A run's lease, held by its journal in this process as long as the object lives."""

    def __init__(self) -> None:
        """Create a holder in this process."""
        self._token = token_hex(8)
        pid = os.getpid()
        self.owner = json.dumps([_machine(), pid, _own_birth(pid), self._token])
        """Stored form, a JSON list: machine, process id, start time of the process, holder."""
        self.renew: Callable[[], None] | None = None
        _held[self._token] = self

    def keep(self, renew: Callable[[], None]) -> None:
        """Call `renew` every `RENEWAL_S` seconds until the lease is released or garbage-collected."""
        self.renew = renew
        _renewals.start()

    def release(self) -> None:
        """Release the lease: from now on it counts as stale in this process."""
        _held.pop(self._token, None)


def is_gone(owner: str, birth_of: Callable[[int], str] | None = None) -> bool:
    """Return whether the holder of a stored lease certainly no longer exists.

    Args:
        owner: Stored form of the lease.
        birth_of: `birth` with a memory, for a caller with many leases: each look at a process reads a file.
    """
    try:
        machine, pid, born, token = json.loads(owner)
        if machine != _machine():
            return False
        if pid == os.getpid() and born == _own_birth(pid):
            return token not in _held
        now = (birth_of or birth)(int(pid))
        return not _exists(int(pid)) or (bool(born and now) and born != now)
    except (ValueError, TypeError, OverflowError):  # an edited file: the lease must expire
        return False


def of_this_machine() -> str:
    """Return the beginning of the stored form of all leases of this machine; the others can only expire."""
    return json.dumps([_machine()])[:-1]


def described(owner: str) -> str:
    """Return a description of the holder of a stored lease."""
    try:
        machine, pid, _, _ = json.loads(owner)
    except (ValueError, TypeError):
        return "an unknown process"
    return f"process {pid}" if machine == _machine() else f"process {pid} of another machine"


def renew_all() -> None:
    """Renew all leases that this process holds."""
    for held in _held.valuerefs():  # a list, so other threads may change the dictionary meanwhile
        lease = held()
        if lease is not None and lease.renew is not None:
            lease.renew()


class _Renewals:
    """Thread that renews leases; it runs while any lease exists."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="agentkit leases", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(RENEWAL_S)
            with self._lock:
                if not _held:
                    self._thread = None
                    return
            renew_all()


_held: weakref.WeakValueDictionary[str, Lease] = weakref.WeakValueDictionary()
_renewals = _Renewals()


def _after_fork() -> None:
    """Drop the parent's leases in a forked child: they belong to the parent, whose thread does not exist here."""
    global _renewals
    _held.clear()
    _renewals = _Renewals()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _machine() -> str:
    """Return an id of the machine, the boot, and the process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _exists(pid: int) -> bool:
    if os.name == "nt":  # signal 0 is Ctrl+C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _own_birth(pid: int) -> str:
    """Return the start time of this process; a forked child has another process id."""
    return birth(pid)


def birth(pid: int) -> str:
    """Return a process's start time in system units; "gone" for a zombie, "" if it is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""  # no /proc, or another user's process: only the process id is known
    return "gone" if fields[0] in "ZX" else fields[19]
