"""Checks the calls of a reply against the answer key, by BFCL's rules for one call, several calls, and no call.

The rules are those of the original (`bfcl_eval/eval_checker/ast_eval/ast_checker.py` of the bfcl-eval wheel,
repository ShishirPatil/gorilla), including its oddities, because a score must compare with published ones. Each
oddity is marked. `evals.tool_use.bfcl.parity` compares both checkers item by item. Error types have the original's
names. If the original would raise an exception, and so end its whole evaluation, the call counts as wrong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.tool_use.bfcl.data import AnswerKey, Language
from evals.tool_use.bfcl.values import Verdict, check_value, wrong

Call = tuple[str, Mapping[str, Any]]
"""Name and arguments of a call; values are JSON values, or tuples if a decoder produces them."""

__all__ = ["Call", "Verdict", "calls_from_dicts", "check_calls", "check_relevance"]

RIGHT = Verdict(True)


def check_calls(
    functions: Sequence[Mapping[str, Any]],
    calls: Sequence[Call],
    answer: AnswerKey,
    *,
    category: str,
    language: Language = "python",
    underscores: bool = False,
) -> Verdict:
    """Return whether the calls match the key.

    Args:
        functions: The functions of the question, in BFCL's dialect, without language hints.
        calls: The model's calls, in order.
        answer: The key, one entry for each call.
        category: Name of the category. It decides which calls are expected: one call of the only function
            (simple), one call of one of several functions (multiple), or several calls in any order (parallel).
        language: Language of the argument literals; Java and JavaScript arguments are strings.
        underscores: Whether the model saw function names with `_` in place of `.`.
    """
    if len(calls) != len(answer):
        kind = "parallel_function_checker_no_order" if "parallel" in category else "multiple_function_checker"
        if "parallel" not in category and "multiple" not in category:
            kind = "simple_function_checker"
        return wrong(f"{kind}:wrong_count", f"{len(calls)} calls, expected {len(answer)}")
    if "parallel" in category:
        return _check_in_any_order(functions, calls, answer, language, underscores)
    function: Mapping[str, Any] | None = functions[0]
    if "multiple" in category:
        function = _named(functions, next(iter(answer[0])))
    return _check_call(function, calls[0], answer[0], language, underscores)


def check_relevance(calls: Sequence[Call], *, wanted: bool) -> Verdict:
    """Return whether at least one call was made if calls are wanted (relevance), or none if not (irrelevance)."""
    if bool(calls) == wanted:
        return RIGHT
    if wanted:
        return wrong("relevance_error:decoder_failed", "no call, expected at least one")
    return wrong("irrelevance_error:decoder_success", f"{calls[0][0]!r} is called, expected no call")


def calls_from_dicts(decoded: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[Call]:
    """Convert calls from `[{name: {parameter: value}}]`, the original's form.

    Raises:
        ValueError: an entry does not have exactly one name, or its arguments are not a mapping.
    """
    calls: list[Call] = []
    for entry in decoded:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ValueError(f"a call is {{name: {{parameter: value}}}}, got {entry!r}")
        ((name, arguments),) = entry.items()
        if not isinstance(arguments, Mapping):
            raise ValueError(f"arguments of {name!r} are {type(arguments).__name__}, expected a mapping")
        calls.append((name, arguments))
    return calls


def _check_in_any_order(
    functions: Sequence[Mapping[str, Any]],
    calls: Sequence[Call],
    answer: AnswerKey,
    language: Language,
    underscores: bool,
) -> Verdict:
    """Match each entry of the key, in order, with the first unused call that fits it.

    The match is greedy, as in the original: if a call fits two entries, an earlier entry may take the only call
    that a later entry would have accepted.
    """
    left = list(enumerate(calls))
    for at, entry in enumerate(answer):
        function = _named(functions, next(iter(entry)))
        reasons: list[str] = []
        for place, (index, call) in enumerate(left):
            verdict = _check_call(function, call, entry, language, underscores)
            if verdict.valid:
                del left[place]
                break
            reasons.append(f"call {index}: {'; '.join(verdict.errors)}")
        else:
            return wrong(
                "parallel_function_checker_no_order:cannot_find_match",
                f"no call fits entry {at} of the key ({next(iter(entry))})",
                *reasons,
            )
    return RIGHT


def _check_call(
    function: Mapping[str, Any] | None,
    call: Call,
    entry: Mapping[str, Mapping[str, Sequence[Any]]],
    language: Language,
    underscores: bool,
) -> Verdict:
    """Check one call against one entry of the key; the function's name counts, not the entry's name."""
    if function is None:
        return wrong(
            "key:unknown_function", f"the key names {next(iter(entry))!r}, which is not a function of the question"
        )
    acceptable = next(iter(entry.values()))
    schemas = function["parameters"].get("properties", {})
    name, arguments = call
    expected = function["name"].replace(".", "_") if underscores else function["name"]
    if name != expected:
        return wrong("simple_function_checker:wrong_func_name", f"{name!r} is called, expected {expected!r}")
    for parameter in function["parameters"].get("required", ()):
        if parameter not in arguments:
            return wrong(
                "simple_function_checker:missing_required", f"required parameter {parameter!r} is missing"
            )
    for parameter, value in arguments.items():
        if parameter not in schemas or parameter not in acceptable:
            return wrong("simple_function_checker:unexpected_param", f"parameter {parameter!r} is not expected")
        verdict = check_value(parameter, value, schemas[parameter], acceptable[parameter], language)
        if not verdict.valid:
            return verdict
    for parameter, values in acceptable.items():
        if parameter not in arguments and "" not in values:
            return wrong(
                "simple_function_checker:missing_optional",
                f"parameter {parameter!r} is missing and may not be left out",
            )
    return RIGHT


def _named(functions: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((function for function in functions if function["name"] == name), None)
