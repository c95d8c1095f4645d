"""Facts about this machine and its files that a process measured, kept for later processes.

Hashing 500 MB of weights takes half a second, and so does timing thread counts. A hash belongs to a file in a
certain state: place, inode, size, and times of its last changes (including the inode's, which no program can set).
A fact that is lost or damaged is measured again. The file is small and replaced atomically. Writers exclude each
other, threads of one process too, or one would overwrite what another has just learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from modelstack.inference.llama.threads import ThreadCounts
from modelstack.inference.private_files import (
    is_private_folder,
    locked,
    make_private_folder,
    open_private,
    replace_private,
)

FILE_NAME = "remembered.json"
MAX_FACTS = 256
"""Maximum number of facts of all kinds; the oldest is dropped first."""
MAX_FILE_BYTES = 1 << 20
SETTLED_NS = 50_000_000
"""Minimum age of a file's last change in nanoseconds: clocks tick every 10 ms, so a newer file may change again
under the same time stamp."""
THREADS_HOLD_S = 24 * 3600.0
"""Seconds after which thread counts are measured again, in case the machine was busy unnoticed."""
IDLE_LOAD = 0.75
"""Highest load average per core: tolerates a run of a minute ago, but no training in the background."""


class RememberedFacts:
    """The facts in a private folder. Unreadable facts are unknown; facts that cannot be written are dropped."""

    def __init__(self, folder: Path) -> None:
        """Set the folder; the first fact creates it."""
        self._path = folder / FILE_NAME

    def sha256(self, file: Path) -> str | None:
        """Return the SHA-256 of a file's content; None if it is unknown or the file has changed since."""
        name = _identity(file)
        value = None if name is None else self._read().get(name)
        return value if isinstance(value, str) and len(value) == 64 else None

    def learn_sha256(self, file: Path) -> str:
        """Return the SHA-256 of a file's content; computed if unknown.

        Raises:
            OSError: the file cannot be read.
        """
        if (known := self.sha256(file)) is not None:
            return known
        before = _identity(file)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if before is not None and before == _identity(file):
            self._write(before, digest)
        return digest

    def threads(self, situation: str) -> ThreadCounts | None:
        """Return the thread counts measured in a situation (model, build, cores).

        None if there are no recent ones.
        """
        match self._read().get(f"threads {situation}"):
            case [int(decode), int(prefill), float(measured)] if 0 < decode <= 4096 and 0 < prefill <= 4096:
                return ThreadCounts(decode, prefill) if 0 <= time.time() - measured < THREADS_HOLD_S else None
            case _:
                return None

    def learn_threads(self, situation: str, counts: ThreadCounts) -> None:
        """Store the thread counts measured in a situation."""
        self._write(f"threads {situation}", [counts.decode, counts.prefill, time.time()])

    def invariance(self, key: bytes) -> bool | None:
        """Return whether batch sizes change nothing for states with this key; None if it was not measured."""
        value = self._read().get(f"invariance {key.hex()}")
        return value if isinstance(value, bool) else None

    def learn_invariance(self, key: bytes, is_invariant: bool) -> None:
        """Store whether batch sizes change nothing for states with this key."""
        self._write(f"invariance {key.hex()}", is_invariant)

    def survives(self, key: str) -> bool:
        """Return whether llama.cpp survived a load of files (`files_key`)."""
        return self._read().get(f"survives {key}") is True

    def learn_survives(self, key: str) -> None:
        """Store that llama.cpp survived a load of files."""
        self._write(f"survives {key}", True)

    def _read(self) -> Mapping[str, Any]:
        try:
            if is_private_folder(self._path.parent):
                with open_private(self._path) as file:
                    value: Any = json.loads(file.read(MAX_FILE_BYTES))
                return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        except (OSError, ValueError, RecursionError):
            pass
        return {}

    def _write(self, name: str, value: Any) -> None:
        with suppress(OSError):
            make_private_folder(self._path.parent)
            with locked(self._path.parent):
                facts = {known: kept for known, kept in self._read().items() if known != name}
                facts = dict(list(facts.items())[-(MAX_FACTS - 1) :])
                replace_private(self._path, [json.dumps({**facts, name: value}).encode()])


def files_key(files: Sequence[Path], build: str) -> str | None:
    """Return a hash of the states of files and of the program that reads them.

    None if a file is missing or has just changed.
    """
    identities = [_identity(file) for file in files]
    if None in identities:
        return None
    return hashlib.sha256("\n".join([build, *map(str, identities)]).encode()).hexdigest()


def _identity(file: Path) -> str | None:
    """Return a text that changes with a file's content; None if the file is missing or has just changed."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED_NS:
        return None
    times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
    return f"sha256 {found.st_dev} {found.st_ino} {found.st_size} {times} {file.resolve()}"


def processor() -> str:
    """Return a description of the processor that kernels could depend on: its model and its instructions."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = [
        line for line in first.splitlines() if re.match(r"vendor|cpu family|model|stepping|flags|Feat|CPU ", line)
    ]
    return "\n".join([platform.machine(), *kept])


def cpu_quota() -> str:
    """Return the share of the processors that a container may use; empty if unlimited."""
    try:
        return Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def is_idle(n_cores: int) -> bool:
    """Whether nothing else computes on this machine, now and in the last minute; False if unknown."""
    try:
        fields = Path("/proc/loadavg").read_text(encoding="ascii").split()
        load, n_running = float(fields[0]), int(fields[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return 1 <= n_running <= 1 + n_cores // 4 and load <= IDLE_LOAD * n_cores
