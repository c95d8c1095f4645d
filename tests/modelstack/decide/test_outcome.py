"""A plan beside its run: only what both have, ratios the right way round."""

import pytest

from modelstack.decide.outcome import Outcome, compare, comparison_table
from modelstack.decide.plan_file import request_of
from modelstack.decide.planner import plan

PLAN = plan(request_of(hours=2, device="h100", vocab_size=32768))


def test_each_figure_stands_beside_what_was_planned() -> None:
    outcome = Outcome(
        n_parameters=PLAN.model.n_parameters,
        n_tokens=PLAN.n_tokens,
        hours=3,
        loss=3.0,
        utilisation=0.2,
        peak_memory_bytes=PLAN.memory.total * 1.25,
    )
    found = {row.name: row for row in compare(PLAN, outcome)}
    assert found["parameters"].ratio == found["tokens"].ratio == 1
    assert found["hours"].ratio == pytest.approx(1.5)
    assert found["USD"].measured == pytest.approx(3 * 2.69)
    assert found["utilisation"].ratio == pytest.approx(0.5)
    assert found["bytes on the fullest device"].ratio == pytest.approx(1.25)
    assert found["loss, hoffmann"].planned == PLAN.expected[1].loss
    assert "| hours | 2 | 3 | 1.500 |" in comparison_table(compare(PLAN, outcome))


def test_what_was_not_measured_is_left_out() -> None:
    outcome = Outcome(n_parameters=1, n_tokens=1, hours=1)
    assert [row.name for row in compare(PLAN, outcome)] == ["parameters", "tokens", "hours", "USD"]
