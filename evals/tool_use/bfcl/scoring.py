"""Score one run of BFCL: its calls against the key, or whether it called anything at all."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentkit.messages import ToolCallPart
from evals.case import Case, Run, Score, failed_score
from evals.tool_use.bfcl.checker import Call, Verdict, check_calls, check_relevance
from evals.tool_use.bfcl.data import has_answers, language
from evals.tool_use.bfcl.values import wrong

_MAX_CHARS = 2_000
"""Of an answer or an explanation; the whole reply is in the run."""


def score(case: Case, run: Run) -> Score:
    """Return 1 where the calls fit the key; for irrelevance where none is made, for relevance where any is.

    A run that failed or ran out of time is wrong in every category. (The original counts an error during
    inference as a right answer to irrelevance, because an error message is no call.)
    """
    failed = failed_score(run)
    if failed is not None:
        return failed
    try:
        verdict = judge(case, run.calls)
    except RecursionError:
        verdict = wrong("ast_decoder:decoder_failed", "the arguments are nested too deeply to be looked at")
    said = ", ".join(f"{call.tool_name}({call.arguments})" for call in run.calls) or run.output
    answer = None if said is None else str(said)[:_MAX_CHARS]
    # A model that chats calls nothing either; only the convention's empty list says that no tool fits.
    abstained = {"abstained": float(run.status == "abstained")}
    if verdict.valid:
        return Score(1.0, "", answer, abstained)
    return Score(0.0, f"{verdict.error_type}: {'; '.join(verdict.errors)}"[:_MAX_CHARS], answer, abstained)


def judge(case: Case, made: Sequence[ToolCallPart]) -> Verdict:
    """Return the verdict on the calls of a reply."""
    try:
        calls = decode(made)
    except ValueError as error:
        # No call decodes: as good as none for (ir)relevance, as in the original, and wrong where there is a key.
        if not has_answers(case.group):
            return check_relevance([], wanted="irrelevance" not in case.group)
        return wrong("ast_decoder:decoder_failed", f"no calls: {error}")
    if not has_answers(case.group):
        return check_relevance(calls, wanted="irrelevance" not in case.group)
    return check_calls(
        case.data["functions"],
        calls,
        case.target,
        category=case.group,
        language=language(case.group),
        underscores=case.data.get("underscores", False),
    )


def decode(made: Sequence[ToolCallPart]) -> list[Call]:
    """Return names and parsed arguments.

    Raises:
        ValueError: the arguments of a call are no JSON object.
    """
    calls: list[Call] = []
    for call in made:
        try:
            calls.append((call.tool_name, call.arguments_dict()))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"arguments of {call.tool_name!r} are no JSON: {error}") from error
    return calls
