"""The suite: what is sent, how it is scored, and what the tables say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkit import LocalModel
from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelResponse, SystemPromptPart, TextPart
from agentkit.models.base import ModelRequestParameters, ModelSettings
from agentkit.testing import FunctionModel, ScriptedModel
from evals.case import Case, Run, Score, run_from_json, run_to_json
from evals.harness.suite import find_suite
from evals.structured_output.reading import Item
from evals.structured_output.scoring import figures_of, score
from evals.structured_output.solving import instruction, output_schema, solve
from evals.structured_output.suite import SUITE, load, to_case
from evals.structured_output.tables import tables

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
ITEM = Item("1", "Oslo for 3 days", SCHEMA, "own", "MIT", True, {"city": "Oslo", "days": 3})
SETTINGS = ModelSettings(max_tokens=60)


def case(mode: str = "grammar", **changes: Any) -> Case:
    item = {name: getattr(ITEM, name) for name in Item.__dataclass_fields__} | changes
    return to_case(Item(**item), mode)


def answered(text: str | None, the_case: Case) -> Run:
    return Run(the_case.id, "completed", output=text)


def test_the_suite_is_found_by_its_name() -> None:
    assert find_suite("structured-output") is SUITE


def test_each_item_comes_once_a_mode_with_ids_that_do_not_depend_on_the_mode_chosen() -> None:
    both = load({})
    assert len(both) == 50
    assert [c.id for c in both[:2]] == ["contact:grammar", "contact:free"]
    assert load({"mode": "free"}) == both[1::2]
    assert len({c.id for c in both}) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "strict"}, "one of grammar, free, both"),
        ({"file": "x"}, "no option 'file'"),
        ({"data": "/does/not/exist.jsonl"}, "is missing"),
        ({"sample": "half"}, "sample='half' is not a whole number"),
        ({"sample": "0"}, "at least 1"),
        ({"sample": "3", "sample_seed": "x"}, "sample_seed='x'"),
        ({"sample_seed": "1"}, "give sample=N"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(options)


def test_a_sample_is_the_same_pairs_for_the_same_seed_in_the_order_of_the_file() -> None:
    everything, sample = load({}), load({"sample": "5"})
    assert sample == load({"sample": "5", "sample_seed": "0"}) == [c for c in everything if c in sample]
    assert [c.data["mode"] for c in sample] == ["grammar", "free"] * 5
    assert len({c.data["item"] for c in sample}) == 5
    assert sample != load({"sample": "5", "sample_seed": "1"})
    assert load({"sample": "1000"}) == everything


@pytest.mark.anyio
async def test_both_modes_send_the_same_words_and_only_the_grammar_differs() -> None:
    sent: list[tuple[Sequence[ModelMessage], ModelRequestParameters]] = []

    def model(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        sent.append((messages, parameters))
        return ModelResponse((TextPart('{"city": "Oslo", "days": 3}'),))

    for mode in ("grammar", "free"):
        run = await solve(case(mode), FunctionModel(model), SETTINGS)
        assert score(case(mode), run_from_json(run_to_json(run))).value == 1.0
    (words_with, with_grammar), (words_without, without) = sent
    assert words_with == words_without
    assert SystemPromptPart(instruction(SCHEMA)) in words_with[0].parts
    assert with_grammar.output is not None and with_grammar.output.json_schema == SCHEMA
    assert without.output is None


@pytest.mark.anyio
async def test_a_schema_that_is_no_objects_is_wrapped_and_the_answer_unwrapped() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}
    the_case = case(schema=schema, expected=[1, 2])
    model = ScriptedModel(['{"result": [1, 2]}'])
    run = await solve(the_case, model, SETTINGS)
    asked = model.calls[0].parameters.output
    assert asked is not None and asked.wrapped
    assert asked.json_schema["$defs"] == schema["$defs"]
    assert score(the_case, run).value == 1.0
    free = case("free", schema=schema, expected=[1, 2])
    assert score(free, answered("[1, 2]", free)).value == 1.0
    assert figures_of(free, answered('{"result": [1, 2]}', free))["valid"] == 0.0


def test_strict_and_lenient_readings_are_scored_apart() -> None:
    the_case = case("free")
    run = answered('Sure:\n```json\n{"city": "oslo", "days": 3}\n```', the_case)
    assert score(the_case, run).value == 0.0
    figures = figures_of(the_case, run)
    assert (figures["parses"], figures["exact"]) == (0.0, 0.0)
    assert (figures["parses_lenient"], figures["exact_lenient"]) == (1.0, 1.0)


def test_a_wrong_answer_is_explained_and_gets_credit_for_its_fields() -> None:
    found = score(case(), answered('{"city": "Oslo", "days": 4}', case()))
    assert (found.value, found.numbers["valid"], found.numbers["field_f1"]) == (0.0, 1.0, 0.5)
    assert '"days": 3' in found.explanation
    assert found.answer == '{"city": "Oslo", "days": 4}'
    assert "'city' is a required property" in score(case(), answered("{}", case())).explanation


def test_without_an_expectation_validity_is_the_score() -> None:
    the_case = case(has_expected=False, expected=None)
    run = answered('{"city": "Rome"}', the_case)
    assert score(the_case, run).value == 1.0
    assert score(the_case, run).numbers == {"valid": 1.0}
    assert "exact" not in figures_of(the_case, run)


@pytest.mark.parametrize("status", ["failed", "timed_out"])
def test_a_failed_run_scores_zero_in_every_number(status: Any) -> None:
    run = Run("1:grammar", status, error="boom")
    assert score(case(), run).value == 0.0
    assert score(case(), run).numbers == {"valid": 0.0, "field_f1": 0.0}
    assert figures_of(case(), run) == dict.fromkeys(figures_of(case(), answered("{}", case())), 0.0)


def test_an_empty_answer_is_no_json() -> None:
    assert score(case(), answered(None, case())).value == 0.0


def test_the_tables_compare_the_modes_pair_by_pair() -> None:
    scored: list[tuple[Case, Run, Score]] = []
    for n in range(8):
        for mode, text in (
            ("grammar", '{"city": "Oslo", "days": 3}'),
            ("free", "Oslo" if n < 6 else '{"city": "x"}'),
        ):
            the_case = case(mode, id=str(n))
            run = answered(text, the_case)
            scored.append((the_case, run, score(the_case, run)))
    side_by_side, comparison, sources = tables(scored)
    assert side_by_side.rows[0][:2] == ("parses as JSON", "8")
    assert [cell[:5] for cell in side_by_side.rows[0][2:]] == ["1.000", "0.250", "0.250"]
    assert comparison.rows[0][1:] == ("8", "6", "0", "0.031")
    assert sources.rows == (("own", "MIT", "8", "1.000", "0.250", "1.000", "0.000"),)


def test_tables_of_one_mode_and_of_nothing_leave_the_other_out() -> None:
    the_case = case()
    run = answered("{}", the_case)
    side_by_side, sources = tables([(the_case, run, score(the_case, run))])
    assert side_by_side.rows[0][3:] == ("", "")
    assert sources.rows[0][4] == ""
    assert tables([])[0].rows == ()


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra `evals`)")
    the_case = case()
    run = answered('{"city": "Oslo"}', the_case)
    assert SUITE.plots is not None
    (path,) = SUITE.plots([(the_case, run, score(the_case, run))], tmp_path / "new")
    assert path.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.anyio
async def test_random_weights_under_the_grammar_fit_every_schema_that_it_enforces(tiny_gguf: Path) -> None:
    model = LocalModel(tiny_gguf)
    scored: list[tuple[Case, Run, Score]] = []
    for the_case in load({"mode": "grammar"}):
        run = await solve(the_case, model, ModelSettings(max_tokens=250))
        found = score(the_case, run_from_json(run_to_json(run)))
        figures = figures_of(the_case, run)
        if run.observed["coverage"]["llguidance"]["outcome"] == "enforced":
            assert figures["closed"] == 1.0, (the_case.id, found.explanation)
        assert figures["parses"] == 1.0
        scored.append((the_case, run, found))
    coverage = tables(scored)[2]
    assert [row[:2] for row in coverage.rows] == [("llguidance", "25"), ("lm-format-enforcer", "25")]
    model.close()


@pytest.mark.anyio
async def test_without_the_grammar_a_local_model_may_say_anything(tiny_gguf: Path) -> None:
    model = LocalModel(tiny_gguf)
    run = await solve(case("free"), model, ModelSettings(max_tokens=8))
    assert run.status == "completed"
    assert figures_of(case("free"), run)["valid"] == 0.0
    with pytest.raises(UserError, match="has no grammar"):
        await solve(case(), LocalModel(tiny_gguf, grammar=None), SETTINGS)
    model.close()


@pytest.mark.anyio
async def test_a_schema_that_the_grammar_refuses_is_a_failed_run_that_says_why(tiny_gguf: Path) -> None:
    model = LocalModel(tiny_gguf)
    the_case = case(schema={"type": "object", "properties": {"a": {"$ref": "https://example.org/x.json"}}})
    run = await solve(the_case, model, SETTINGS)
    assert run.status == "failed"
    assert run.observed["coverage"]["llguidance"]["outcome"] == "refused"
    found = tables([(the_case, run, score(the_case, run))])
    assert found[-1].title == "Schemas refused"
    json.dumps(run.observed)
    model.close()


def test_an_objects_schema_is_sent_as_it_is() -> None:
    assert output_schema(SCHEMA).json_schema is SCHEMA
