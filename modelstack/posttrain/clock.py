"""Limit of the training time: the schedule follows the clock when the clock is ahead of the steps.

A run that is cut off would end at a high learning rate, which costs more than the missing steps. A run that is too
slow for its steps therefore moves faster through its schedule, and reaches the end of the schedule at the limit.
The time of earlier processes counts. Steps that were lost with a killed process do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from modelstack.errors import UserError
from modelstack.train.loop import Run
from modelstack.train.schedules import Factor
from modelstack.train.step import StepReport


class Clock:
    """Hook that measures the seconds of a run, and the schedule that follows them."""

    def __init__(
        self, factor: Factor, n_steps: int, minutes: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock.

        Args:
            factor: The schedule over all steps.
            n_steps: Steps of the schedule.
            minutes: The limit.
            now: Returns a monotonic time in seconds.

        Raises:
            UserError: The limit is not positive.
        """
        if minutes <= 0:
            raise UserError(f"minutes = {minutes}: the limit must be positive; leave it out to train without one")
        self._factor = factor
        self._n_steps = n_steps
        self._limit = 60 * minutes
        self._now = now
        self._before = 0.0
        """Seconds of earlier processes."""
        self._began = now()

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken."""
        return self._before + self._now() - self._began

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self.seconds >= self._limit

    def factor(self, step: int) -> float:
        """Return the factor on the learning rates at a step, given the time so far."""
        by_time = int(min(1.0, self.seconds / self._limit) * self._n_steps)
        return self._factor(max(step, min(by_time, self._n_steps - 1)))

    def after_step(self, run: Run, report: StepReport) -> None:
        """Do nothing: the clock needs no update."""

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the seconds of a checkpoint."""
        self._before = float(state["seconds"])
        self._began = self._now()
