"""Measures programs in their own processes, in turns of a few steps.

The programs alternate, so that disturbances of the machine affect all of them. A ratio is computed turn by turn,
with a bootstrap interval over turns.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.speed.json_process import JsonProcess
from evals.statistics import mean_interval

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Turns:
    """Number and length of the turns of each program."""

    n_warm: int = 11
    """Number of steps before the timed ones, including the first step; at least 1."""
    n_turns: int = 10
    n_steps: int = 3
    """Number of steps per turn."""


@dataclass(slots=True)
class Measured:
    """Measurements of one program."""

    n_parameters: int
    n_tokens: float
    """Number of tokens per step, the mean if steps differ."""
    values: list[float] = field(default_factory=list[float])
    """Returned value of each step: its loss, or its number of sampled tokens."""
    seconds: list[list[float]] = field(default_factory=list[list[float]])
    """Seconds of each timed step, by turn."""
    first_s: float = 0.0
    """Seconds to the end of the first step, including compilation if the program is compiled."""
    peak_mib: float = 0.0

    @property
    def speeds(self) -> list[float]:
        """Return tokens per second of every timed step."""
        return [self.n_tokens / s for turn in self.seconds for s in turn]

    @property
    def speed(self) -> float:
        """Return tokens per second at the median time of a step."""
        return self.n_tokens / statistics.median(s for turn in self.seconds for s in turn)


def add_turns_options(parser: argparse.ArgumentParser, programs: Collection[str], default: Turns) -> None:
    """Add the options of a benchmark in turns: programs, turns, threads, and a tiny model."""
    parser.add_argument(
        "--program", action="append", choices=list(programs), help="program to measure; default: all"
    )
    parser.add_argument(
        "--warm", type=int, default=default.n_warm, help="warm-up steps of each program, at least 1"
    )
    parser.add_argument("--turns", type=int, default=default.n_turns, help="number of turns of each program")
    parser.add_argument("--steps", type=int, default=default.n_steps, help="steps of each program per turn")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each program"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="use a tiny model that only tests that everything works"
    )


def turns_of(options: argparse.Namespace) -> Turns:
    """Return the turns chosen by the options of `add_turns_options`."""
    return Turns(options.warm, options.turns, options.steps)


def measure_in_turns(
    commands: Mapping[str, Sequence[str]], turns: Turns, threads: int, *, n_tokens: float
) -> dict[str, Measured]:
    """Run programs alternately; return their measurements by name.

    Args:
        commands: Command of each program by its name, for a process with the protocol of `train_worker`.
        turns: Number and length of the turns.
        threads: Number of torch's threads of each program.
        n_tokens: Number of tokens per step.

    Raises:
        RuntimeError: a program cannot be built, or ended.
    """
    found: dict[str, Measured] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, command in commands.items():
            workers[name] = worker = stack.enter_context(working(command, name, threads))
            found[name] = Measured(worker.n_parameters, n_tokens)
            started = time.perf_counter()
            found[name].values += worker.steps(1)["values"]
            found[name].first_s = time.perf_counter() - started
        for name, worker in workers.items():
            found[name].values += worker.steps(turns.n_warm - 1)["values"]
        for turn in range(turns.n_turns):
            for name in workers if turn % 2 == 0 else reversed(workers):
                answer, measured = workers[name].steps(turns.n_steps), found[name]
                measured.seconds.append(answer["seconds"])
                measured.values += answer["values"]
                measured.peak_mib = answer["peak_mib"]
    return found


def check_learns(name: str, measured: Measured) -> None:
    """Check that the mean loss of the last quarter of the steps is below that of the first.

    Raises:
        RuntimeError: it is not.
    """
    n = max(1, len(measured.values) // 4)
    if not statistics.mean(measured.values[-n:]) < statistics.mean(measured.values[:n]):
        raise RuntimeError(f"{name} does not learn: its losses are {measured.values}")


def ratio_by_turn(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Return the ratio of our speed to theirs and its 95 % interval, from the seconds of each step by turn.

    The ratio is the geometric mean of the ratios of each turn's medians.
    """
    logs = [math.log(statistics.median(b) / statistics.median(a)) for a, b in zip(ours, theirs, strict=True)]
    interval = mean_interval(logs, seed=0)
    return math.exp(interval.value), math.exp(interval.low), math.exp(interval.high)


class Worker:
    """A program in its own process."""

    def __init__(self, command: Sequence[str], program: str, threads: int) -> None:
        """Start the process and wait until the program is built.

        Args:
            command: Command of a process with the protocol of `train_worker`; `--threads` is added.
            program: Name of the program.
            threads: Number of torch's threads.

        Raises:
            RuntimeError: the program cannot be built.
        """
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        # Actively waiting threads would take the cores from the program whose turn it is.
        settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": path}
        self._process = JsonProcess([*command, "--threads", str(threads)], program, {**os.environ, **settings})
        self.n_parameters = int(self._process.first["parameters"])

    def steps(self, n: int) -> dict[str, Any]:
        """Take `n` steps; return their seconds and values, and the peak memory in MiB.

        Raises:
            RuntimeError: the program ended.
        """
        return self._process.ask(str(n))

    def close(self) -> None:
        """End the program."""
        self._process.close()


@contextmanager
def working(command: Sequence[str], program: str, threads: int) -> Iterator[Worker]:
    """Yield a program's process, and end it on exit."""
    worker = Worker(command, program, threads)
    try:
        yield worker
    finally:
        worker.close()
