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
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.train_peer_packages import peer_python
from evals.speed.train_programs import PROGRAMS, Mode, Precision, Shape, Task, our_config, smallest
from evals.speed.train_worker import task_to_json
from evals.speed.turns import (
    Measured,
    Turns,
    add_turns_options,
    check_learns,
    measure_in_turns,
    ratio_by_turn,
    turns_of,
)

OURS = "modelstack"
MAX_PARAMETERS_APART = 0.01


def measure(tasks: Sequence[tuple[Task, Path]], turns: Turns, threads: int) -> dict[str, Measured]:
    """Run the programs alternately; return the measurements by program name."""
    commands = {
        task.program: [str(python), "-m", "evals.speed.train_worker", task_to_json(task)] for task, python in tasks
    }
    shape = tasks[0][0].shape
    return measure_in_turns(commands, turns, threads, n_tokens=shape.rows * shape.tokens)


def check_equal_work(found: dict[str, Measured]) -> None:
    """Check that models have equal sizes and that losses fall.

    Raises:
        RuntimeError: a program trains another model size, or does not learn.
    """
    for name, one in found.items():
        ours = found.get(PROGRAMS[name].beside)
        if ours and abs(one.n_parameters / ours.n_parameters - 1) > MAX_PARAMETERS_APART:
            raise RuntimeError(f"{name} has {one.n_parameters} parameters and ours {ours.n_parameters}")
        check_learns(name, one)


def flops_per_token(one: Measured, shape: Shape) -> float:
    """Return 6 N + 12 L d T with the program's own number of parameters N."""
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
    what: str, mode: Mode, found: dict[str, Measured], peak: float, shape: Shape
) -> tuple[list[Figure], list[Comparison]]:
    """Return the figures and comparisons of one precision and mode."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    speeds = {name: statistics.median(one.speeds) for name, one in found.items()}
    for name, one in found.items():
        program = PROGRAMS[name]
        figures.append(Figure(f"{what}: MFU of {name}", flops_per_token(one, shape) * speeds[name] / peak, ""))
        if mode == "compiled":
            figures.append(Figure(f"{what}: first step of {name}", one.first_s, "s"))
        if (ours := found.get(program.beside)) is None:
            continue
        ratio, low, high = ratio_by_turn(ours.seconds, one.seconds)
        bound = program.least if mode == "eager" else None
        figures.append(Figure(f"{what}: speed beside {name}", ratio, "x", low, high, bound, "at least"))
        figures.append(Figure(f"{what}: peak memory beside {name}", ours.peak_mib / one.peak_mib, "x"))
    for ours_name in [name for name in found if not PROGRAMS[name].beside]:
        values = {name: speeds[name] for name in found if ours_name in (name, PROGRAMS[name].beside)}
        comparisons.append(
            Comparison(f"training, {PROGRAMS[ours_name].architecture}, {what}", "tokens/s", ours_name, values)
        )
    return figures, comparisons


def print_table(what: str, found: dict[str, Measured], peak: float, shape: Shape) -> None:
    """Print each program's median speed with quartiles, and its comparison with modelstack."""
    for name, one in found.items():
        speeds = sorted(one.speeds)
        quarter = len(speeds) // 4
        speed = statistics.median(speeds)
        line = [
            f"{what:13} {name:17} {speed:7.0f} tokens/s ({speeds[quarter]:.0f}-{speeds[-1 - quarter]:.0f})",
            f"MFU {flops_per_token(one, shape) * speed / peak:5.1%}",
            f"{one.peak_mib:5.0f} MiB",
            f"{one.n_parameters / 1e6:.2f}M",
            f"loss {one.values[0]:.2f} to {one.values[-1]:.2f}",
            f"first step {one.first_s:.1f} s",
        ]
        if (ours := found.get(PROGRAMS[name].beside)) is not None:
            ratio, low, high = ratio_by_turn(ours.seconds, one.seconds)
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
            print_table(what, found, known[precision][0], shape)
            new_figures, new_comparisons = figures_of(what, mode, found, known[precision][0], shape)
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
        "--precision", action="append", choices=get_args(Precision), help="precision to measure; default: both"
    )
    parser.add_argument("--mode", action="append", choices=get_args(Mode), help="mode to measure; default: both")
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-training"), help="environment of litgpt")
    add_turns_options(parser, PROGRAMS, Turns())
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
        turns=turns_of(options),
        threads=options.threads,
        precisions=options.precision or get_args(Precision),
        modes=options.mode or get_args(Mode),
        nanogpt=options.nanogpt and options.nanogpt.resolve(),
    )
    result = BenchmarkResult(
        result.figures, result.comparisons, result.curves, result.parameters, (*result.notes, *notes)
    )
    return finish(options.result, result)


if __name__ == "__main__":
    sys.exit(main())
