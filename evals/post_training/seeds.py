"""The seeds of an experiment: one after the other in this process, or each as a task of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from rich.console import Console

from modelstack.independent_runs import Place, finished_runs

Seed = TypeVar("Seed")
Result = TypeVar("Result")


def results_of_seeds(
    work: Callable[[Seed, Console], Result],
    seeds: Sequence[Seed],
    console: Console,
    *,
    on: Place = "local",
    threads: int = 1,
) -> list[Result]:
    """Return the results of all seeds, in their order.

    Args:
        work: Trains and measures a seed, or continues with it; for Ray a function of a module, or a
            `functools.partial` of one.
        seeds: Arguments of `work`, for example (arm, seed).
        console: Shows progress; on Ray only the ends of runs, as a task has no terminal.
        on: Where.
        threads: Threads of a training, which are CPUs of a cluster.

    Raises:
        UserError: Ray is missing, or a worker was killed repeatedly.
        Exception: The error of a seed.
    """
    if on == "local":
        return [work(seed, console) for seed in seeds]
    found: dict[int, Result] = {}
    at_once = max(1, (os.cpu_count() or 1) // threads)
    for number, result in finished_runs(partial(_silently, work), seeds, on=on, at_once=at_once, threads=threads):
        found[number] = result
        console.print(f"{seeds[number]}: done, {len(found)} of {len(seeds)}", markup=False, highlight=False)
    return [found[number] for number in range(len(seeds))]


def _silently(work: Callable[[Seed, Console], Result], seed: Seed) -> Result:
    return work(seed, Console(quiet=True))
