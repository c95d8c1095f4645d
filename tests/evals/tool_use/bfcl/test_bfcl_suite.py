"""BFCL as a suite: cases, requests, scores and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings
from agentkit.testing import FunctionModel
from evals.case import Case, Run, Score, run_from_json, run_to_json
from evals.harness.suite import find_suite
from evals.tool_use.bfcl import tables as tables_module
from evals.tool_use.bfcl.suite import SUITE, conversation
from evals.tool_use.bfcl.tables import aggregate

FUNCTION = {
    "name": "geo.area",
    "description": "Area.",
    "parameters": {
        "type": "dict",
        "properties": {"side": {"type": "float", "description": "Side."}},
        "required": ["side"],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data files with one question each of three categories."""
    for category in ("simple_python", "irrelevance", "live_relevance"):
        row = {
            "id": f"{category}_0",
            "question": [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Area of 3?"}]],
            "function": [FUNCTION],
        }
        (tmp_path / f"BFCL_v4_{category}.json").write_text(json.dumps(row), encoding="utf-8")
    key = {"id": "simple_python_0", "ground_truth": [{"geo.area": {"side": [3.0]}}]}
    (tmp_path / "possible_answer").mkdir()
    (tmp_path / "possible_answer" / "BFCL_v4_simple_python.json").write_text(json.dumps(key), encoding="utf-8")
    return tmp_path


def load(folder: Path, **options: str) -> list[Case]:
    given = {"data": str(folder), "categories": "simple_python,irrelevance,live_relevance", **options}
    return list(SUITE.load(given))


async def solved(case: Case, parts: Sequence[Any], settings: ModelSettings, *, grammar: bool = True) -> Any:
    """The run of a case, with what the model was asked."""
    asked: list[Any] = []

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        asked.append((tuple(messages), parameters))
        return ModelResponse(tuple(parts))

    model = FunctionModel(reply, profile=ModelProfile(grammar=grammar))
    return await SUITE.solve(case, model, settings), *asked[0]


def run_of(case: Case, *calls: tuple[str, str], **fields: Any) -> Run:
    response = ModelResponse(tuple(ToolCallPart(name, arguments) for name, arguments in calls))
    return Run(case.id, fields.pop("status", "completed"), (response,), **fields)


def test_the_suite_is_found_by_name() -> None:
    assert find_suite("bfcl") is SUITE


def test_cases_carry_what_solver_and_scorer_need_as_json(folder: Path) -> None:
    cases = load(folder)
    assert [(case.id, case.group) for case in cases] == [
        ("simple_python_0", "simple_python"),
        ("irrelevance_0", "irrelevance"),
        ("live_relevance_0", "live_relevance"),
    ]
    assert cases[0].target == [{"geo.area": {"side": [3.0]}}]
    assert cases[1].target is None
    json.dumps([[case.target, dict(case.data)] for case in cases])


def test_unknown_options_are_refused(folder: Path) -> None:
    for options, message in (
        ({"categorys": "all"}, "nearest: 'categories'"),
        ({"tool_choice": "always"}, "must be one of auto, required"),
        ({"dots": "no"}, "must be one of keep, underscore"),
    ):
        with pytest.raises(UserError, match=message):
            load(folder, **options)


@pytest.mark.anyio
async def test_one_request_is_made_with_the_conversation_and_the_tools(folder: Path) -> None:
    case = load(folder, tool_choice="required")[0]
    run, messages, parameters = await solved(case, [ToolCallPart("geo.area", '{"side":3}')], ModelSettings(seed=1))
    assert messages == (ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("Area of 3?"))),)
    (tool,) = parameters.tools
    assert tool.name == "geo.area"
    assert tool.parameters_json_schema["properties"]["side"]["type"] == "number"
    assert parameters.tool_choice == "required"
    assert parameters.settings == ModelSettings(seed=1, max_tokens=512, stop=(" ", "\n"))
    assert SUITE.score(case, run_from_json(run_to_json(run))).value == 1.0


@pytest.mark.anyio
async def test_settings_take_precedence_and_no_stop_is_sent_without_a_grammar(folder: Path) -> None:
    settings = ModelSettings(max_tokens=9, tool_choice="auto")
    case = load(folder, tool_choice="required")[0]
    _, _, parameters = await solved(case, [TextPart("No")], settings, grammar=False)
    assert parameters.settings == settings
    assert parameters.tool_choice == "auto"


def test_a_conversation_keeps_its_turns() -> None:
    roles = ("system", "user", "user", "assistant", "user")
    said = conversation([{"role": role, "content": str(i)} for i, role in enumerate(roles)])
    assert said == (
        ModelRequest((SystemPromptPart("0"), UserPromptPart("1"), UserPromptPart("2"))),
        ModelResponse((TextPart("3"),)),
        ModelRequest((UserPromptPart("4"),)),
    )


@pytest.mark.parametrize(
    ("calls", "simple", "irrelevant", "relevant"),
    [
        ([("geo.area", '{"side": 3}')], 1, 0, 1),
        ([("geo.area", '{"side": 4}')], 0, 0, 1),
        ([("geo_area", '{"side": 3}')], 0, 0, 1),
        ([], 0, 1, 0),
        ([("geo.area", '{"side": 3')], 0, 1, 0),  # does not decode: no call
        ([("geo.area", "[3]")], 0, 1, 0),
        ([("geo.area", '{"side": 3}'), ("geo.area", "{")], 0, 1, 0),
        ([("geo.area", '{"side": %s}' % ("[" * 100_000))], 0, 1, 0),
        ([("geo.area", '{"side": %s}' % ("1" * 10_000))], 0, 1, 0),  # more digits than are read
        ([("geo.area", '{"side": ' + "[" * 900 + "]" * 900 + "}")], 0, 0, 1),
    ],
)
def test_a_reply_is_scored_by_its_calls(
    folder: Path, calls: Sequence[tuple[str, str]], simple: int, irrelevant: int, relevant: int
) -> None:
    scores = [SUITE.score(case, run_of(case, *calls)) for case in load(folder)]
    assert [score.value for score in scores] == [simple, irrelevant, relevant]
    assert all(score.explanation for score in scores if not score.value)
    assert all(len(score.explanation) <= 2_000 for score in scores)


def test_an_error_is_a_failure_even_where_no_call_is_right(folder: Path) -> None:
    case = load(folder)[1]
    assert SUITE.score(case, Run(case.id, "failed", error="no server")).value == 0.0
    assert SUITE.score(case, Run(case.id, "timed_out", error="300 s")).value == 0.0
    assert SUITE.score(case, Run(case.id, "abstained", (ModelResponse((), abstained=True),))).value == 1.0


def test_names_told_with_underscores_are_scored_so(folder: Path) -> None:
    case = load(folder, dots="underscore")[0]
    assert case.data["tools"][0]["name"] == "geo_area"
    assert SUITE.score(case, run_of(case, ("geo_area", '{"side": 3}'))).value == 1.0
    assert SUITE.score(case, run_of(case, ("geo.area", '{"side": 3}'))).value == 0.0


def scored(category: str, values: Sequence[float], **fields: Any) -> list[tuple[Case, Run, Score]]:
    made: list[tuple[Case, Run, Score]] = []
    for i, value in enumerate(values):
        case = Case(f"{category}_{i}", "", category)
        made.append((case, run_of(case, **fields), Score(value, "" if value else "value_error:others: x is 1")))
    return made


def test_tables_report_with_and_without_disputed_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "DISPUTED", {"simple_python_0": "wrong key"})
    assert SUITE.tables is not None
    by_category, errors = SUITE.tables(scored("simple_python", [0, 1, 1, 0], wall_s=2.0))
    row = dict(zip(by_category.columns, by_category.rows[0], strict=True))
    assert row["n"] == "4"
    assert row["accuracy"] == "0.500"
    assert row["disputed"] == "1"
    assert row["accuracy without"] == "0.667"
    assert row["s/case"] == "2.00"
    assert errors.rows == (("value_error:others", "2", "2"),)


def test_aggregates_are_shown_only_where_all_their_categories_are_present() -> None:
    assert SUITE.tables is not None
    live = [
        *scored("live_simple", [1, 1]),
        *scored("live_multiple", [1, 0, 0, 0, 0, 0]),
        *scored("live_parallel", [1]),
    ]
    assert len(SUITE.tables(live)) == 2
    _, aggregates, _ = SUITE.tables([*live, *scored("live_parallel_multiple", [0])])
    (row,) = aggregates.rows
    assert row[:3] == ("live AST", "10", "0.400")  # by number of items


def test_non_live_is_a_mean_of_means_with_the_interval_of_its_parts() -> None:
    weights = tables_module.AGGREGATES[0].weights
    assert math.isclose(sum(weights.values()), 1.0)
    scores = {category: [1.0, 0.0] if category == "parallel" else [1.0] * 50 for category in weights}
    interval = aggregate(weights, scores)
    assert math.isclose(interval.value, 0.875)
    assert 0.7 < interval.low < interval.value < interval.high <= 1.0
    assert interval.n == 252


def test_random_names_stand_in_tools_and_key_alike_and_say_nothing(folder: Path) -> None:
    case, *_ = load(folder, categories="simple_python", names="random")
    (tool,) = case.data["tools"]
    (parameter,) = tool["parameters"]["properties"]
    assert tool["parameters"]["required"] == [parameter]
    assert tool["description"].startswith("Area.")
    assert case.target == ({tool["name"]: {parameter: [3.0]}},)
    assert {"geo.area", "side"}.isdisjoint({tool["name"], parameter})
    assert SUITE.score(case, run_of(case, (tool["name"], json.dumps({parameter: 3.0})))).value == 1.0
    again, *_ = load(folder, categories="simple_python", names="random")
    assert again.data["tools"] == case.data["tools"]


def test_a_question_without_its_right_function_wants_an_abstention(tmp_path: Path) -> None:
    other = {**FUNCTION, "name": "geo.volume"}
    row = {"id": "multiple_0", "question": [[{"role": "user", "content": "Area?"}]], "function": [FUNCTION, other]}
    alone = {**row, "id": "multiple_1", "function": [FUNCTION]}
    rows = "\n".join(json.dumps(each) for each in (row, alone))
    (tmp_path / "BFCL_v4_multiple.json").write_text(rows, encoding="utf-8")
    keys = [{"id": f"multiple_{i}", "ground_truth": [{"geo.area": {"side": [3.0]}}]} for i in (0, 1)]
    (tmp_path / "possible_answer").mkdir()
    path = tmp_path / "possible_answer" / "BFCL_v4_multiple.json"
    path.write_text("\n".join(map(json.dumps, keys)), encoding="utf-8")
    (case,) = load(tmp_path, categories="multiple", gold="removed")
    assert case.id == "multiple_0-removed"
    assert [tool["name"] for tool in case.data["tools"]] == ["geo.volume"]
    assert SUITE.score(case, run_of(case, ("geo.volume", '{"side": 3}'))).value == 0.0
    abstained = SUITE.score(case, Run(case.id, "abstained", (ModelResponse((), abstained=True),)))
    assert abstained.value == 1.0
    assert abstained.numbers == {"abstained": 1.0}
