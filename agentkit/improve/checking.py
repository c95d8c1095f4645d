"""Score of a run by the checks of its task: 1 if all hold, else 0, with the first check that does not."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from agentkit.errors import UserError
from agentkit.improve.rollout import Outcome, Score, Scorer
from agentkit.improve.tasks import Checks

_NUMBER = re.compile(r"(?<![\w.,])[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w,])|(?<![\w.])[-+]?\d+(?:\.\d+)?(?!\w)")
_MAX_SEARCHED_CHARS = 100_000


def score_by_checks(outcome: Outcome) -> Score:
    """Judge a run by the checks of its task."""
    problem = next(_problems(outcome), None)
    return Score(value=0.0, explanation=problem) if problem else Score(value=1.0, explanation="all checks hold")


async def judged(scorer: Scorer, outcome: Outcome) -> Score:
    """Return a scorer's judgement.

    Raises:
        UserError: the value is not a number from 0 to 1.
    """
    given: Any = scorer(outcome)
    given = await given if inspect.isawaitable(given) else given
    score = given if isinstance(given, Score) else Score(value=float(given))
    if not 0.0 <= score.value <= 1.0:
        raise UserError(
            f"the scorer returned {score.value!r} for task {outcome.task.id!r}: a score is from 0 to 1."
        )
    return score


def _problems(outcome: Outcome) -> Iterator[str]:
    checks = outcome.task.checks
    if outcome.error:
        yield f"the run ended with an error: {outcome.error}"
    if outcome.status != checks.status:
        yield f"the run ended with status {outcome.status!r}, not {checks.status!r}"
    yield from _call_problems(outcome, checks)
    if checks.files or checks.tables or outcome.observed is not None:
        yield from _world_problems(outcome, checks)
    answer = outcome.answer[:_MAX_SEARCHED_CHARS]
    for phrases in checks.answer_contains:
        alternatives = (phrases,) if isinstance(phrases, str) else phrases
        if not any(_has(answer, phrase) for phrase in alternatives):
            yield f"the answer does not contain {' or '.join(map(repr, alternatives))}"
    for phrase in checks.answer_excludes:
        if _has(answer, phrase):
            yield f"the answer contains {phrase!r}"
    number = checks.answer_number
    if number is not None and not any(math.isclose(n, number, abs_tol=1e-9) for n in _numbers(answer)):
        yield f"the answer does not contain the number {number:g}"


def _call_problems(outcome: Outcome, checks: Checks) -> Iterator[str]:
    calls = outcome.calls
    for name in checks.forbidden_calls:
        if any(call.name == name for call in calls):
            yield f"{name} was called, which the task forbids"
    succeeded = iter([call.name for call in calls if call.outcome == "success"])
    for name in checks.calls:
        if name not in succeeded:  # consumes the iterator: the next tool must follow
            yield f"{name} was not called with success where it is needed"


def _world_problems(outcome: Outcome, checks: Checks) -> Iterator[str]:
    worlds: tuple[Any, Any] = (outcome.observed, outcome.before)
    if not all(isinstance(world, Mapping) for world in worlds):
        yield "the task checks files or tables, and the agent has no world"
        return
    now, before = cast("tuple[Mapping[str, Any], Mapping[str, Any]]", worlds)
    files, files_before = now.get("files", {}), before.get("files", {})
    for path, text in checks.files.items():
        if files.get(path) != text:
            yield f"the file {path!r} " + ("is still there" if text is None else "has not the expected text")
    tables, tables_before = _by_name(now.get("tables", {})), _by_name(before.get("tables", {}))
    for name, rows in checks.tables.items():
        if sorted(tables.get(name, []), key=json.dumps) != sorted(rows, key=json.dumps):
            yield f"the table {name!r} has not the expected rows"
    if not checks.only_these_change:
        return
    for kind, here, there, named in (
        ("file", files, files_before, checks.files),
        ("table", tables, tables_before, checks.tables),
    ):
        for name in sorted({*here, *there} - set(named)):
            if here.get(name) != there.get(name):
                yield f"the {kind} {name!r} was changed, which nobody asked for"


def _by_name(tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
    return {f"{file}.{name}": rows for file, found in tables.items() for name, rows in found.items()}


def _has(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def _numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in _NUMBER.findall(text)]
