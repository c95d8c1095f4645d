"""Score of a request: correct final state, no other change, correct answer in words, tools used when needed.

A pure function of (case, run). The score is 1 or 0; the reason for a 0 is the first applicable `Failure`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from evals.case import Case, Run, Score, failed_score
from evals.tool_use.executed.scoring import judged_score, n_failed_calls, wrong_state
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
    "nothing changed": "a change was required, but nothing changed",
    "wrong state": "files or rows differ from the expected state",
    "wrong answer": "the final state is right, the answer is not",
}
CLOCK = "clock"
"""Key of `Run.observed`: start and end of the run, ISO 8601."""


def score(case: Case, run: Run) -> Score:
    """Score one run."""
    return judged_score(run, *judge(case, run))


def judge(case: Case, run: Run) -> tuple[Failure | None, str]:
    """Return the failure of a run (None if it is correct) and an explanation.

    A run that a limit forced to answer is judged by its answer, because the user sees only the answer.
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
    """Return the difference from the first acceptable final state, or None if one of them is reached."""
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
        return "no call", "an answer without any call is a guess"
    if n_failed_calls(run) == len(run.calls):
        return "failed calls", f"{len(run.calls)} calls, all failed"
    return None


def _clock(run: Run) -> tuple[datetime, datetime]:
    began, ended = run.observed[CLOCK]
    return datetime.fromisoformat(began), datetime.fromisoformat(ended)
