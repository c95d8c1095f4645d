"""The three conditions of the grammar's worth, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.models.resolve import split_local
from evals.case import Case, Run, Score
from evals.harness.evaluation import Evaluation
from evals.harness.results import Scored, summarise
from evals.tool_use.bfcl.disputed import DISPUTED
from evals.tool_use.bfcl.grammar_worth import CATEGORIES, CONDITIONS, MAX_TOKENS, side_by_side, specification
from evals.tool_use.bfcl.suite import _OPTIONS


def evaluation(condition: int, values: Sequence[tuple[str, str, float]]) -> Evaluation:
    """An evaluation with (id, category, score) for its cases."""
    wanted = specification(CONDITIONS[condition], "local:weights.gguf", limit=len(values), seed=4)
    scored = tuple(
        Scored(Case(case_id, "", category), Run(case_id, "completed", wall_s=2.0), Score(value))
        for case_id, category, value in values
    )
    return Evaluation(wanted, Path("nowhere"), scored, tuple(summarise(scored)), (), (), Path("nowhere"))


def test_conditions_differ_in_the_decoder_and_in_what_is_legal_alone() -> None:
    made = [specification(condition, "local", seed=4) for condition in CONDITIONS]

    assert [each.model for each in made] == ["local?grammar=none", "local", "local?abstain=true"]
    assert [each.options["tool_choice"] for each in made] == ["auto", "required", "auto"]
    for each in made:
        assert (each.suite, each.options["categories"], each.seed) == ("bfcl", CATEGORIES, 4)
        assert (each.temperature, each.max_tokens) == (0.0, MAX_TOKENS)
        assert set(each.options) <= set(_OPTIONS)
        assert split_local(each.model) is not None


def test_options_of_the_model_and_a_folder_of_data_are_kept() -> None:
    made = specification(CONDITIONS[2], "local:a.gguf?lora=b.gguf", limit=8, data="bfcl.whl")

    assert made.model == "local:a.gguf?lora=b.gguf&abstain=true"
    assert (made.limit, made.options["data"]) == (8, "bfcl.whl")


def test_a_model_whose_decoder_is_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match="only a local model"):
        specification(CONDITIONS[0], "openai:large")


@pytest.mark.parametrize("model", ["local?grammar=none", "local:a.gguf?lora=b.gguf&abstain=false"])
def test_a_model_that_sets_what_the_conditions_set_is_refused(model: str) -> None:
    with pytest.raises(UserError, match="the conditions set it"):
        specification(CONDITIONS[1], model)


def test_the_table_has_a_line_for_each_category_and_condition_and_leaves_disputed_items_out_once() -> None:
    assert "parallel_155" in DISPUTED
    right_without = [("simple_python_0", "simple_python", 1.0), ("parallel_155", "parallel", 0.0)]
    more = [*right_without, ("parallel_0", "parallel", 1.0)]
    done = [(CONDITIONS[k], evaluation(k, values)) for k, values in enumerate((right_without, more))]
    table = side_by_side(done)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]

    assert table.title == "BFCL v4 · local:weights.gguf · seed 4 · greedy"
    assert [(row["group"], row["condition"], row["n"]) for row in rows] == [
        ("simple_python", "no-grammar", "1"),
        ("simple_python", "grammar", "1"),
        ("parallel", "no-grammar", "1"),
        ("parallel", "grammar", "2"),
        ("all", "no-grammar", "2"),
        ("all", "grammar", "3"),
    ]
    assert [row["score"] for row in rows] == ["1.000", "1.000", "0.000", "0.500", "0.500", "0.667"]
    assert [row["without disputed"] for row in rows] == ["1.000", "1.000", "", "1.000", "1.000", "1.000"]
    assert rows[2]["95 % interval"] == "0.000 to 0.793"
    assert {row["s/case"] for row in rows} == {"2.00"}
