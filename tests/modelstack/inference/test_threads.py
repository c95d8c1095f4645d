"""The choice of thread counts from measurements."""

from __future__ import annotations

import pytest

from modelstack.inference.llama import threads
from modelstack.inference.llama.threads import candidate_counts, fastest_count


def test_cores_are_limited_by_the_variable_that_limits_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    n_cores = threads.available_cores()
    for value, expected in (
        ("1", 1),
        (str(n_cores + 5), n_cores),
        ("", n_cores),
        ("0", n_cores),
        ("2,1", n_cores),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert threads.available_cores() == expected


def test_candidates_go_from_one_up_to_all_cores() -> None:
    assert candidate_counts(1) == [1]
    assert candidate_counts(6) == [1, 2, 4, 6]
    assert candidate_counts(16) == [1, 2, 4, 8, 16]


def test_the_fastest_count_wins() -> None:
    seconds = {1: 5.0, 2: 2.5, 4: 1.5, 8: 1.0, 16: 3.0}
    assert fastest_count(seconds.__getitem__, [1, 2, 4, 8, 16], 60) == 8


def test_fewer_threads_win_where_more_gain_next_to_nothing() -> None:
    seconds = {1: 1.9, 2: 1.05, 4: 1.0}
    assert fastest_count(seconds.__getitem__, [1, 2, 4], 60) == 2


def test_measuring_stops_once_more_threads_do_not_pay() -> None:
    asked: list[int] = []

    def measure(count: int) -> float:
        asked.append(count)
        return float(count)

    assert fastest_count(measure, [1, 2, 4, 8], 60) == 1
    assert asked == [1, 2]


def test_a_large_model_takes_all_cores_after_one_measurement() -> None:
    asked: list[int] = []

    def measure(count: int) -> float:
        asked.append(count)
        return 5.0

    assert fastest_count(measure, [1, 2, 4, 8], 0.2) == 8
    assert asked == [1]
