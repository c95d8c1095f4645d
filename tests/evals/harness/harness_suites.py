"""Suites for tests of the harness: arithmetic, put to any model, with every way in which a case can end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import anyio

from agentkit.agent import Agent
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from evals.case import Case, Run, Score, failed_score
from evals.harness.solving import ask_model, run_agent
from evals.harness.suite import Suite, check_options

OPTIONS = {
    "n": "how many cases",
    "trouble": "case ids that fail, by comma",
    "slow": "case ids that never end, by comma",
    "kill_at": "the case at which the process kills itself",
    "kill_with": "with which signal, KILL unless said",
    "tally": "file to which the id of every solved case goes",
}


def load(options: Mapping[str, str]) -> list[Case]:
    check_options("sums", options, OPTIONS)
    n = int(options.get("n", "6"))
    data = {key: options.get(key, "") for key in OPTIONS}
    return [Case(f"sum_{i}", f"{i}+{i}", group=("even", "odd")[i % 2], target=2 * i, data=data) for i in range(n)]


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    if case.data["tally"]:
        with Path(case.data["tally"]).open("a", encoding="utf-8") as tally:
            tally.write(case.id + "\n")
    if case.id == case.data["kill_at"]:
        os.kill(os.getpid(), signal.Signals[f"SIG{case.data['kill_with'] or 'KILL'}"])
        await anyio.sleep(0)
    if case.id in case.data["trouble"].split(","):
        raise OSError(f"no sums today: {case.id}")
    if case.id in case.data["slow"].split(","):
        await anyio.sleep_forever()
    return await ask_model(case, model, ModelRequestParameters(settings=settings))


def score(case: Case, run: Run) -> Score:
    if failed := failed_score(run):
        return failed
    right = run.output == str(case.target)
    return Score(float(right), f"expected {case.target}", answer=run.output, numbers={"length": len(run.output)})


SUMS = Suite("sums", 1, "Sums.", load, solve, score, options=OPTIONS, case_timeout_s=0.2)


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


async def solve_with_agent(case: Case, model: Model, settings: ModelSettings) -> Run:
    return await run_agent(case, Agent(model, tools=[double], settings=settings))


DOUBLES = Suite("doubles", 1, "Sums with a tool.", load, solve_with_agent, score, options=OPTIONS)
