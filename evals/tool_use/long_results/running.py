"""Runs one question: a copy of its folder, the read-only filesystem server, an agent as in `agentkit chat`."""

from __future__ import annotations

from functools import partial

from evals.harness.suite import Solver
from evals.tool_use.executed.running import Connect, child_server
from evals.tool_use.first_hour.running import solver as first_hour_solver
from evals.tool_use.long_results.playing import model_for

read_only_server: Connect = partial(child_server, write=False)


def solver(connect: Connect = read_only_server) -> Solver:
    """Return a solver; `connect` returns the server's toolset."""
    return first_hour_solver(connect, find_model=model_for)
