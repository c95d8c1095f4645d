"""Start of a sandboxed command: the time that isolation adds to a program that does nothing.

Each program is started in turn, so that a load of the machine affects all alike:

- `subprocess`: started without isolation;
- `sandbox`: `modelstack.sandbox`, with limits and a filter of system calls, as a workspace runs commands;
- `unshare`: util-linux, with the same namespaces, but the host's file system, no limits and no filter;
- `bubblewrap`: the same namespaces and read-only mounts, no limits and no filter, where it is installed.

CPU time is that of all processes together.

    python -m evals.speed.sandbox
    python -m evals.speed.sandbox --repeats 100
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from modelstack.errors import UserError
from modelstack.sandbox.commands import start_command

COMMANDS: dict[str, tuple[str, ...]] = {"true": ("true",), "python": (sys.executable, "-I", "-S", "-c", "pass")}
"""Commands by the name of their figures."""

Start = Callable[[Sequence[str], Path], None]


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one start, until the command has ended."""

    wall_ms: float
    cpu_ms: float


def plainly(command: Sequence[str], folder: Path) -> None:
    """Run a command without isolation."""
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def sandboxed(command: Sequence[str], folder: Path) -> None:
    """Run a command in this project's sandbox."""
    result = start_command(command, folder=folder).wait()
    if result.exit_status != 0:
        raise RuntimeError(f"{command} ended with {result}")


def unshared(command: Sequence[str], folder: Path) -> None:
    """Run a command in namespaces of `unshare`."""
    plainly(
        ["unshare", "--user", "--map-root-user", "-m", "-p", "-n", "-i", "-u", "-f", "--mount-proc", *command],
        folder,
    )


def bubblewrapped(command: Sequence[str], folder: Path) -> None:
    """Run a command in bubblewrap."""
    shown = [
        part
        for path in ("/usr", "/bin", "/lib", "/lib64")
        if os.path.exists(path)
        for part in ("--ro-bind", path, path)
    ]
    shown += ["--bind", str(folder), "/workspace", "--chdir", "/workspace", "--proc", "/proc", "--dev", "/dev"]
    plainly(["bwrap", "--unshare-all", "--die-with-parent", *shown, "--tmpfs", "/tmp", *command], folder)


PROGRAMS: dict[str, tuple[str | None, Start]] = {
    "subprocess": (None, plainly),
    "sandbox": (None, sandboxed),
    "unshare": ("unshare", unshared),
    "bubblewrap": ("bwrap", bubblewrapped),
}
"""Program that must be installed, and how it starts a command."""


def measure(start: Start, command: Sequence[str], folder: Path) -> Times:
    """Return the time of one start."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    own = time.process_time()
    start(command, folder)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Times(wall * 1e3, (children + time.process_time() - own) * 1e3)


def main() -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    add_result_option(parser)
    options = parser.parse_args()
    installed = {name: start for name, (needs, start) in PROGRAMS.items() if needs is None or shutil.which(needs)}
    times: dict[tuple[str, str], list[Times]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            sandboxed(["true"], Path(folder))
        except UserError as error:
            print(error)
            return 1
        for _ in range(options.repeats):
            for title, command in COMMANDS.items():
                for name, start in installed.items():
                    times.setdefault((title, name), []).append(measure(start, command, Path(folder)))
    result = to_result(times, options.repeats)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for (title, name), row in times.items():
        wall, cpu = [each.wall_ms for each in row], [each.cpu_ms for each in row]
        print(f"{title:8}{name:12} wall {statistics.median(wall):7.1f} ms (least {min(wall):.1f})", end="")
        print(f"  CPU {statistics.median(cpu):7.1f} ms (least {min(cpu):.1f})")
    return finish(options.result, result)


def to_result(times: dict[tuple[str, str], list[Times]], repeats: int) -> BenchmarkResult:
    """Convert the times to the common result type."""
    medians = {key: statistics.median(each.wall_ms for each in row) for key, row in times.items()}
    least = {key: min(each.wall_ms for each in row) for key, row in times.items()}
    return BenchmarkResult(
        figures=tuple(
            Figure(
                f"isolation of `{title}`, least of {repeats}",
                least[title, "sandbox"] - least[title, "subprocess"],
                "ms",
            )
            for title in COMMANDS
        ),
        comparisons=tuple(
            Comparison(
                f"start of `{title}`, median",
                "ms",
                "sandbox",
                {name: value for (each, name), value in medians.items() if each == title},
            )
            for title in COMMANDS
        ),
        parameters={"repeats": str(repeats)},
    )


if __name__ == "__main__":
    sys.exit(main())
