"""Rollout tokens per second on SmolLM2-135M: this project's samplers on llama.cpp and torch, compared with TRL.

`rollouts_programs` defines the step of each program: the same weights, adapter, prompts, group and number of
tokens, in two settings: with a system prompt of tools before every question, and without. Each program has its own
process. The programs alternate after one or more steps, so that disturbances of the machine affect all of them. A
ratio is computed turn by turn; its interval is a bootstrap over turns. The benchmark checks that the work is
equal: the same number of trained parameters, and every reply of full length.

The bound applies to prompts with tools, against TRL with a bf16 base, the faster of TRL's two settings: there the
advantage comes from reading a prompt once as well as from quantised weights. Short prompts, where only the weights
matter, are reported without a bound.

    python -m evals.speed.rollouts [--threads 2] [--setting tools]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.rollouts_programs import (
    GROUP,
    OURS,
    PEER,
    PROGRAMS,
    PROMPTS,
    TOKENS,
    TORCH,
    Setting,
    Task,
    write_tiny,
)
from evals.speed.rollouts_worker import task_to_json
from evals.speed.turns import Measured, Turns, add_turns_options, measure_in_turns, ratio_by_turn, turns_of

LEAST = 3.0
"""Minimum ratio of modelstack's speed on llama.cpp to TRL's."""


def measure(tasks: Sequence[Task], turns: Turns, threads: int) -> dict[str, Measured]:
    """Run the programs alternately; return the measurements by program name."""
    commands = {
        task.program: [sys.executable, "-m", "evals.speed.rollouts_worker", task_to_json(task)] for task in tasks
    }
    return measure_in_turns(commands, turns, threads, n_tokens=tasks[0].n_tokens)


def check_equal_work(found: dict[str, Measured]) -> None:
    """Check that all programs train equally many parameters and sample equally many tokens.

    Raises:
        RuntimeError: a program trains another number of parameters, or its replies have the wrong length.
    """
    ours = found[OURS]
    for name, one in found.items():
        if one.n_parameters != ours.n_parameters:
            raise RuntimeError(f"{name} trains {one.n_parameters} parameters and ours {ours.n_parameters}")
        if set(one.values) != {one.n_tokens}:
            raise RuntimeError(f"{name} sampled {sorted(set(one.values))} tokens, not {one.n_tokens}")


def result_of(setting: Setting, found: dict[str, Measured]) -> BenchmarkResult:
    """Return and print figures and comparison of one setting."""
    figures: list[Figure] = []
    ours = found[OURS]
    for name, one in found.items():
        line = f"{setting:6} {name:24} {one.speed:7.1f} tokens/s  {one.peak_mib:5.0f} MiB"
        if name != OURS:
            ratio, low, high = ratio_by_turn(ours.seconds, one.seconds)
            bound = LEAST if (setting, name) == ("tools", PEER) else None
            figures.append(Figure(f"{setting}: speed beside {name}", ratio, "x", low, high, bound, "at least"))
            line += f"  llama.cpp {ratio:.2f}x ({low:.2f}-{high:.2f})"
        print(line, flush=True)
    if TORCH in found and PEER in found:
        ratio, low, high = ratio_by_turn(found[TORCH].seconds, found[PEER].seconds)
        figures.append(Figure(f"{setting}: torch beside {PEER}", ratio, "x", low, high))
        print(f"{setting:6} {TORCH} beside {PEER}: {ratio:.2f}x ({low:.2f}-{high:.2f})", flush=True)
    speeds = {name: one.speed for name, one in found.items()}
    what = "with a system prompt of tools" if setting == "tools" else "short prompts"
    comparison = Comparison(f"rollouts, SmolLM2-135M, {what}", "tokens/s", OURS, speeds)
    return BenchmarkResult(tuple(figures), (comparison,))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, 2 if the model is missing, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gguf", type=Path, help="GGUF file of the base, a llama; default: agentkit's default model"
    )
    parser.add_argument(
        "--setting", action="append", choices=get_args(Setting), help="setting to measure; default: both"
    )
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="prompts per step")
    parser.add_argument("--group", type=int, default=GROUP, help="replies per prompt")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens per reply")
    add_turns_options(parser, PROGRAMS, Turns(n_warm=1, n_turns=5, n_steps=1))
    add_result_option(parser)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        gguf = write_tiny(Path(folder, "tiny.gguf")) if options.tiny else options.gguf or _default_model()
        if gguf is None:
            print("the default model is missing: agentkit models pull smollm2-135m, or name a file with --gguf")
            return 2
        result = _measured(options, gguf)
    return finish(options.result, result)


def _measured(options: argparse.Namespace, gguf: Path) -> BenchmarkResult:
    programs = options.program or list(PROGRAMS)
    if OURS not in programs:
        programs = [OURS, *programs]
    turns = turns_of(options)
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    for setting in options.setting or get_args(Setting):
        tasks = [
            Task(program, setting, gguf, options.prompts, options.group, options.tokens) for program in programs
        ]
        found = measure(tasks, turns, options.threads)
        check_equal_work(found)
        of_setting = result_of(setting, found)
        figures += of_setting.figures
        comparisons += of_setting.comparisons
    parameters = {"turns": str(turns), "threads": str(options.threads)}
    parameters |= {name: str(getattr(options, name)) for name in ("prompts", "group", "tokens")}
    return BenchmarkResult(tuple(figures), tuple(comparisons), parameters=parameters | _versions())


def _default_model() -> Path | None:
    from agentkit.models.catalog.entries import is_present, local_path

    return local_path("smollm2-135m") if is_present("smollm2-135m") else None


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("llama-cpp-python", "torch", "transformers", "peft", "trl")}


if __name__ == "__main__":
    sys.exit(main())
