"""Scores a reply to a natural request: its calls must be the gold calls in any order, or none if no tool fits.

Values are compared after JSON normalisation: 2 and 2.0 are the same number; in text, case, spaces and a final full
stop are ignored. An optional parameter may be given with its default or omitted. The request lists additional
correct values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from evals.case import Case, Run, Score, failed_score

FIRST_TOOL = "first tool"
"""Name of a measurement: whether the first decision (which tool, or none) was correct; read by
`agentkit calibrate`."""
Call = tuple[str, Mapping[str, Any]]


def score(case: Case, run: Run) -> Score:
    """Return 1 for exactly the right calls; the numbers also report whether the right tools were called."""
    failed = failed_score(run)
    if failed is not None:
        return failed
    gold = [(call["name"], call["arguments"]) for call in case.target]
    try:
        made: list[Call] = [(call.tool_name, call.arguments_dict()) for call in run.calls]
    except (ValueError, RecursionError) as error:
        return Score(0.0, f"the arguments of a call are not JSON: {error}", numbers={"tool": 0.0})
    answer = json.dumps(made, ensure_ascii=False) if made else (run.output or "[]")
    has_tools = sorted(name for name, _ in made) == sorted(name for name, _ in gold)
    is_right = has_tools and fits(made, gold, case.data["tools"], case.data["allow"])
    wanted = json.dumps(gold, ensure_ascii=False)
    called, right = [name for name, _ in made], {name for name, _ in gold}
    first_is_right = called[0] in right if called else not right
    numbers = {"tool": float(has_tools), FIRST_TOOL: float(first_is_right)}
    if not gold:
        numbers["explicit"] = float(run.status == "abstained")
    return Score(float(is_right), "" if is_right else f"wanted {wanted}", str(answer)[:2000], numbers)


def fits(
    made: Sequence[Call],
    gold: Sequence[Call],
    tools: Sequence[Mapping[str, Any]],
    allow: Mapping[str, Sequence[Any]],
) -> bool:
    """Return whether calls are the gold ones in some order."""
    if len(made) != len(gold):
        return False
    schemas = {tool["name"]: tool["parameters"].get("properties", {}) for tool in tools}
    return any(
        all(_is_call(m, g, schemas, allow) for m, g in zip(made, order, strict=True))
        for order in permutations(gold)
    )


def _is_call(
    made: Call, gold: Call, schemas: Mapping[str, Mapping[str, Any]], allow: Mapping[str, Sequence[Any]]
) -> bool:
    if made[0] != gold[0]:
        return False
    given, wanted = made[1], gold[1]
    return all(
        _is_value(name, given, wanted, schemas[gold[0]].get(name, {}), allow.get(name, ()))
        for name in {**wanted, **given}
    )


def _is_value(
    name: str,
    given: Mapping[str, Any],
    wanted: Mapping[str, Any],
    schema: Mapping[str, Any],
    also: Sequence[Any],
) -> bool:
    right = [_plain(wanted[name])] if name in wanted else []
    right += [_plain(value) for value in also]
    if "default" in schema and name not in wanted:
        right.append(_plain(schema["default"]))
    if name not in given:
        return "default" in schema and right[0] == _plain(schema["default"])
    return _plain(given[name]) in right


def _plain(value: Any) -> str:
    """Return a canonical text; equal values have equal texts."""
    if isinstance(value, bool) or value is None:
        return f"{value}"
    if isinstance(value, int | float):
        return f"number {float(value):.12g}"
    if isinstance(value, str):
        return "text " + " ".join(value.casefold().split()).rstrip(".!")
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_plain(value[key])}" for key in sorted(value)) + "}"
    return "[" + ",".join(_plain(item) for item in value) + "]"
