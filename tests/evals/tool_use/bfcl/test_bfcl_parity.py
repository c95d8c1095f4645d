"""Our checker against the original of the wheel, and the list of disputed items against its data."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from evals.tool_use.bfcl import multi_turn_cases, parity
from evals.tool_use.bfcl.agentic import standardised_answer
from evals.tool_use.bfcl.checker import calls_from_dicts, check_calls
from evals.tool_use.bfcl.data import CATEGORIES, Question, data_folder, has_answers, language, load_questions
from evals.tool_use.bfcl.disputed import AGAINST_SCHEMA, CONTESTED, DISPUTED, MENDED, UNREACHABLE
from evals.tool_use.bfcl.function_docs import told_function, told_tools
from evals.tool_use.bfcl.literal_mutations import random_literals
from evals.tool_use.bfcl.parity import Report, compare, explanation, table
from evals.tool_use.bfcl.renderings import first_rendering, literal, renderings, variants
from evals.tool_use.bfcl.values import Verdict, standardised
from evals.tool_use.bfcl.wheel import cached_wheel_folder


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The unpacked wheel; tests do not fetch it."""
    found = cached_wheel_folder()
    if found is None:
        pytest.skip("needs the bfcl-eval wheel in the cache: python -m evals.tool_use.bfcl.parity fetches it")
    return found


@pytest.fixture(scope="module")
def questions(wheel: Path) -> dict[str, Question]:
    folder = data_folder(wheel)
    return {q.id: q for category in filter(has_answers, CATEGORIES) for q in load_questions(folder, category)}


def judged_right(question: Question, calls: Any) -> bool:
    assert question.answer is not None
    spoken, made = language(question.category), calls_from_dicts(calls)
    return check_calls(
        question.functions, made, question.answer, category=question.category, language=spoken
    ).valid


def test_every_category_with_answers_is_compared(wheel: Path) -> None:
    files = (wheel / "bfcl_eval" / "data" / "possible_answer").glob("BFCL_v4_*.json")
    shipped = {path.stem.removeprefix("BFCL_v4_") for path in files}
    report = compare(wheel, seed=3, limit=1, n_literals=0)
    compared = {category for category, _ in report.by_category}
    assert compared == {name for name in shipped if not name.startswith("multi_turn_")}
    assert shipped - compared == set(multi_turn_cases.CATEGORIES)


def test_both_checkers_agree_on_right_and_mutated_answers(wheel: Path) -> None:
    report = compare(wheel, seed=3, limit=2, n_literals=500)
    assert report.differences == []
    assert report.other_error_types == 0
    assert report.total("right answers") > 150
    assert report.total("mutated") > 1_500


def test_a_looser_rule_for_final_answers_is_found_out(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inside_words_too(answer: str, acceptable: Sequence[str]) -> Verdict:
        said = standardised_answer(answer)
        return Verdict(any(standardised_answer(option) in said for option in acceptable))

    monkeypatch.setattr(parity, "check_answer", inside_words_too)
    assert compare(wheel, seed=3, limit=5, n_literals=0).differences


@pytest.mark.parametrize(
    "broken",
    [
        lambda verdict, _: dataclasses.replace(verdict, valid=True),
        lambda verdict, _: dataclasses.replace(verdict, valid=False),
        lambda verdict, calls: dataclasses.replace(verdict, valid=verdict.valid or not calls),
    ],
)
def test_the_comparison_bites(wheel: Path, monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    """A checker that is wrong in one way is found out."""

    def wrong_checker(functions: Any, calls: Any, *arguments: Any, **named: Any) -> Any:
        return broken(check_calls(functions, calls, *arguments, **named), calls)

    monkeypatch.setattr(parity, "check_calls", wrong_checker)
    assert compare(wheel, limit=1, n_literals=0).differences


def test_an_exception_of_the_original_must_be_explained_and_be_wrong_for_us() -> None:
    report = Report()
    report.add(
        "multiple", "value: huge", [None, "OverflowError: int too large to convert to float"], (False, ""), 0
    )
    assert report.differences == []
    report.add(
        "multiple", "value: huge", [None, "OverflowError: int too large to convert to float"], (True, ""), 0
    )
    report.add("multiple", "value: huge", [None, "KeyError: 'type'"], (False, ""), 0)
    assert len(report.differences) == 2
    assert explanation("KeyError: 'type'") is None
    assert "differences" in table(report.by_category, "category").splitlines()[0]


def test_random_literals_repeat_with_their_seed() -> None:
    first, second = (list(random_literals("java", 50, random.Random(5))) for _ in range(2))
    assert first == second


def original_documents(wheel: Path) -> Any:
    """The original's preparation of function documents, cut out of a module that imports much else."""
    wanted = ("_get_language_specific_hint", "_func_doc_language_specific_pre_processing", "is_java", "is_js")
    module = ast.parse((wheel / "bfcl_eval" / "utils.py").read_text(encoding="utf-8"))
    module.body = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    names: dict[str, Any] = {"json": json}
    exec(compile(module, "bfcl_eval/utils.py", "exec"), names)
    return names["_func_doc_language_specific_pre_processing"]


def test_models_are_told_of_functions_as_the_original_does(wheel: Path) -> None:
    prepare, folder = original_documents(wheel), data_folder(wheel)
    n_documents = 0
    for category in CATEGORIES:
        for question in load_questions(folder, category):
            told = [told_function(function, language(category)) for function in question.functions]
            assert told == prepare(copy.deepcopy(list(question.functions)), category), question.id
            n_documents += len(told)
    assert n_documents == 8_726


# -- disputed items -----------------------------------------------------------------------------------------


def out_of_reach(question: Question) -> Iterator[str]:
    """Yield the parameters for which no value that keeps to the schema is acceptable, and that are demanded."""
    tools = {tool.name: tool for tool in told_tools(question)}
    functions = {function["name"]: function for function in question.functions}
    for entry in question.answer or ():
        ((name, acceptable),) = entry.items()
        schemas = tools[name].parameters["properties"]
        required = tools[name].parameters.get("required", ())
        for parameter, values in acceptable.items():
            if ("" in values and parameter not in required) or parameter not in schemas:
                continue
            declared, schema = functions[name]["parameters"]["properties"][parameter], schemas[parameter]
            given = [literal(value, declared, language(question.category)) for value in variants(values)]
            # Text is compared loosely, so another spelling that is in the enum will do.
            loose = {standardised(value) for value in given if isinstance(value, str)}
            given += [value for value in schema.get("enum", ()) if standardised(str(value)) in loose]
            if not any(Draft202012Validator(schema).is_valid(value) for value in given):
                yield parameter


def test_unreachable_items_are_those_without_any_right_answer(questions: dict[str, Question]) -> None:
    found = {
        question.id
        for question in questions.values()
        if not any(judged_right(question, calls) for _, calls in renderings(question))
    }
    # Empty text for a required parameter is acceptable there, which no rendering gives.
    assert found - {"live_multiple_507-149-4"} == set(UNREACHABLE)


def test_items_against_their_schema_are_those_found_by_validation(questions: dict[str, Question]) -> None:
    found = {question.id for question in questions.values() if any(out_of_reach(question))}
    assert found - set(UNREACHABLE) == set(AGAINST_SCHEMA)


def test_all_disputed_and_mended_items_exist_and_are_told_apart(questions: dict[str, Question]) -> None:
    assert set(DISPUTED) | set(MENDED) <= set(questions)
    assert not set(DISPUTED) & set(MENDED)
    assert len(DISPUTED) == len(UNREACHABLE) + len(AGAINST_SCHEMA) + len(CONTESTED)


def test_mended_items_are_right_as_their_questions_now_stand(questions: dict[str, Question]) -> None:
    for item in MENDED:
        assert judged_right(questions[item], first_rendering(questions[item]))
    for item in ("live_simple_137-90-0", "live_simple_138-91-0"):
        assert "London" in questions[item].messages[-1]["content"]
    assert [len(questions[item].answer or ()) for item in ("parallel_84", "parallel_158")] == [3, 4]


def test_the_contested_key_depends_on_the_order_of_calls(questions: dict[str, Question]) -> None:
    question = questions["parallel_178"]
    calls = first_rendering(question)
    assert judged_right(question, calls)
    assert not judged_right(question, calls[::-1])
