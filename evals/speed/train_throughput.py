"""Training tokens per second at equal architecture and precision, compared with transformers, litgpt and nanoGPT.

A step is forward, backward, clipping and AdamW; `train_programs` defines the details of each program. Each program
runs in its own process. The programs alternate after a few steps, so that disturbances of the machine affect all
of them. A ratio is computed turn by turn; its interval is a bootstrap over turns. MFU is the FLOPs of the matrix
products, by PaLM's formula 6 N + 12 L d T, divided by the best matrix product measured here with as many threads.
The benchmark checks that the work is equal: parameters within 1 %, and every loss must fall.

Eager and compiled runs are separate rows (`compile` is an option of a recipe; the time to the first compiled step
is reported separately). The project's bound applies to eager steps, the default of a recipe.

    python -m evals.speed.train_throughput --nanogpt CHECKOUT [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result
from evals.speed.train_peer_packages import peer_python
from evals.speed.train_programs import PROGRAMS, Mode, Precision, Shape, Task, our_config, smallest
from evals.speed.train_worker import task_to_json
from evals.statistics import mean_interval

ROOT = Path(__file__).resolve().parents[2]
OURS = "modelstack"
MAX_PARAMETERS_APART = 0.01


@dataclass(frozen=True, slots=True)
class Turns:
    """Number and length of the turns of each program."""

    n_warm: int = 10
    n_turns: int = 10
    n_steps: int = 3
    """Number of steps per turn."""


@dataclass(slots=True)
class Measured:
    """Measurements of one program in one precision and mode."""

    task: Task
    n_parameters: int
    first_s: float
    """Seconds to the end of the first step, including compilation in mode "compiled"."""
    losses: list[float]
    seconds: list[list[float]] = field(default_factory=list[list[float]])
    """Seconds of each step, by turn."""
    peak_mib: float = 0.0

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens per step."""
        return self.task.shape.rows * self.task.shape.tokens

    @property
    def speeds(self) -> list[float]:
        """Return tokens per second of every step."""
        return [self.n_tokens / s for turn in self.seconds for s in turn]


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
        self.child = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **settings},
            text=True,
        )
        self.program = program
        self.n_parameters = int(self._answer()["parameters"])

    def steps(self, n: int) -> dict[str, Any]:
        """Take `n` steps; return their seconds and losses, and the peak memory.

        Raises:
            RuntimeError: the program ended.
        """
        assert self.child.stdin is not None
        self.child.stdin.write(f"{n}\n")
        self.child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the program."""
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.program} ended with {self.child.wait()}; its errors are above")
        return json.loads(line)


@contextmanager
def working(command: Sequence[str], program: str, threads: int) -> Iterator[Worker]:
    """Yield a program's process, and end it on exit."""
    worker = Worker(command, program, threads)
    try:
        yield worker
    finally:
        worker.close()


def measure(tasks: Sequence[tuple[Task, Path]], turns: Turns, threads: int) -> dict[str, Measured]:
    """Run the programs alternately; return the measurements by program name."""
    found: dict[str, Measured] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for task, python in tasks:
            command = [str(python), "-m", "evals.speed.train_worker", task_to_json(task)]
            workers[task.program] = worker = stack.enter_context(working(command, task.program, threads))
            started = time.perf_counter()
            first = worker.steps(1)
            first_s = time.perf_counter() - started
            found[task.program] = Measured(task, worker.n_parameters, first_s, first["losses"])
        for name, worker in workers.items():
            found[name].losses += worker.steps(turns.n_warm)["losses"]
        names = list(workers)
        for turn in range(turns.n_turns):
            for name in names if turn % 2 == 0 else reversed(names):
                answer, of_one = workers[name].steps(turns.n_steps), found[name]
                of_one.seconds.append(answer["seconds"])
                of_one.losses += answer["losses"]
                of_one.peak_mib = answer["peak_mib"]
    return found


def check_equal_work(found: dict[str, Measured]) -> None:
    """Check that models have equal sizes and that losses fall.

    Raises:
        RuntimeError: a program trains another model size, or does not learn.
    """
    for name, one in found.items():
        ours = found.get(PROGRAMS[name].beside)
        if ours and abs(one.n_parameters / ours.n_parameters - 1) > MAX_PARAMETERS_APART:
            raise RuntimeError(f"{name} has {one.n_parameters} parameters and ours {ours.n_parameters}")
        n = max(1, len(one.losses) // 4)
        if not statistics.mean(one.losses[-n:]) < statistics.mean(one.losses[:n]):
            raise RuntimeError(f"{name} does not learn: its losses are {one.losses}")


def ratio_of(ours: Measured, theirs: Measured) -> tuple[float, float, float]:
    """Return modelstack's speedup, turn by turn (geometric mean of medians), and its 95 % interval."""
    return ratio_by_turn(ours.seconds, theirs.seconds)


def ratio_by_turn(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Return `ratio_of` for the seconds of each step, by turn."""
    logs = [math.log(statistics.median(b) / statistics.median(a)) for a, b in zip(ours, theirs, strict=True)]
    interval = mean_interval(logs, seed=0)
    return math.exp(interval.value), math.exp(interval.low), math.exp(interval.high)


def flops_per_token(one: Measured) -> float:
    """Return 6 N + 12 L d T with the program's own number of parameters N."""
    shape = one.task.shape
    return 6 * one.n_parameters + 12 * shape.layers * shape.width * shape.tokens


def peaks(shape: Shape, threads: int) -> dict[str, tuple[float, str]]:
    """Return the FLOP/s and name of the best matrix product of each precision, measured in this process."""
    import torch

    from modelstack.architecture.cpu_products import multiply_by_onednn
    from modelstack.architecture.decoder import CausalLM
    from modelstack.train.utilisation import linear_shapes, measured_peak

    multiply_by_onednn()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.device("meta"):
        products = linear_shapes(CausalLM(our_config(shape, "llama")), shape.rows * shape.tokens)
    found = {p: measured_peak("cpu", p, products, threads) for p in get_args(Precision)}
    torch.set_num_threads(before)
    return {precision: (peak.flops, peak.source) for precision, peak in found.items()}


def figures_of(
    what: str, mode: Mode, found: dict[str, Measured], peak: float
) -> tuple[list[Figure], list[Comparison]]:
    """Return the figures and comparisons of one precision and mode."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    speeds = {name: statistics.median(one.speeds) for name, one in found.items()}
    for name, one in found.items():
        program = PROGRAMS[name]
        figures.append(Figure(f"{what}: MFU of {name}", flops_per_token(one) * speeds[name] / peak, ""))
        if mode == "compiled":
            figures.append(Figure(f"{what}: first step of {name}", one.first_s, "s"))
        if (ours := found.get(program.beside)) is None:
            continue
        ratio, low, high = ratio_of(ours, one)
        bound = program.least if mode == "eager" else None
        figures.append(Figure(f"{what}: speed beside {name}", ratio, "x", low, high, bound, "at least"))
        figures.append(Figure(f"{what}: peak memory beside {name}", ours.peak_mib / one.peak_mib, "x"))
    for ours_name in [name for name in found if not PROGRAMS[name].beside]:
        values = {name: speeds[name] for name in found if ours_name in (name, PROGRAMS[name].beside)}
        comparisons.append(
            Comparison(f"training, {PROGRAMS[ours_name].architecture}, {what}", "tokens/s", ours_name, values)
        )
    return figures, comparisons


def print_table(what: str, found: dict[str, Measured], peak: float) -> None:
    """Print each program's median speed with quartiles, and its comparison with modelstack."""
    for name, one in found.items():
        speeds = sorted(one.speeds)
        quarter = len(speeds) // 4
        speed = statistics.median(speeds)
        line = [
            f"{what:13} {name:17} {speed:7.0f} tokens/s ({speeds[quarter]:.0f}-{speeds[-1 - quarter]:.0f})",
            f"MFU {flops_per_token(one) * speed / peak:5.1%}",
            f"{one.peak_mib:5.0f} MiB",
            f"{one.n_parameters / 1e6:.2f}M",
            f"loss {one.losses[0]:.2f} to {one.losses[-1]:.2f}",
            f"first step {one.first_s:.1f} s",
        ]
        if (ours := found.get(PROGRAMS[name].beside)) is not None:
            ratio, low, high = ratio_of(ours, one)
            line.append(f"ours {ratio:.2f}x ({low:.2f}-{high:.2f}), memory {ours.peak_mib / one.peak_mib:.2f}x")
        print("  ".join(line), flush=True)


def run(
    programs: Sequence[tuple[str, Path]],
    *,
    shape: Shape,
    turns: Turns,
    threads: int,
    precisions: Sequence[Precision],
    modes: Sequence[Mode],
    nanogpt: Path | None = None,
    on_peaks: Callable[[str], None] = print,
) -> BenchmarkResult:
    """Measure all combinations.

    Args:
        programs: Names of `PROGRAMS`, each with the interpreter that runs it.
        shape: Shape of models and batches.
        turns: Number of turns and steps.
        threads: Number of threads of each program and of the peak measurement.
        precisions: Precisions to measure.
        modes: Modes to measure.
        nanogpt: Checkout of nanoGPT if it is among the programs.
        on_peaks: Called with a description of each measured peak.
    """
    known = peaks(shape, threads)
    for flops, source in known.values():
        on_peaks(f"peak {flops / 1e9:.0f} GFLOP/s, {source}")
    figures = [Figure(f"{precision}: peak", flops / 1e9, "GFLOP/s") for precision, (flops, _) in known.items()]
    comparisons: list[Comparison] = []
    for mode in modes:
        for precision in precisions:
            what = f"{precision} {mode}"
            tasks = [(Task(name, precision, mode, shape, nanogpt), python) for name, python in programs]
            found = measure(tasks, turns, threads)
            check_equal_work(found)
            print_table(what, found, known[precision][0])
            new_figures, new_comparisons = figures_of(what, mode, found, known[precision][0])
            figures += new_figures
            comparisons += new_comparisons
    parameters = {
        "shape": str(shape),
        "turns": str(turns),
        "threads": str(threads),
        "programs": str([*dict(programs)]),
    }
    return BenchmarkResult(tuple(figures), tuple(comparisons), parameters=parameters | _versions())


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers")}


def chosen(options: argparse.Namespace) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return the programs with their interpreters, and the reasons why some are missing."""
    wanted = options.program or list(PROGRAMS)
    ours, notes = Path(sys.executable), list[str]()
    if "nanoGPT" in wanted and options.nanogpt is None:
        notes.append("nanoGPT not measured: no checkout was given (--nanogpt, or NANOGPT in the environment)")
        wanted = [name for name in wanted if name != "nanoGPT"]
    interpreters = dict.fromkeys(wanted, ours)
    if "litgpt" in wanted:
        try:
            interpreters["litgpt"] = peer_python(options.env)
        except subprocess.CalledProcessError as error:
            notes.append(f"litgpt not measured: it cannot be installed (pip ended with {error.returncode})")
            del interpreters["litgpt"]
    return list(interpreters.items()), notes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, 2 after invalid arguments, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = os.environ.get("NANOGPT")
    parser.add_argument("--nanogpt", type=Path, metavar="CHECKOUT", default=Path(named) if named else None)
    parser.add_argument(
        "--program", action="append", choices=list(PROGRAMS), help="program to measure; default: all"
    )
    parser.add_argument(
        "--precision", action="append", choices=get_args(Precision), help="precision to measure; default: both"
    )
    parser.add_argument("--mode", action="append", choices=get_args(Mode), help="mode to measure; default: both")
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-training"), help="environment of litgpt")
    parser.add_argument("--warm", type=int, default=10, help="warm-up steps of each program")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3, help="steps of each program per turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--tiny", action="store_true", help="use a tiny model that only tests that everything works"
    )
    add_result_option(parser)
    options = parser.parse_args(argv)
    if options.nanogpt is not None and not (options.nanogpt / "model.py").is_file():
        print(f"{options.nanogpt} holds no model.py: name a checkout of karpathy/nanoGPT with --nanogpt")
        return 2
    programs, notes = chosen(options)
    for note in notes:
        print(note)
    result = run(
        programs,
        shape=smallest(Shape()) if options.tiny else Shape(),
        turns=Turns(options.warm, options.turns, options.steps),
        threads=options.threads,
        precisions=options.precision or get_args(Precision),
        modes=options.mode or get_args(Mode),
        nanogpt=options.nanogpt and options.nanogpt.resolve(),
    )
    result = BenchmarkResult(
        result.figures, result.comparisons, result.curves, result.parameters, (*result.notes, *notes)
    )
    write_result(options.result, result)
    for figure in result.broken:
        print(f"BROKEN: {figure.name} is {figure.value:.3f}, promised {figure.bound_kind} {figure.bound}")
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
