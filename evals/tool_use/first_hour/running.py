"""Runs one request with a new folder and database, real servers, and an agent as in `agentkit chat`."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace
from datetime import UTC, datetime

from agentkit.limits import UsageLimits
from agentkit.models.base import Model, ModelSettings
from evals.case import Case, Run
from evals.harness.suite import Solver
from evals.tool_use.executed.running import Connect, FindModel, child_server
from evals.tool_use.executed.running import solver as executed_solver
from evals.tool_use.first_hour.playing import model_for
from evals.tool_use.first_hour.scoring import CLOCK

LIMITS = UsageLimits(request_limit=8, tool_calls_limit=12)
"""Twice the requests of the longest reference with its answer."""
CASE_TIMEOUT_S = 60.0
"""Longer than a new user would wait."""
MODEL, PEAK_MB = "model", "peak_mb"
"""Keys of `Run.observed`: name and abilities of the model; peak memory of this process so far in MB."""


def solver(connect: Connect = child_server, find_model: FindModel = model_for) -> Solver:
    """Return a solver; `connect` returns a server's toolset, `find_model` the model that plays a case."""
    # No instructions, because `agentkit chat` sends none unless the user provides them.
    solve_task = executed_solver(connect, instructions=None, limits=LIMITS, find_model=find_model)

    async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
        began = datetime.now(UTC)
        run = await solve_task(case, model, settings)
        seen = {
            CLOCK: [began.isoformat(), datetime.now(UTC).isoformat()],
            MODEL: described(find_model(case, model)),
            PEAK_MB: peak_mb(),
        }
        return replace(run, observed={**run.observed, **seen})

    return solve


def described(model: Model) -> str:
    """Return a model's name, abilities and context window in words."""
    profile = model.profile
    abilities = [
        name.replace("_", " ")
        for name in ("grammar", "logprobs", "prefix_cache", "parallel_tool_calls", "native_output")
        if getattr(profile, name)
    ]
    window = [f"{profile.context_window} tokens of context"] if profile.context_window else []
    return f"{model.name}: {', '.join([*abilities, *window])}"


def peak_mb() -> float:
    """Return the peak resident memory of this process so far, in MB; server processes are not included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes there, KiB elsewhere
