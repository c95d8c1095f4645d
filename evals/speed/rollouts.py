"""Rollout tokens per second on SmolLM2-135M: llama.cpp and torch as this project samples, beside TRL.

What a step is, and what each program does, is in `rollouts_programs`: the same weights, adapter, prompts, group
and number of tokens, in two settings: a system prompt of tools before every question, and none. Each program has a
process of its own and they take turns of a step or more, so that what disturbs the machine disturbs all; a ratio
is taken turn by turn, and its interval is a bootstrap over turns. That the work is equal is checked: as many
trained parameters, and every reply of a step to its last token.

The promise is for prompts with tools, against TRL with a bf16 base, the faster of its two: there a prompt that is
read once counts beside quantised weights. Short prompts, which leave only the weights, are told without a promise.

    python -m evals.speed.rollouts [--threads 2] [--setting tools]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result
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
from evals.speed.train_throughput import Turns, Worker, ratio_by_turn, working

LEAST = 3.0
"""Our speed on llama.cpp over TRL's, at least."""


@dataclass(slots=True)
class Measured:
    """What one program came to."""

    task: Task
    n_parameters: int
    tokens: list[float] = field(default_factory=list[float])
    """Of each step."""
    seconds: list[list[float]] = field(default_factory=list[list[float]])
    """Of each step, by turn."""
    peak_mib: float = 0.0

    @property
    def speed(self) -> float:
        """Return tokens per second, the median of steps."""
        return self.task.n_tokens / statistics.median(s for turn in self.seconds for s in turn)


def measure(tasks: Sequence[Task], turns: Turns, threads: int) -> dict[str, Measured]:
    """Let programs take turns; return what each came to, by its name."""
    found: dict[str, Measured] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for task in tasks:
            command = [sys.executable, "-m", "evals.speed.rollouts_worker", task_to_json(task)]
            worker = stack.enter_context(working(command, task.program, threads))
            workers[task.program], found[task.program] = worker, Measured(task, worker.n_parameters)
            found[task.program].tokens += worker.steps(turns.n_warm)["losses"]
        for turn in range(turns.n_turns):
            for name in workers if turn % 2 == 0 else reversed(workers):
                answer, of_one = workers[name].steps(turns.n_steps), found[name]
                of_one.seconds.append(answer["seconds"])
                of_one.tokens += answer["losses"]
                of_one.peak_mib = answer["peak_mib"]
    return found


def check_equal_work(found: dict[str, Measured]) -> None:
    """Compare trained parameters and the number of tokens.

    Raises:
        RuntimeError: A program trains something else, or its replies are not of the length asked for.
    """
    ours = found[OURS]
    for name, one in found.items():
        if one.n_parameters != ours.n_parameters:
            raise RuntimeError(f"{name} trains {one.n_parameters} parameters and ours {ours.n_parameters}")
        if set(one.tokens) != {one.task.n_tokens}:
            raise RuntimeError(f"{name} sampled {sorted(set(one.tokens))} tokens, not {one.task.n_tokens}")


def result_of(setting: Setting, found: dict[str, Measured]) -> BenchmarkResult:
    """Return figures and comparison of one setting, and print them."""
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
    """Run the benchmark; 1 where a bound is broken, 2 where the model is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="the base, a llama; the default model of agentkit unless named")
    parser.add_argument("--program", action="append", choices=list(PROGRAMS), help="all unless named")
    parser.add_argument("--setting", action="append", choices=get_args(Setting), help="both unless named")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="of a step")
    parser.add_argument("--group", type=int, default=GROUP, help="replies to a prompt")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a reply")
    parser.add_argument("--warm", type=int, default=1, help="steps of each program before the timed ones")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="of each program in each turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tiny", action="store_true", help="a model that only shows that everything works")
    add_result_option(parser)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        gguf = write_tiny(Path(folder, "tiny.gguf")) if options.tiny else options.gguf or _default_model()
        if gguf is None:
            print("the default model is not here: agentkit models pull smollm2-135m, or name a file with --gguf")
            return 2
        result = _measured(options, gguf)
    write_result(options.result, result)
    for figure in result.broken:
        print(f"BROKEN: {figure.name} is {figure.value:.3f}, promised {figure.bound_kind} {figure.bound}")
    return 1 if result.broken else 0


def _measured(options: argparse.Namespace, gguf: Path) -> BenchmarkResult:
    programs = options.program or list(PROGRAMS)
    if OURS not in programs:
        programs = [OURS, *programs]
    turns = Turns(options.warm, options.turns, options.steps)
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
