"""Whole conversations through the agent loop, the solver and the scorer, with models that follow a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agentkit.errors import ModelConnectionError, UserError
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from agentkit.testing import FunctionModel, ScriptedModel
from agentkit.testing.models import call
from evals.case import Case, Run, Score, run_from_json, run_to_json
from evals.harness.suite import find_suite
from evals.tool_use.bfcl.disputed import MULTI_TURN_DISPUTED
from evals.tool_use.bfcl.multi_turn_calls import named_arguments, parse_turns
from evals.tool_use.bfcl.multi_turn_cases import ADDED_FUNCTIONS_PROMPT, CATEGORIES
from evals.tool_use.bfcl.multi_turn_suite import SUITE, load
from evals.tool_use.bfcl.wheel import cached_wheel_folder
from modelstack.toolcalls.grammar.dialects import bfcl_tool

pytestmark = pytest.mark.anyio
EVERY = 40
"""Five cases of each category."""


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    if cached_wheel_folder() is None:
        pytest.skip("needs the bfcl-eval wheel in the cache; any run of the suite fetches it")
    pytest.importorskip("mpmath", reason="BFCL's arithmetic needs mpmath")
    return load({})


def reference_script(case: Case, *, together: bool = False) -> list[Any]:
    """The key as a script: each call in a response of its own, or those of a turn together; then an answer."""
    functions = [*case.data["functions"], *(function for turn in case.data["turns"] for function in turn["added"])]
    parameters = {function["name"]: list(function["parameters"]["properties"]) for function in functions}
    script: list[Any] = []
    for turn in parse_turns(case.target):
        calls = [call(c.name, **named_arguments(c, parameters[c.name])) for c in turn]
        script += [calls] if together and calls else calls
        script.append("Done.")
    return script


async def solve(case: Case, model: Model) -> Run:
    """Solve, and go through the form in which runs are kept."""
    return run_from_json(run_to_json(await SUITE.solve(case, model, ModelSettings())))


def does_nothing() -> Model:
    return FunctionModel(lambda messages, parameters: ModelResponse((TextPart("I cannot do that."),)))


def test_the_suite_is_found_by_its_name_and_has_all_cases(cases: list[Case]) -> None:
    assert find_suite("bfcl-multi-turn") is SUITE
    assert Counter(case.group for case in cases) == dict.fromkeys(CATEGORIES, 200)
    assert len({case.id for case in cases}) == 800


@pytest.mark.parametrize("category", CATEGORIES)
async def test_the_key_as_a_model_scores_one(cases: list[Case], category: str) -> None:
    for case in [case for case in cases if case.group == category][::EVERY]:
        model = ScriptedModel(reference_script(case))
        run = await solve(case, model)
        model.assert_complete()

        score = SUITE.score(case, run)
        assert (score.value, score.numbers["turns_right"]) == (1.0, 1.0), (case.id, score.explanation)
        assert run.status == "completed"


async def test_calls_of_one_response_happen_in_the_order_written(cases: list[Case]) -> None:
    for case in cases[: 200 : EVERY // 2]:
        run = await solve(case, ScriptedModel(reference_script(case, together=True)))

        assert SUITE.score(case, run).value == 1.0, case.id


@pytest.mark.slow
async def test_every_key_over_held_back_functions_is_reached_but_for_one_that_calls_them_early(
    cases: list[Case],
) -> None:
    held_back = [case for case in cases if case.group == "multi_turn_miss_func"]
    wrong = {
        case.id
        for case in held_back
        if SUITE.score(case, await solve(case, ScriptedModel(reference_script(case, together=True)))).value != 1.0
    }
    assert (len(held_back), wrong) == (200, {"multi_turn_miss_func_49"})


@pytest.mark.parametrize("category", CATEGORIES)
async def test_a_model_that_does_nothing_scores_zero(cases: list[Case], category: str) -> None:
    for case in [case for case in cases if case.group == category][::EVERY]:
        run = await solve(case, does_nothing())
        score = SUITE.score(case, run)

        assert score.value == 0.0
        assert "no call was made" in score.explanation
        if not all(case.target):
            assert score.numbers["kept_still"] == 1.0


async def test_functions_held_back_appear_in_their_turn_with_the_original_message(cases: list[Case]) -> None:
    case = next(case for case in cases if case.group == "multi_turn_miss_func")
    added_in = next(index for index, turn in enumerate(case.data["turns"]) if turn["added"])
    hidden = {function["name"] for function in case.data["turns"][added_in]["added"]}
    model = ScriptedModel(["Nothing."] * len(case.target))
    await solve(case, model)

    for index, request in enumerate(model.calls):
        assert hidden <= {tool.name for tool in request.parameters.tools} if index >= added_in else True
        assert hidden.isdisjoint({tool.name for tool in request.parameters.tools}) if index < added_in else True
    last = model.calls[added_in].messages[-1]
    assert isinstance(last, ModelRequest)
    assert last.parts == (UserPromptPart(ADDED_FUNCTIONS_PROMPT),)


async def test_a_function_that_is_not_offered_is_refused_and_changes_nothing(cases: list[Case]) -> None:
    case = cases[0]
    script = reference_script(case)
    run = await solve(case, ScriptedModel([call("format_disk"), *script]))

    assert run.observed["turns"][0]["n_refused"] == 1
    assert all(made["name"] != "format_disk" for made in run.observed["turns"][0]["calls"])
    assert SUITE.score(case, run).value == 1.0


async def test_wrong_arguments_reach_the_simulator_whose_words_the_model_reads(cases: list[Case]) -> None:
    case = cases[0]
    run = await solve(case, ScriptedModel([call("cd", folder=7), call("cd", path="x"), *reference_script(case)]))

    texts = [made["result"] for made in run.observed["turns"][0]["calls"][:2]]
    assert "Error during execution" in texts[1]
    assert SUITE.score(case, run).value == 1.0


@pytest.mark.parametrize("arguments", ['{"folder": NaN}', '{"folder": "\\ud800"}', "[1]", "{", "[" * 100_000])
async def test_arguments_that_no_record_could_hold_are_refused(cases: list[Case], arguments: str) -> None:
    case = cases[0]
    run = await solve(case, ScriptedModel([ToolCallPart("cd", arguments), *reference_script(case)]))

    assert run.observed["turns"][0]["n_refused"] == 1
    assert SUITE.score(case, run).value == 1.0


async def test_a_turn_that_runs_out_of_steps_ends_the_conversation_and_fails(cases: list[Case]) -> None:
    def goes_on(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        return ModelResponse((call("pwd"),) if parameters.callable_tools else (TextPart("Enough."),))

    case = replace(cases[0], data={**cases[0].data, "max_steps_per_turn": 3})
    run = await solve(case, FunctionModel(goes_on))
    score = SUITE.score(case, run)

    assert run.status == "limit_reached"
    assert [len(turn["calls"]) for turn in run.observed["turns"]] == [4]
    assert (score.value, score.explanation) == (0.0, "turn 1 did not end within the steps allowed")


async def test_a_turn_may_take_as_many_steps_as_the_original_allows(cases: list[Case]) -> None:
    case = cases[0]
    script = reference_script(case)
    n_calls = script.index("Done.")
    patient = [call("pwd")] * (20 - n_calls)

    assert SUITE.score(case, await solve(case, ScriptedModel([*patient, *script]))).value == 1.0


async def test_a_model_that_fails_leaves_its_turns_and_scores_zero(cases: list[Case]) -> None:
    case = next(case for case in cases if len(case.target) > 2 and all(case.target))
    first_turn = reference_script(case)
    first_turn = first_turn[: first_turn.index("Done.") + 1]
    run = await solve(case, ScriptedModel([*first_turn, ModelConnectionError("gone")]))
    score = SUITE.score(case, run)

    assert (run.status, run.error) == ("failed", "ModelConnectionError: gone")
    assert (score.value, score.explanation) == (0.0, "failed: ModelConnectionError: gone")
    assert score.numbers["turns_right"] == pytest.approx(1 / len(case.target))
    assert len(run.calls) == len(case.target[0])


async def test_a_run_is_scored_again_from_its_record_and_replays_as_it_was(cases: list[Case]) -> None:
    for case in cases[::160]:
        run = await SUITE.solve(case, ScriptedModel(reference_script(case)), ModelSettings())
        again = run_from_json(run_to_json(run))

        assert SUITE.score(case, again) == SUITE.score(case, run)
        assert again.observed["state"] == run.observed["state"]
        assert run.usage.tool_calls == sum(map(len, case.target))


def test_a_case_that_timed_out_is_wrong_and_counted(cases: list[Case]) -> None:
    case = cases[0]
    run = Run(case.id, "timed_out", error="no result after 9 s")
    score = SUITE.score(case, run)

    assert (score.value, score.numbers["turns_right"]) == (0.0, 0.0)
    assert SUITE.tables is not None
    (table,) = SUITE.tables([(case, run, score)])
    assert table.rows == (("base", "1", "0.000 (0.000 to 0.793)", "0", "0.000", "0.000", "-", "1", "0"),)


def test_the_table_reports_with_and_without_disputed_cases(cases: list[Case]) -> None:
    by_id = {case.id: case for case in cases}
    scored = [
        (by_id[case_id], Run(case_id, "completed"), Score(value))
        for case_id, value in (("multi_turn_base_0", 1.0), ("multi_turn_base_173", 0.0))
    ]
    assert SUITE.tables is not None
    (table,) = SUITE.tables(scored)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["right (95 % interval)"].startswith("0.500 ")
    assert (row["disputed"], row["right without"]) == ("1", "1.000")


def key_goes_beyond_what_is_told(case: Case) -> bool:
    """Whether the key calls a function that is not offered yet, or gives arguments that break its schema."""
    tools: dict[str, Any] = {}
    for index, turn in enumerate(parse_turns(case.target)):
        offered = [*(case.data["functions"] if index == 0 else ()), *case.data["turns"][index]["added"]]
        tools |= {document["name"]: bfcl_tool(document).parameters for document in offered}
        for made in turn:
            if made.name not in tools:
                return True
            arguments = named_arguments(made, list(tools[made.name]["properties"]))
            if not Draft202012Validator(tools[made.name]).is_valid(arguments):
                return True
    return False


def test_disputed_cases_are_those_whose_key_goes_beyond_what_a_model_is_told(cases: list[Case]) -> None:
    assert {case.id for case in cases if key_goes_beyond_what_is_told(case)} == set(MULTI_TURN_DISPUTED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"category": "base"}, "no option 'category'; nearest: 'categories'"),
        ({"categories": "bass"}, "'bass' is not known; nearest: 'multi_turn_base'"),
        ({"categories": ","}, "names none"),
        ({"max_steps_per_turn": "0"}, "must be a whole number"),
        ({"data": "/nowhere/at/all"}, "is neither a folder"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(options)


def test_a_folder_without_the_files_is_refused_with_their_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no multi-turn category, for example BFCL_v4_multi_turn_base.json"):
        load({"data": str(tmp_path)})
