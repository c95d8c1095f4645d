"""Tokens per second of LoRA training on SmolLM2-135M or another base, compared with transformers and peft.

`lora_programs` defines the step of each program: same rows, labels and optimizer, a bf16 base. Each program has
its own process. The programs alternate after one or more steps, so that disturbances of the machine affect all of
them. A ratio is computed turn by turn; its interval is a bootstrap over turns. Padding is not counted as tokens.
The benchmark checks that the work is equal: the number of trained parameters is the same, first losses agree, and
all losses fall.

The bound applies to peft as users have it, with logits at all positions. The second row shows the remaining
difference if a user restricts the head to labelled positions by hand.

    python -m evals.speed.lora_throughput [--threads 2] [--gguf qwen2.5-coder-0.5b-instruct-q4_k_m.gguf]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evals.speed.lora_programs import OURS, PEER, PROGRAMS, Lengths, Task, n_tokens
from evals.speed.lora_worker import task_to_json
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.turns import (
    Measured,
    Turns,
    add_turns_options,
    check_learns,
    measure_in_turns,
    ratio_by_turn,
    turns_of,
)

LEAST = 1.3
"""Minimum ratio of modelstack's speed to peft's."""
FIRST_LOSSES_APART = 0.02
"""Maximum relative difference of first losses: same weights and rows, in bf16 throughout or under autocast."""
USUAL = Lengths()
TINY = Lengths(rows=2, shortest=12, longest=16, labelled=6)


def measure(tasks: Sequence[Task], turns: Turns, threads: int) -> dict[str, Measured]:
    """Run the programs alternately; return the measurements by program name."""
    commands = {
        task.program: [sys.executable, "-m", "evals.speed.lora_worker", task_to_json(task)] for task in tasks
    }
    return measure_in_turns(commands, turns, threads, n_tokens=n_tokens(tasks[0].lengths))


def check_equal_work(found: dict[str, Measured]) -> None:
    """Check that all programs train equally many parameters and learn.

    Raises:
        RuntimeError: a program trains another number of parameters, begins with another loss, or does not learn.
    """
    ours = found[OURS]
    for name, one in found.items():
        if one.n_parameters != ours.n_parameters:
            raise RuntimeError(f"{name} trains {one.n_parameters} parameters and ours {ours.n_parameters}")
        if abs(one.values[0] / ours.values[0] - 1) > FIRST_LOSSES_APART:
            raise RuntimeError(
                f"{name} begins with a loss of {one.values[0]:.4f} and ours of {ours.values[0]:.4f}"
            )
        check_learns(name, one)


def result_of(found: dict[str, Measured], base: str) -> BenchmarkResult:
    """Return and print figures and comparison; `base` is the model's name."""
    figures: list[Figure] = []
    ours = found[OURS]
    for name, one in found.items():
        line = f"{name:34} {one.speed:6.0f} tokens/s  {one.peak_mib:5.0f} MiB"
        line += f"  loss {one.values[0]:.2f} to {one.values[-1]:.2f}"
        if name != OURS:
            ratio, low, high = ratio_by_turn(ours.seconds, one.seconds)
            bound = LEAST if name == PEER else None
            figures.append(Figure(f"speed beside {name}", ratio, "x", low, high, bound, "at least"))
            figures.append(Figure(f"peak memory beside {name}", ours.peak_mib / one.peak_mib, "x"))
            line += f"  ours {ratio:.2f}x ({low:.2f}-{high:.2f}), memory {ours.peak_mib / one.peak_mib:.2f}x"
        print(line, flush=True)
    speeds = {name: one.speed for name, one in found.items()}
    comparison = Comparison(f"training a LoRA adapter, {base}, bf16", "tokens/s", OURS, speeds)
    return BenchmarkResult(tuple(figures), (comparison,))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, 2 if the model is missing, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="GGUF file of the base; default: SmolLM2-135M")
    parser.add_argument("--rows", type=int, default=USUAL.rows, help="rows per step")
    parser.add_argument("--tokens", type=int, default=USUAL.longest, help="tokens of the longest row")
    add_turns_options(parser, PROGRAMS, Turns(n_warm=2, n_turns=12, n_steps=1))
    add_result_option(parser)
    options = parser.parse_args(argv)
    gguf = None if options.tiny else options.gguf or _default_model()
    if not options.tiny and gguf is None:
        print("the default model is missing: agentkit models pull smollm2-135m, or name a file with --gguf")
        return 2
    shortest = round(options.tokens * USUAL.shortest / USUAL.longest)
    lengths = TINY if options.tiny else Lengths(options.rows, shortest, options.tokens)
    programs = options.program or list(PROGRAMS)
    if OURS not in programs:
        programs = [OURS, *programs]
    tasks = [Task(program, lengths, gguf) for program in programs]
    turns = turns_of(options)
    found = measure(tasks, turns, options.threads)
    check_equal_work(found)
    base = options.gguf.stem if options.gguf else "SmolLM2-135M"
    result = result_of(found, base)
    parameters = {"lengths": str(lengths), "turns": str(turns), "threads": str(options.threads)}
    result = BenchmarkResult(result.figures, result.comparisons, parameters=parameters | _versions())
    return finish(options.result, result)


def _default_model() -> Path | None:
    from agentkit.models.catalog.entries import is_present, local_path

    return local_path("smollm2-135m") if is_present("smollm2-135m") else None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft")}


if __name__ == "__main__":
    sys.exit(main())
