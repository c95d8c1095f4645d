"""Score of a question: the document was read, and every fact of the answer is correct.

A pure function of (case, run). The score is 1 or 0; the reason for a 0 is the first applicable `Failure`.
"""

from __future__ import annotations

from typing import Literal

from agentkit.messages import ModelRequest, ToolReturnPart
from evals.case import Case, Run, Score, failed_score
from evals.tool_use.executed.scoring import judged_score
from evals.tool_use.long_results.facts import facts_problem, says_unstated
from evals.tool_use.long_results.question import READING, SEARCHING, Question, question_of

Failure = Literal["error", "no words", "not read", "overlooked", "invented", "wrong answer"]
FAILURES: dict[Failure, str] = {
    "error": "the run raised or ran out of time",
    "no words": "the run ended without an answer in words",
    "not read": "no call showed a part of the document: the answer is a guess",
    "overlooked": "the document states the fact, but the answer denies that",
    "invented": "the document does not state the fact, but the answer does",
    "wrong answer": "a fact is missing or wrong, or a neighbouring entry's is stated as well",
}


def score(case: Case, run: Run) -> Score:
    """Score one run."""
    return judged_score(run, *judge(case, run))


def judge(case: Case, run: Run) -> tuple[Failure | None, str]:
    """Return the failure of a run (None if it is correct) and an explanation.

    A run that a limit forced to answer is judged by its answer, as in `first-hour`.
    """
    if (failed := failed_score(run)) is not None:
        return "error", failed.explanation
    question = question_of(case)
    text = run.output if isinstance(run.output, str) else ""
    if not text.strip():
        return "no words", f"the run ended as {run.status.replace('_', ' ')}"
    if not has_read(question, run):
        return "not read", f"no result of {READING} or {SEARCHING} shows {question.file_name}"
    if (problem := facts_problem(question, text)) is None:
        return None, "as expected"
    if question.is_there:
        return ("overlooked" if says_unstated(text) else "wrong answer"), problem
    return ("wrong answer" if says_unstated(text) else "invented"), problem


def has_read(question: Question, run: Run) -> bool:
    """Return whether a result showed lines of the question's document, or the hits of a search in its folder."""
    parts = [part for message in run.messages if isinstance(message, ModelRequest) for part in message.parts]
    results = [part for part in parts if isinstance(part, ToolReturnPart) and not part.is_error]
    return any(
        part.tool_name == SEARCHING
        or (part.tool_name == READING and part.text.startswith(f"{question.file_name}:"))
        for part in results
    )
