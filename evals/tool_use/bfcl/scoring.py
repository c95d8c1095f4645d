"""Scores one run of BFCL: compares its calls with the key, or checks whether it made any call."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentkit.messages import ToolCallPart
from evals.case import Case, Run, Score, failed_score
from evals.tool_use.bfcl.checker import Call, Verdict, check_calls, check_relevance
from evals.tool_use.bfcl.data import has_answers, language
from evals.tool_use.bfcl.values import wrong

_MAX_CHARS = 2_000
"""Maximum characters of an answer or an explanation; the run holds the whole reply."""


def score(case: Case, run: Run) -> Score:
    """Return 1 if the calls match the key; for irrelevance if no call is made, for relevance if any call is made.

    A run that failed or timed out is wrong in every category. (The original counts an inference error as correct
    for irrelevance, because an error message is not a call.)
    """
    failed = failed_score(run)
    if failed is not None:
        return failed
    try:
        verdict = judge(case, run.calls)
    except RecursionError:
        verdict = wrong("ast_decoder:decoder_failed", "the arguments are nested too deeply to be compared")
    said = ", ".join(f"{call.tool_name}({call.arguments})" for call in run.calls) or run.output
    answer = None if said is None else str(said)[:_MAX_CHARS]
    # A reply in plain text calls nothing either; only the convention's empty list states that no tool fits.
    abstained = {"abstained": float(run.status == "abstained")}
    if verdict.valid:
        return Score(1.0, "", answer, abstained)
    return Score(0.0, f"{verdict.error_type}: {'; '.join(verdict.errors)}"[:_MAX_CHARS], answer, abstained)


def judge(case: Case, made: Sequence[ToolCallPart]) -> Verdict:
    """Return the verdict on the calls of a reply."""
    try:
        calls = decode(made)
    except ValueError as error:
        # If no call can be decoded, the reply counts as without calls for (ir)relevance, as in the original, and
        # as wrong if there is a key.
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
    """Return names and parsed arguments of calls.

    Raises:
        ValueError: the arguments of a call are not a JSON object.
    """
    calls: list[Call] = []
    for call in made:
        try:
            calls.append((call.tool_name, call.arguments_dict()))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"arguments of {call.tool_name!r} are not JSON: {error}") from error
    return calls
