"""A stricter verifier that is never trained on, beside the one that is: a gap that grows is a hack being learnt.

A sample of the completions is judged by both. The alarm comes where the training reward is above the held-out one
by more than is allowed, with 95 % confidence (one-sided, normal) over a window; an honest policy moves both
together. (Goodhart's law in numbers: Gao et al. 2022, "Scaling Laws for Reward Model Overoptimization", arXiv
2210.10760.)
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.alarms import Alarm, OnAlarm, stop
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier

Z_95 = 1.645
"""Standard errors that a normal variable stays below 95 times of 100."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The mean difference of two verifiers over a window."""

    n: int
    training: float
    held_out: float
    lower: float
    """Of training above held-out, with 95 % confidence; -inf below two samples."""


class HeldOutWatch:
    """Compares rewards with those of the held-out verifier; feed it with every training reward."""

    def __init__(
        self,
        held_out: Verifier[Any],
        *,
        largest_gap: float = 0.1,
        share: float = 0.1,
        window: int = 500,
        least: int = 50,
        seed: int = 0,
        on_alarm: OnAlarm = stop,
    ) -> None:
        """Take the verifier and when it is time to worry.

        Args:
            held_out: Stricter, on the same scale, by other means where possible.
            largest_gap: Of mean rewards, that strictness alone explains.
            share: Of completions that are judged a second time.
            window: Latest samples that count.
            least: Samples before an alarm.
            seed: Of the sampling.
            on_alarm: What is done at a finding; the window then starts anew.

        Raises:
            UserError: A share or a number is out of its range.
        """
        if not 0 < share <= 1 or not 2 <= least <= window:
            raise UserError(f"share={share}, least={least}, window={window}: 0 < share <= 1, 2 <= least <= window")
        self._held_out, self._largest_gap, self._share, self._least = held_out, largest_gap, share, least
        self._pairs: deque[tuple[float, float]] = deque(maxlen=window)
        self._random = random.Random(seed)
        self._on_alarm = on_alarm

    def see(self, item: Item[Any], completion: Completion, reward: Reward) -> None:
        """Take a training reward, and judge the completion again where it is drawn."""
        if reward.value is None or self._random.random() >= self._share:
            return
        judged = self._held_out.score(item, completion)
        if judged.value is None:
            return
        self._pairs.append((reward.value, judged.value))
        gap = self.gap()
        if gap.n >= self._least and gap.lower > self._largest_gap:
            self._pairs.clear()
            what = (
                f"training {gap.training:.3f}, held out {gap.held_out:.3f} over {gap.n} completions: at least "
                f"{gap.lower:.3f} apart, {self._largest_gap:g} allowed; last {item.id!r}: "
                f"{completion.text[:200]!r}"
            )
            self._on_alarm(Alarm("gap", what))

    def gap(self) -> Gap:
        """Return the difference over the window."""
        n = len(self._pairs)
        if n == 0:
            return Gap(0, 0.0, 0.0, -math.inf)
        training, held_out = (sum(pair[side] for pair in self._pairs) / n for side in (0, 1))
        if n == 1:
            return Gap(n, training, held_out, -math.inf)
        mean = training - held_out
        variance = sum((left - right - mean) ** 2 for left, right in self._pairs) / (n - 1)
        return Gap(n, training, held_out, mean - Z_95 * math.sqrt(variance / n))
