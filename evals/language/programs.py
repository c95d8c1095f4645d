"""Programs written by a model: extracted from its reply, judged in the sandbox, and counted as pass@k.

pass@k is the unbiased estimate of Chen et al. (2021). With n runs of a case of which c pass, it is 1 - C(n - c, k)
/ C(n, k), the probability that at least one of k runs drawn from the n passes; the result is its mean over cases.
Runs are the evaluation's epochs, so `--epochs 10 --temperature 0.8` yields pass@1 to pass@10.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio.to_thread

from agentkit.errors import UserError
from agentkit.models.base import Model, ModelSettings
from evals.case import Case, Run, Score, failed_score
from evals.harness.suite import Table
from evals.language.likelihood import continue_text, with_engine
from evals.statistics import mean_interval
from modelstack.errors import UserError as StackError
from modelstack.inference.curves_at_k import pass_at_k
from modelstack.sandbox import running

FORMS = ("chat", "raw")
FORM_OPTION = (
    "`chat` asks for the code in a message; `raw` lets a model in this process continue the benchmark's plain "
    "text, as for base models; default chat"
)
SHOWN_K = (1, 2, 5, 10, 20, 50, 100)


def require_sandbox() -> None:
    """Check that this machine can isolate programs.

    Raises:
        UserError: the kernel refuses isolation; the message names the refused feature.
    """
    with _as_user_errors():
        running.require_sandbox()


async def continue_raw(case: Case, model: Model, settings: ModelSettings, until: Sequence[str]) -> tuple[str, Any]:
    """Continue the case's prompt with a model in this process; return the text and its usage.

    Raises:
        UserError: the model is not local.
    """
    return await with_engine(model, partial(continue_text, case.prompt, until, settings, case.id))


async def observe(case: Case, sources: Sequence[str]) -> dict[str, Any]:
    """Judge a program by the case's tests; return the scorer's input as JSON-able data.

    Raises:
        UserError: this machine cannot isolate processes.
    """
    data = case.data
    judge = partial(running.judge_program, sources, data["tests"], data["names"], helpers=data.get("helpers", ""))
    with _as_user_errors():
        verdict = await anyio.to_thread.run_sync(judge)
    return {
        "passed": verdict.passed,
        "reason": verdict.reason,
        "printed": verdict.output,
        "program": "\n".join(sources),
    }


def score_program(case: Case, run: Run) -> Score:
    """Return 1 if all tests passed, else 0; the tests ran when the case was solved."""
    if failed := failed_score(run):
        return failed
    if run.status == "abstained":
        return Score(0.0, "abstained")
    return Score(float(run.observed["passed"]), run.observed["reason"], answer=run.observed["program"])


def pass_tables(scored: Sequence[tuple[Case, Run, Score]]) -> list[Table]:
    """Return pass@k for each k that the number of epochs allows; a run that failed did not pass."""
    cases: dict[str, list[bool]] = {}
    for case, _, score in scored:
        cases.setdefault(case.id, []).append(score.value == 1.0)
    n_runs = min((len(runs) for runs in cases.values()), default=0)
    rows: list[tuple[str, ...]] = []
    for k in SHOWN_K:
        if k <= n_runs:
            estimates = [pass_at_k(len(runs), sum(runs), k) for runs in cases.values()]
            rows.append((f"pass@{k}", str(len(cases)), str(n_runs), str(mean_interval(estimates))))
    return [
        Table("Programs that pass all tests", ("counted", "n", "runs of each", "estimate (95 %)"), tuple(rows))
    ]


@contextmanager
def _as_user_errors() -> Iterator[None]:
    """Convert modelstack's user errors to those of agentkit."""
    try:
        yield
    except StackError as error:
        raise UserError(str(error)) from error
