"""Samplers of a pool, in a module that Ray's actors can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.posttrain.base import Base
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Asked, Sampled, Sampler


def one_by_one(base: Base) -> Sampler:
    return GroupSampler(TorchPolicy(base.model), frozenset({1}), max_tokens=10, one_by_one=True)


def together(base: Base) -> Sampler:
    return GroupSampler(TorchPolicy(base.model), frozenset({1}), max_tokens=10)


@dataclass
class DyingOnce:
    """Kills its process when it is first asked, unless an earlier one was killed."""

    sampler: Sampler
    mark: Path

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.sampler.sample(asked, n_replies)


def dying_once(mark: Path, base: Base) -> Sampler:
    return DyingOnce(one_by_one(base), mark)
