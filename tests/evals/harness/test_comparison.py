"""Two evaluations side by side: paired by case, nothing dropped in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel
from evals.harness.comparison import compare, comparison_table
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification

SUMS = Specification("sums", "function")


@pytest.fixture
def folders(tmp_path: Path, adder: FunctionModel) -> tuple[Path, Path]:
    """An adder that misses sum_3, and a model that always says 2, over two more cases."""
    two = FunctionModel(lambda messages, parameters: ModelResponse((TextPart("2"),)))
    evaluate(SUMS, tmp_path / "first", model=adder)
    evaluate(replace(SUMS, options={"n": "8"}), tmp_path / "second", model=two)
    return tmp_path / "first", tmp_path / "second"


def test_pairs_are_cases_and_the_rest_is_named(folders: tuple[Path, Path]) -> None:
    comparison = compare(*folders)
    assert comparison.only_in_first == ()
    assert comparison.only_in_second == ("sum_6", "sum_7")
    total = comparison.differences[-1]
    assert (total.group, total.difference.n) == ("all", 6)
    assert (total.first, total.second) == (pytest.approx(5 / 6), pytest.approx(1 / 6))
    assert total.difference.value == pytest.approx(-4 / 6)
    assert total.difference.low < total.difference.value < total.difference.high <= 0
    assert (total.only_first_right, total.only_second_right) == (4, 0)
    assert total.p_value == pytest.approx(2 / 2**4)


def test_a_table_has_a_line_for_each_group(folders: tuple[Path, Path]) -> None:
    table = comparison_table(compare(*folders))
    assert [row[0] for row in table.rows] == ["even", "odd", "all"]
    assert table.rows[-1][1:5] == ("6", "0.833", "0.167", "-0.667")


def test_other_suites_do_not_compare(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    summary = folders[1] / "summary.json"
    summary.write_text(summary.read_text(encoding="utf-8").replace('"suite": "sums"', '"suite": "products"'))
    with pytest.raises(UserError, match="do not compare: suite is 'sums' and 'products'"):
        compare(*folders)


def test_a_folder_without_results_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="summary.json is missing"):
        compare(folders[0], tmp_path)
