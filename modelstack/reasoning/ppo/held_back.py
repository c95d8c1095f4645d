"""How a policy answers held-back tasks: greedily, judged as in training; the judge is not who is asked in the end.

A reward that rises here says that PPO does its work. Whether replies are better is for somebody else to say: a
policy that is trained long enough finds what its reward model overrates (Gao et al., 2210.10760).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.posttrain.base import Base
from modelstack.posttrain.stages.record import Measurement
from modelstack.reasoning.policy.answers import REWARD
from modelstack.reasoning.ppo.judges import Judge
from modelstack.reasoning.sampling.equal_length_sampler import EqualLengthSampler
from modelstack.reasoning.sampling.sampled import Asked, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.tokenizer.measures import ratio_interval


class _Before(BaseModel, frozen=True, extra="forbid"):
    asked: str
    """Fingerprint of tasks and limits."""
    measured: Measurement


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Tasks that are answered before and after."""

    base: Base
    """Whose model is in training."""
    tasks: Sequence[PolicyTask]
    judge: Judge
    max_tokens: int

    def answered(self) -> tuple[Measurement, list[dict[str, Any]]]:
        """Return the mean reward of greedy replies, what cannot be judged left out, and the replies.

        Raises:
            UserError: None can be judged.
        """
        encoder = self.base.encoder
        sampler = EqualLengthSampler(self.base.model, frozenset(encoder.end_ids), self.max_tokens, temperature=0.0)
        asked = [Asked(task, tuple(task.prompt_ids(encoder)), 0) for task in self.tasks]
        replies = [(one, sampled) for one, (sampled,) in zip(asked, sampler.sample(asked, 1), strict=True)]
        rewards = self.judge.rewards(replies)
        told = [
            {
                "id": one.task.item.id,
                "reply": completion_of(sampled, encoder).text,
                "reward": reward.value,
                "reason": reward.reason,
            }
            for (one, sampled), reward in zip(replies, rewards, strict=True)
        ]
        values = [reward.value for reward in rewards if reward.value is not None]
        interval = ratio_interval(np.array(values), np.ones(len(values))) if values else None
        if interval is None:
            raise UserError("no held-back task can be judged; correct their gold, or leave data.validation out")
        figure = Measurement(
            name=REWARD, value=interval.value, low=interval.low, high=interval.high, n=len(values)
        )
        return figure, told

    def before(self, file: Path) -> tuple[Measurement, ...]:
        """Return the figure of the policy that training begins with, measured by one of the run's processes."""
        if not self.tasks:
            return ()
        content = [[task.item.id, repr(task.item.gold)] for task in self.tasks]
        asked = hashlib.sha256(json.dumps([content, self.max_tokens]).encode()).hexdigest()
        if file.exists():
            known = _Before.model_validate_json(file.read_bytes())
            if known.asked == asked:
                return (known.measured,)
        found = _Before(asked=asked, measured=self.answered()[0])
        with replacing(file) as temporary:
            temporary.write_text(found.model_dump_json() + "\n", encoding="utf-8")
        return (found.measured,)

    def after(self, file: Path) -> tuple[Measurement, ...]:
        """Return the figure of the policy as it is now; its replies go to a file."""
        if not self.tasks:
            return ()
        figure, replies = self.answered()
        with replacing(file) as temporary:
            temporary.write_text("".join(json.dumps(reply) + "\n" for reply in replies), encoding="utf-8")
        return (figure,)
