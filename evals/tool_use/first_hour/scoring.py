"""The score of a request: right end, nothing else changed, right answer in words, tools used where they must be.

A plain function of (case, run). A request counts 1 or 0; why it failed is one of `Failure`, the first that holds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from evals.case import Case, Run, Score, failed_score
from evals.tool_use.executed.scoring import n_failed_calls, wrong_state
from evals.tool_use.first_hour.checking import check_problem
from evals.tool_use.first_hour.request import Request, request_of

Failure = Literal[
    "error",
    "no words",
    "needless call",
    "no call",
    "failed calls",
    "nothing changed",
    "wrong state",
    "wrong answer",
]
FAILURES: dict[Failure, str] = {
    "error": "the run raised or ran out of time",
    "no words": "the run ended without an answer in words",
    "needless call": "small talk was answered with a tool",
    "no call": "no tool was called: the answer is a guess",
    "failed calls": "every call was answered by an error",
    "nothing changed": "something was to be changed, and all is as it was",
    "wrong state": "files or rows are not as they should be",
    "wrong answer": "the end is right, the answer is not",
}
CLOCK = "clock"
"""Key of `Run.observed`: when the run began and ended, ISO 8601."""


def score(case: Case, run: Run) -> Score:
    """Score one run."""
    failure, explanation = judge(case, run)
    return Score(
        0.0 if failure else 1.0,
        f"{failure}: {explanation}" if failure else explanation,
        run.output if isinstance(run.output, str) else None,
        {"calls": float(len(run.calls)), "failed calls": float(n_failed_calls(run))},
    )


def judge(case: Case, run: Run) -> tuple[Failure | None, str]:
    """Return why a run failed, None where it is right, and the finding in words.

    A run that was forced to answer by a limit is judged by its answer, as the newcomer does.
    """
    if (failed := failed_score(run)) is not None:
        return "error", failed.explanation
    request = request_of(case)
    text = run.output if isinstance(run.output, str) else ""
    wrong = _wrong_end(request, run)
    if wrong is not None and wrong[0] == "wrong state":
        return wrong
    if not text.strip():
        return "no words", f"the run ended as {run.status.replace('_', ' ')}"
    if (misuse := _misused_tools(request, run)) is not None:
        return misuse
    if wrong is not None:
        return wrong
    problem = check_problem(request, text, _clock(run))
    return ("wrong answer", problem) if problem is not None else (None, "as expected")


def _wrong_end(request: Request, run: Run) -> tuple[Failure, str] | None:
    """Return in what the end differs from the first right one, None where one of them is reached."""
    found = [wrong_state(task, run) for task in request.tasks]
    if None in found or found[0] is None:
        return None
    failure, explanation = found[0]
    return ("nothing changed" if failure == "nothing changed" else "wrong state"), explanation


def _misused_tools(request: Request, run: Run) -> tuple[Failure, str] | None:
    if request.kind == "small talk":
        return ("needless call", run.calls[0].tool_name) if run.calls else None
    if request.kind == "impossible":
        return None
    if not run.calls:
        return "no call", "an answer that rests on no call is a guess"
    if n_failed_calls(run) == len(run.calls):
        return "failed calls", f"{len(run.calls)} calls, none of them done"
    return None


def _clock(run: Run) -> tuple[datetime, datetime]:
    began, ended = run.observed[CLOCK]
    return datetime.fromisoformat(began), datetime.fromisoformat(ended)
