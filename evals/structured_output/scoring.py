"""One answer judged: does it parse, does it fit its schema, is it right.

Each figure comes twice: read strictly (the text is JSON and nothing else, as an application's `json.loads` needs
it) and, with `_lenient`, read generously (`evals.structured_output.answers`). A run that failed scores 0 in all of
them. The score itself is the strict task accuracy: exact match where something was expected, else validity.
"""

from __future__ import annotations

import json
from typing import Any

from evals.case import Case, Run, Score, failed_score
from evals.structured_output.answers import Reading, field_f1, read_leniently, read_strictly, same
from evals.structured_output.validity import Validity, check

STRICT, LENIENT = "", "_lenient"
MEASURES = ("parses", "valid", "closed")
TASK_MEASURES = ("exact", "field_f1")
"""Only where the case says what is expected."""


def score(case: Case, run: Run) -> Score:
    """Score a run of a case of this suite."""
    failed = failed_score(run)
    if failed is not None:
        return Score(0.0, failed.explanation, numbers=dict.fromkeys(measures_of(case), 0.0))
    text = run.output if isinstance(run.output, str) else ""
    strict, lenient = _unwrapped(read_strictly(text), case), _unwrapped(read_leniently(text), case)
    verdict = _check(case, strict)
    numbers = _numbers(case, strict, verdict, STRICT) | _numbers(case, lenient, _check(case, lenient), LENIENT)
    value = numbers["exact"] if case.data["has_expected"] else numbers["valid"]
    answer = json.dumps(strict.value)[:1000] if strict.parsed else None
    return Score(value, _explanation(case, text, strict, verdict, value), answer, numbers)


def measures_of(case: Case) -> list[str]:
    """Return the names of the numbers that a case is given."""
    measures = MEASURES + (TASK_MEASURES if case.data["has_expected"] else ())
    return [measure + reading for reading in (STRICT, LENIENT) for measure in measures]


def _numbers(case: Case, reading: Reading, verdict: Validity, suffix: str) -> dict[str, float]:
    found = {"parses": float(reading.parsed), "valid": float(verdict.valid), "closed": float(verdict.closed)}
    if case.data["has_expected"]:
        found["exact"] = float(reading.parsed and same(case.target, reading.value))
        found["field_f1"] = field_f1(case.target, reading.value) if reading.parsed else 0.0
    return {name + suffix: number for name, number in found.items()}


def _check(case: Case, reading: Reading) -> Validity:
    if not reading.parsed:
        return Validity(False, False, "no JSON")
    return check(case.data["schema"], reading.value)


def _unwrapped(reading: Reading, case: Case) -> Reading:
    """Take the answer out of `{"result": ...}`, where the request had wrapped a schema that is no object's."""
    if not case.data["wrapped"] or not reading.parsed:
        return reading
    value: Any = reading.value
    return Reading(True, value["result"] if isinstance(value, dict) and set(value) == {"result"} else value)


def _explanation(case: Case, text: str, strict: Reading, verdict: Validity, value: float) -> str:
    if not strict.parsed:
        return f"no JSON as a whole: {text[:200]!r}"
    if not verdict.valid:
        return f"does not fit the schema: {verdict.why}"
    if value == 1.0:
        return "right" if case.data["has_expected"] else "valid"
    return f"expected {json.dumps(case.target)[:300]}, got {json.dumps(strict.value)[:300]}"
