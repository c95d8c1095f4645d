"""Scores one answer: whether it parses, fits its schema, and is correct.

Each measure is computed twice: strictly (the whole text is JSON, as an application's `json.loads` requires) and
leniently, with suffix `_lenient` (`evals.structured_output.answers`). A run that failed scores 0 in all of them.
The score is the strict task accuracy: exact match if a value is expected, else validity. It contains only the
measures shown in the summary; `figures_of` returns all of them.
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
"""Measures of cases with an expected value."""
IN_SUMMARY = ("valid", "field_f1")


def score(case: Case, run: Run) -> Score:
    """Score a run of a case of this suite."""
    figures = figures_of(case, run)
    numbers = {name: figures[name] for name in IN_SUMMARY if name in figures}
    failed = failed_score(run)
    if failed is not None:
        return Score(0.0, failed.explanation, numbers=numbers)
    strict = _read(case, run, STRICT)
    value = figures["exact" if case.data["has_expected"] else "valid"]
    answer = json.dumps(strict.value)[:1000] if strict.parsed else None
    return Score(value, _explanation(case, run, strict, value), answer, numbers)


def figures_of(case: Case, run: Run) -> dict[str, float]:
    """Return every measure of a run, strict and lenient; all 0 if the run failed."""
    measures = MEASURES + (TASK_MEASURES if case.data["has_expected"] else ())
    if failed_score(run) is not None:
        return {measure + suffix: 0.0 for suffix in (STRICT, LENIENT) for measure in measures}
    figures: dict[str, float] = {}
    for suffix in (STRICT, LENIENT):
        reading = _read(case, run, suffix)
        verdict = _check(case, reading)
        found = {"parses": float(reading.parsed), "valid": float(verdict.valid), "closed": float(verdict.closed)}
        if case.data["has_expected"]:
            found["exact"] = float(reading.parsed and same(case.target, reading.value))
            found["field_f1"] = field_f1(case.target, reading.value) if reading.parsed else 0.0
        figures |= {measure + suffix: found[measure] for measure in measures}
    return figures


def _read(case: Case, run: Run, suffix: str) -> Reading:
    """Parse a run's answer.

    The value is taken out of `{"result": ...}` if the request wrapped a non-object schema.
    """
    reading = (read_strictly if suffix == STRICT else read_leniently)(_text(run))
    value: Any = reading.value
    if case.data["wrapped"] and isinstance(value, dict) and set(value) == {"result"}:
        return Reading(True, value["result"])
    return reading


def _text(run: Run) -> str:
    return run.output if isinstance(run.output, str) else ""


def _check(case: Case, reading: Reading) -> Validity:
    if not reading.parsed:
        return Validity(False, False, "not JSON")
    return check(case.data["schema"], reading.value)


def _explanation(case: Case, run: Run, strict: Reading, value: float) -> str:
    if not strict.parsed:
        return f"not JSON as a whole: {_text(run)[:200]!r}"
    verdict = _check(case, strict)
    if not verdict.valid:
        return f"does not fit the schema: {verdict.why}"
    if value == 1.0:
        return "right" if case.data["has_expected"] else "valid"
    return f"expected {json.dumps(case.target)[:300]}, got {json.dumps(strict.value)[:300]}"
