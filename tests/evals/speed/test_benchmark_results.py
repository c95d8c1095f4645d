"""What the benchmarks hand over, from figures that were not measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from evals.speed import agent_loop
from evals.speed.results import BenchmarkResult, Figure, write_result
from evals.speed.running import read_result


def test_a_result_goes_through_its_file_unchanged(tmp_path: Path) -> None:
    result = agent_loop.to_result({"agentkit": {"10": 0.1, "50": 0.1, "200": 0.1}}, 5)
    write_result(tmp_path / "new" / "result.json", result)
    assert read_result(tmp_path / "new" / "result.json") == result
    write_result(None, result)


def test_bounds_hold_from_either_side() -> None:
    assert Figure("a", 1.0, "ms", bound=1.0).holds is True
    assert Figure("a", 1.1, "ms", bound=1.0).holds is False
    assert Figure("a", 1.1, "x", bound=1.0, bound_kind="at least").holds is True
    assert Figure("a", 1.1, "x").holds is None
    assert [
        f.name for f in BenchmarkResult((Figure("a", 2.0, "ms", bound=1.0), Figure("b", 2.0, "ms"))).broken
    ] == ["a"]


def test_the_agent_loop_reports_bounds_peers_and_growth() -> None:
    figures = {"agentkit": {"10": 0.2, "50": 0.1, "200": 0.1}, "langgraph": {"10": 1.0, "50": 1.0, "200": 2.0}}
    result = agent_loop.to_result(figures, 5)
    assert [(f.value, f.holds) for f in result.figures] == [(0.2, True), (0.5, True)]
    assert result.comparisons[0].values == {"agentkit": 0.1, "langgraph": 2.0}
    assert result.curves[0].x == (10.0, 50.0, 200.0)
    assert result.notes == ("not measured: pydantic-ai, openai-agents, smolagents",)


def test_a_benchmark_without_our_own_figure_promises_nothing() -> None:
    assert agent_loop.to_result({}, 1).figures == ()


def test_prefix_reuse_reports_turn_by_turn() -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    from evals.speed.prefix_reuse import Conversation, Turn, to_result

    def conversation(seconds: float) -> Conversation:
        turns = [Turn(100, 100, 100, 0, seconds), Turn(150, 50, 51, 99, seconds)]
        return Conversation("A", turns=turns)

    result = to_result("A", [conversation(0.1)], [conversation(0.9)], [[0.3, 0.2]])
    assert [f.value for f in result.figures] == [1.0, pytest.approx(9.0)]
    assert all(f.holds for f in result.figures)
    assert result.comparisons[0].values["llama-cpp-python chat call"] == pytest.approx(200.0)
    assert result.curves[0].x == (1.0, 2.0)
    json.dumps(asdict(result))


def test_a_warm_start_promises_a_bound_and_a_ratio() -> None:
    from evals.speed.warm_start import ProcessTimes, WarmStart, to_result

    def process(first_token_s: float, n_restored: int) -> ProcessTimes:
        return ProcessTimes(0.5, 0.4, first_token_s, first_token_s + 0.9, first_token_s, 1000, n_restored, 20, [1])

    result = to_result(WarmStart("m", process(2.0, 0), process(0.1, 980), process(0.16, 980), 23_000_000))
    assert [(f.value, f.holds) for f in result.figures[:2]] == [(0.16, True), (pytest.approx(12.5), True)]
    assert result.figures[3].value == 23.0
    slow = to_result(WarmStart("m", process(2.0, 0), process(0.4, 0), process(0.1, 980), 23_000_000))
    assert [figure.holds for figure in slow.figures[:2]] == [False, False]
