"""Natural requests: gold calls fit the tools shown; the scorer accepts what is right and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.messages import ModelResponse, ToolCallPart
from agentkit.models.base import ModelSettings
from agentkit.testing import ScriptedModel
from evals.case import Case, Run
from evals.harness.suite import find_suite
from evals.tool_use.natural.examples import main
from evals.tool_use.natural.requests import natural_requests
from evals.tool_use.natural.scoring import score
from evals.tool_use.natural.suite import SUITE, load, solve
from modelstack.data.examples import check_example, read_examples
from modelstack.data.tools.everyday_tools import everyday_tools

CASES = load({})


def called(case: Case, *calls: dict[str, Any], status: Any = "completed", text: str | None = None) -> Run:
    parts = tuple(
        ToolCallPart(call["name"], json.dumps(call["arguments"]), f"call_{i}") for i, call in enumerate(calls)
    )
    return Run(case.id, status, messages=(ModelResponse(parts),) if parts else (), output=text)


def case(request_id: str) -> Case:
    return next(c for c in CASES if c.id == request_id)


def test_there_are_as_many_of_each_sort_as_promised() -> None:
    requests = natural_requests()
    assert len(requests) == 307
    assert len({r.id for r in requests}) == 307
    assert 0.24 <= sum(not r.calls for r in requests) / 307 <= 0.26
    assert 0.2 <= sum(len(r.calls) > 1 for r in requests) / 307 <= 0.22
    assert sum(bool(r.system) for r in requests) >= 35


def test_no_tool_is_one_of_those_that_training_data_is_made_from() -> None:
    names = {tool["name"] for request in natural_requests() for tool in request.tools}
    assert not names & {name for tool in everyday_tools() for name in tool.names}


def test_the_halves_are_apart_and_together_all() -> None:
    validation, report = (load({"half": half}) for half in ("validation", "report"))
    ids = [case.id for case in (*validation, *report)]
    assert sorted(ids) == sorted(case.id for case in load({}))
    assert len(set(ids)) == len(ids)
    assert min(len(validation), len(report)) > 140
    with pytest.raises(UserError, match="half='other' of 'natural' must be one of all, validation, report"):
        load({"half": "other"})


def test_the_suite_is_found_by_its_name() -> None:
    assert find_suite("natural") is SUITE


@pytest.mark.parametrize("the_case", CASES, ids=lambda c: c.id)
def test_the_gold_calls_are_right(the_case: Case) -> None:
    assert score(the_case, called(the_case, *reversed(the_case.target))).value == 1
    if the_case.target:
        assert score(the_case, called(the_case, *the_case.target[1:])).value == 0
        assert score(the_case, called(the_case, *the_case.target, the_case.target[0])).value == 0
    else:
        tool = the_case.data["tools"][0]["name"]
        assert score(the_case, called(the_case, {"name": tool, "arguments": {}})).value == 0


def test_numbers_case_spaces_and_defaults_do_not_count() -> None:
    walk = case("kennel-10")
    name = walk.target[0]["name"]
    assert (
        score(walk, called(walk, {"name": name, "arguments": {"pet_name": "pixel ", "portion_g": 80.0}})).value
        == 1
    )
    given = {"pet_name": "Pixel", "portion_g": 80, "times_a_day": 2}
    assert score(walk, called(walk, {"name": name, "arguments": given})).value == 1
    assert score(walk, called(walk, {"name": name, "arguments": given | {"times_a_day": 3}})).value == 0
    assert score(walk, called(walk, {"name": name, "arguments": given | {"portion_g": "80"}})).value == 0
    assert score(walk, called(walk, {"name": name, "arguments": {"pet_name": "Pixel"}})).value == 0


def test_a_flag_is_no_number() -> None:
    swing = case("crane-01")
    arguments = dict(swing.target[0]["arguments"])
    assert (
        score(swing, called(swing, {"name": "crane_swing", "arguments": arguments | {"clockwise": 1}})).value == 0
    )


def test_other_values_that_stand_with_a_request_are_right_too() -> None:
    nebula = case("telescope-01")
    assert (
        score(nebula, called(nebula, {"name": "slew_to", "arguments": {"target": "the Ring Nebula"}})).value == 1
    )
    assert score(nebula, called(nebula, {"name": "slew_to", "arguments": {"target": "M58"}})).value == 0


def test_the_right_tool_with_wrong_values_is_counted_apart() -> None:
    nebula = case("telescope-01")
    judged = score(nebula, called(nebula, {"name": "slew_to", "arguments": {"target": "M58"}}))
    assert judged.numbers == {"tool": 1.0, "first tool": 1.0}
    assert "M57" in judged.explanation


def test_the_first_tool_is_counted_apart() -> None:
    several = next(c for c in CASES if len({call["name"] for call in c.target}) > 1)
    first, *rest = several.target
    assert score(several, called(several, first)).numbers == {"tool": 0.0, "first tool": 1.0}
    assert score(several, called(several, *rest, first)).numbers == {"tool": 1.0, "first tool": 1.0}
    other = next(t["name"] for t in several.data["tools"] if t["name"] not in {c["name"] for c in several.target})
    wrong = called(several, {"name": other, "arguments": {}}, first)
    assert score(several, wrong).numbers == {"tool": 0.0, "first tool": 0.0}
    assert score(several, called(several)).numbers["first tool"] == 0.0


def test_an_explicit_abstention_is_told_from_an_answer_in_words() -> None:
    cough = case("kennel-13")
    assert cough.target == []
    right = {"tool": 1.0, "first tool": 1.0}
    assert score(cough, called(cough, status="abstained")).numbers == {**right, "explicit": 1.0}
    assert score(cough, called(cough, text="Ask a vet.")).numbers == {**right, "explicit": 0.0}
    assert score(cough, called(cough, status="failed")).value == 0


@pytest.mark.anyio
async def test_a_request_goes_out_with_its_tools_and_the_day() -> None:
    the_case = case("kennel-01")
    model = ScriptedModel(
        [ModelResponse((ToolCallPart("board_pet", json.dumps(the_case.target[0]["arguments"]), "c1"),))]
    )
    run = await solve(the_case, model, ModelSettings())
    assert score(the_case, run).value == 1
    assert "Thursday, 2026-03-12" in str(run.messages[0])
    assert the_case.prompt in str(run.messages[0])


def test_all_requests_become_examples_whose_calls_fit_their_tools(tmp_path: Path) -> None:
    main(tmp_path / "natural.jsonl")
    examples = list(read_examples(tmp_path / "natural.jsonl"))
    assert Counter(example.kind for example in examples) == {
        "call": 166,
        "irrelevant": 77,
        "parallel": 37,
        "multi": 27,
    }
    for example, request in zip(examples, natural_requests(), strict=True):
        check_example(example)
        assert [call.model_dump() for call in example.calls] == [dict(call) for call in request.calls]
        assert (example.messages[0].content == request.system) == bool(request.system)
