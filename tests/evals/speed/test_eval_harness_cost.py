"""The benchmark of the evaluation harness: three ways do the same work; their differences are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="needs inspect-ai (extra `evals`)")

from evals.harness import suite
from evals.speed import eval_harness
from evals.speed.eval_harness import INSPECT, LOOP, OURS, Cost, measure, to_result


@pytest.fixture(autouse=True)
def known_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.SUITES, eval_harness.NAME, "evals.speed.eval_harness:SUITE")


def test_every_way_completes_and_scores_every_case(tmp_path: Path) -> None:
    assert [run(3, tmp_path / str(n)) for n, run in enumerate(eval_harness.WAYS.values())] == [3, 3, 3]


def test_the_hand_written_task_scores_as_our_suite_does(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    right: dict[str, list[str]] = {}
    for way in (OURS, INSPECT):
        eval_harness.WAYS[way](44, tmp_path / way)
        (path,) = (tmp_path / way).rglob("*.eval")
        samples = read_eval_log(str(path)).samples or []
        right[way] = [str(s.id) for s in samples for score in (s.scores or {}).values() if score.value == 1.0]
    assert right == {OURS: ["case 42"], INSPECT: ["case 42"]}


def test_a_lost_case_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(eval_harness.WAYS, LOOP, lambda n_cases, folder: n_cases - 1)
    with pytest.raises(RuntimeError, match="plain loop lost cases: 4 of 5"):
        measure(LOOP, 5)


def test_what_is_reported_is_the_difference_at_the_largest_size() -> None:
    costs = {
        OURS: {10: Cost(9.0, 20.0), 800: Cost(5.0, 8.0)},
        INSPECT: {10: Cost(6.0, 7.0), 800: Cost(4.0, 4.5)},
        LOOP: {10: Cost(0.5, 0.5), 800: Cost(0.25, 0.25)},
    }
    result = to_result(costs, 3)
    assert [figure.value for figure in result.figures] == [4.75, 1.0, 7.75]
    assert result.comparisons[0].values == {OURS: 5.0, INSPECT: 4.0, LOOP: 0.25}
    assert result.curves[0].lines[OURS] == (9.0, 5.0)
    assert result.curves[0].ours in result.curves[0].lines
