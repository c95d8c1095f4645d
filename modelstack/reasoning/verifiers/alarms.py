"""What is raised where a reward can be had without the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Alarm:
    """A finding."""

    kind: str
    """`canary` or `canary prompt`."""
    what: str
    """Which verifier, item and completion, with the numbers."""


class RewardHacked(RuntimeError):
    """A verifier rewarded what cannot be right; training on would teach the hack."""

    def __init__(self, alarm: Alarm) -> None:
        """Keep the finding."""
        super().__init__(f"{alarm.kind}: {alarm.what}")
        self.alarm = alarm


OnAlarm = Callable[[Alarm], None]


def stop(alarm: Alarm) -> NoReturn:
    """Raise the alarm; what is done where nothing else is asked for.

    Raises:
        RewardHacked: Always.
    """
    raise RewardHacked(alarm)
