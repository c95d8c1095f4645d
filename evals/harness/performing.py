"""Performs one case with a time limit; an exception becomes a failed run."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio

from agentkit.errors import AgentKitError
from agentkit.models.base import Model, ModelSettings
from evals.case import Case, Run
from evals.harness.suite import Solver

MAX_ERROR_CHARS = 2_000


async def perform(
    case: Case, solve: Solver, model: Model, settings: ModelSettings, *, epoch: int, timeout_s: float
) -> Run:
    """Solve one case and return its run, including errors and time-outs.

    Only cancellation and the end of the process propagate.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with anyio.fail_after(timeout_s):
            run = await solve(case, model, settings)
    except TimeoutError as error:
        # A time-out raised inside the solver looks the same; it is a failure of the case as well.
        run = Run(case.id, "timed_out", error=str(error) or f"no result after {timeout_s:g} s")
    except Exception as error:  # any exception of a solver is the failure of its case
        run = Run(case.id, "failed", error=_words(error))
    return replace(run, epoch=epoch, wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


def _words(error: BaseException) -> str:
    inner = getattr(error, "exceptions", ())
    if len(inner) == 1:
        return _words(inner[0])
    kind = "" if isinstance(error, AgentKitError) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:MAX_ERROR_CHARS]
