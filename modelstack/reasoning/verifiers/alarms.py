"""Alarms for rewards given without the task being done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Alarm:
    """Finding of a canary."""

    kind: str
    """Kind of the canary: `canary` or `canary prompt`."""
    what: str
    """Verifier, item and completion, with the rewards."""


class RewardHacked(RuntimeError):
    """Error for a verifier that rewarded an impossible completion; further training would teach the hack."""

    def __init__(self, alarm: Alarm) -> None:
        """Store the finding."""
        super().__init__(f"{alarm.kind}: {alarm.what}")
        self.alarm = alarm


OnAlarm = Callable[[Alarm], None]


def stop(alarm: Alarm) -> NoReturn:
    """Raise the alarm; the default handler.

    Raises:
        RewardHacked: Always.
    """
    raise RewardHacked(alarm)
