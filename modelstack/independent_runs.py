"""Independent runs, each in its own process: on this machine or on a Ray cluster.

Threads, random numbers and memory of a run do not affect other runs. On Ray, the run of a killed worker is
started again and resumes from its own folder if it can.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

from modelstack.errors import UserError
from modelstack.processes import worker_context
from modelstack.ray_cluster import RETRIES, ray_cluster, results

Place = Literal["local", "ray"]
"""Location of the runs: processes on this machine, or tasks of a Ray cluster."""
Given = TypeVar("Given")
Result = TypeVar("Result")


def finished_runs(
    run: Callable[[Given], Result], given: Sequence[Given], *, on: Place, at_once: int, threads: int = 1
) -> Iterator[tuple[int, Result]]:
    """Yield the number and the result of each run, in the order of completion.

    Args:
        run: Module-level function, or a `functools.partial` of one.
        given: Argument of each run.
        on: Location of the runs.
        at_once: Concurrent runs on this machine; an existing cluster decides by its free CPUs.
        threads: Threads per run, which are CPUs on a cluster.

    Raises:
        UserError: A process was killed (on Ray: repeatedly), or Ray is missing.
        Exception: The error of a run.
    """
    return _on_ray(run, given, at_once, threads) if on == "ray" else _on_this_machine(run, given, at_once)


def _on_this_machine(
    run: Callable[[Given], Result], given: Sequence[Given], at_once: int
) -> Iterator[tuple[int, Result]]:
    with ProcessPoolExecutor(at_once, worker_context(), max_tasks_per_child=1) as pool:
        numbers = {pool.submit(run, each): number for number, each in enumerate(given)}
        try:
            for finished in as_completed(numbers):
                yield numbers[finished], finished.result()
        except BrokenProcessPool as error:
            raise UserError(
                "the process of a run was killed, perhaps because memory ran out; run the same command to resume, "
                "with fewer runs at once if it happens again"
            ) from error


def _on_ray(
    run: Callable[[Given], Result], given: Sequence[Given], at_once: int, threads: int
) -> Iterator[tuple[int, Result]]:
    folder = os.getcwd()

    def task(each: Any) -> Any:
        os.chdir(folder)  # base of relative paths
        return run(each)

    with ray_cluster(at_once * threads) as ray:
        # max_calls: a new process for each run
        remote = ray.remote(num_cpus=threads, max_retries=RETRIES, max_calls=1)(task)
        numbers = {remote.remote(each): number for number, each in enumerate(given)}
        waiting = list(numbers)
        while waiting:
            done, waiting = ray.wait(waiting)
            for reference, result in zip(done, results(ray, done), strict=True):
                yield numbers[reference], result
