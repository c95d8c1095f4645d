"""Programs that a model writes: taken out of its reply, judged in the sandbox, counted as pass@k.

pass@k is the unbiased estimate of Chen et al. (2021): with n runs of a case of which c pass,
1 - C(n - c, k) / C(n, k), the chance that at least one of k runs drawn from the n passes; its mean over cases.
Runs are the evaluation's epochs, so `--epochs 10 --temperature 0.8` gives pass@1 to pass@10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    "text, as base models are measured; chat if not given"
)
SHOWN_K = (1, 2, 5, 10, 20, 50, 100)


def form_option(suite: str, options: Mapping[str, str]) -> str:
    """Return how the task is put to the model.

    Raises:
        UserError: it is none of `FORMS`.
    """
    form = options.get("form", FORMS[0])
    if form not in FORMS:
        raise UserError(f"suite {suite!r}: form={form!r} must be one of {', '.join(FORMS)}.")
    return form


def require_sandbox() -> None:
    """Refuse to begin where programs cannot be isolated.

    Raises:
        UserError: with what the kernel refused.
    """
    with _mistakes_told():
        running.require_sandbox()


async def continue_raw(case: Case, model: Model, settings: ModelSettings, until: Sequence[str]) -> tuple[str, Any]:
    """Let a model in this process continue the case's prompt; return the text and what it cost.

    Raises:
        UserError: the model is not a local one.
    """
    return await with_engine(model, partial(continue_text, case.prompt, until, settings, case.id))


async def observe(case: Case, sources: Sequence[str]) -> dict[str, Any]:
    """Judge a program by the case's tests; return what the scorer needs, as JSON-able data.

    Raises:
        UserError: this machine does not isolate processes.
    """
    data = case.data
    judge = partial(running.judge_program, sources, data["tests"], data["names"], helpers=data.get("helpers", ""))
    with _mistakes_told():
        verdict = await anyio.to_thread.run_sync(judge)
    return {
        "passed": verdict.passed,
        "reason": verdict.reason,
        "printed": verdict.output,
        "program": "\n".join(sources),
    }


def score_program(case: Case, run: Run) -> Score:
    """Score 1 where all tests passed; the verdict was made when the case was solved."""
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
def _mistakes_told() -> Iterator[None]:
    """Turn modelstack's error of the user into that of the evaluations."""
    try:
        yield
    except StackError as error:
        raise UserError(str(error)) from error
