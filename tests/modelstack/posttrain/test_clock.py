"""A run under a limit of time comes to the end of its schedule when the time does."""

from __future__ import annotations

import pytest

from modelstack.errors import UserError
from modelstack.posttrain.clock import Clock
from modelstack.train.schedules import ScheduleConfig, schedule


class Watch:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


FACTOR = schedule(ScheduleConfig(kind="cosine", total_steps=100, final_factor=0.1))


def test_a_run_that_is_fast_enough_goes_by_its_steps() -> None:
    watch = Watch()
    clock = Clock(FACTOR, 100, minutes=1, now=watch)
    watch.seconds += 20
    assert clock.factor(50) == FACTOR(50)
    assert not clock.is_over


def test_a_run_that_is_too_slow_goes_by_the_clock_to_the_schedules_end() -> None:
    watch = Watch()
    clock = Clock(FACTOR, 100, minutes=1, now=watch)
    watch.seconds += 30
    assert clock.factor(10) == FACTOR(50)
    watch.seconds += 31
    assert clock.is_over
    assert clock.factor(20) == FACTOR(99)


def test_time_of_earlier_processes_counts() -> None:
    watch = Watch()
    clock = Clock(FACTOR, 100, minutes=1, now=watch)
    watch.seconds += 40
    saved = clock.state_dict()
    later = Watch()
    other = Clock(FACTOR, 100, minutes=1, now=later)
    later.seconds += 500  # reading the data is no training
    other.load_state_dict(saved)
    assert other.seconds == 40
    later.seconds += 21
    assert other.is_over


def test_a_limit_of_nothing_is_a_mistake() -> None:
    with pytest.raises(UserError, match="minutes = 0"):
        Clock(FACTOR, 100, minutes=0)
