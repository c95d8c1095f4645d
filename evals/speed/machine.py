"""Description of the machine and its load; figures are comparable only if these are known.

The load average still includes a benchmark that ended a minute ago. Activity of other programs is therefore also
sampled directly: the busy share of all cores during one second in which this program is idle.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mcp_servers.distribution import NAME

PACKAGES = (
    NAME, "llama-cpp-python", "llguidance", "lm-format-enforcer", "numpy", "pydantic", "anyio", "inspect-ai",
    "torch", "transformers",
)  # fmt: skip
BUSY_SHARE = 0.25
"""Maximum share of the cores used by other programs before figures are called unreliable."""
SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Properties of the machine that do not change during a run."""

    cpu: str
    cores: int
    """Number of cores that this process may use."""
    governor: str | None
    """Frequency governor of the cores; None if the system does not report it, as in most virtual machines."""
    memory_gib: float | None
    system: str
    python: str
    packages: dict[str, str]
    commit: str | None
    """Git commit of the code, with `+` and a hash of the changes if tracked files differ from it.

    None outside a repository."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load of the machine at one moment."""

    time: str
    """UTC, ISO 8601."""
    average: tuple[float, float, float] | None
    """Load averages over 1, 5 and 15 minutes; None if the system has none."""
    busy_share: float | None
    """Busy share of all cores during one idle second of this program; None if it cannot be read."""


def describe_machine(root: Path) -> Machine:
    """Return the properties of the machine; `root` is the folder of the code."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        governor=_governor(),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=sys.version.split()[0],
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
        commit=git_commit(root),
    )


def measure_load(sleep: Callable[[float], None] = time.sleep) -> Load:
    """Measure the current load; takes `SAMPLE_S` seconds of idle time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    average = os.getloadavg() if hasattr(os, "getloadavg") else None
    before = _cpu_ticks()
    if before is None:
        return Load(now, average, None)
    sleep(SAMPLE_S)
    after = _cpu_ticks() or before
    busy, total = after[0] - before[0], after[1] - before[1]
    return Load(now, average, busy / total if total > 0 else None)


def busy_warning(load: Load, n_cores: int, *, just_measured: bool = False) -> str | None:
    """Return a warning if other programs use the machine, else None.

    `just_measured` ignores the load average, which then reflects this program's own work.
    """
    if load.busy_share is not None and load.busy_share > BUSY_SHARE:
        return f"others keep {load.busy_share:.0%} of the cores busy: times measured now will be too long"
    if not just_measured and load.average is not None and load.average[0] > BUSY_SHARE * n_cores:
        return f"the load average is {load.average[0]:.1f} on {n_cores} cores: times measured now may be too long"
    return None


def git_commit(root: Path) -> str | None:
    """Return the commit that `root` has checked out, or None if it is not a repository.

    Changes of tracked files add a hash, so that two states of one commit are distinguished.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    digest = hashlib.sha256(changes.encode("utf-8", "surrogateescape")).hexdigest()
    return commit[:12] + (f"+{digest[:8]}" if changes else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="surrogateescape", check=True
    )
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return named[0] if named else platform.processor() or platform.machine()


def _governor() -> str | None:
    """Return the governors of all cores; a single name if they agree."""
    names: set[str] = set()
    for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            names.add(path.read_text(encoding="utf-8").strip())
        except OSError:
            return None
    return ", ".join(sorted(names)) or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_ticks() -> tuple[int, int] | None:
    """Return busy and total ticks of all cores since the system started."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None
    # Fields: user nice system idle iowait irq softirq steal; guest time is already part of user's.
    ticks = [int(part) for part in first.split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def peak_bytes() -> int:
    """Return this process's peak resident memory; `ru_maxrss` would include the parent's before exec."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not tell VmHWM, the peak of resident memory")
