"""The front over tasks is that of GEPA's own package."""

from __future__ import annotations

import random
from collections import Counter

from gepa.gepa_utils import remove_dominated_programs
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.improve.pareto import drawn_parent, front

scores = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n), min_size=1, max_size=6)
)


@settings(max_examples=300, deadline=None)
@given(scores)
def test_the_front_is_that_of_gepa(table: list[list[float]]) -> None:
    n_tasks = len(table[0])
    winners = {
        task: {i for i, row in enumerate(table) if row[task] == max(each[task] for each in table)}
        for task in range(n_tasks)
    }
    means = {i: sum(row) for i, row in enumerate(table)}
    # Candidates of equal means are taken in the order of a set of small integers, as in ours.
    theirs = remove_dominated_programs(winners, scores=means)
    counts = Counter(i for names in theirs.values() for i in names)
    assert sum(front(table).values()) >= n_tasks
    if len(set(means.values())) == len(means):
        assert front(table) == dict(counts)


def test_a_candidate_that_alone_solves_a_task_stays_although_its_mean_is_low() -> None:
    assert front([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]) == {0: 2, 1: 1}


def test_a_parent_is_drawn_in_proportion_to_its_tasks() -> None:
    draw = random.Random(0)
    drawn = Counter(drawn_parent({0: 3, 4: 1}, draw) for _ in range(4_000))
    assert set(drawn) == {0, 4} and 2_850 < drawn[0] < 3_150
