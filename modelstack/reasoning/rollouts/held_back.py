"""Measurement on held-back tasks before and after a training: greedy replies, judged as in training.

A higher reward shows that the training optimises its reward. It does not prove better replies: after long training
a policy exploits errors of its judge (Gao et al., 2210.10760).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.posttrain.measuring import measured_once, ratio
from modelstack.posttrain.stages.record import Measurement
from modelstack.reasoning.rollouts.judges import Judge
from modelstack.reasoning.sampling.sampled import Asked, Sampler, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.tokenizer.chat import ChatEncoder

REWARD = "reward of greedy replies"
REPLIES_FILE = "replies-after.jsonl"


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Held-back tasks, with the sampler and judge for them."""

    tasks: Sequence[PolicyTask]
    encoder: ChatEncoder
    sampler: Sampler
    """Greedy sampler of the trained model."""
    judge: Judge
    limits: Any
    """Limits of a reply, as JSON; a stored measurement with other limits is not reused."""

    def before(self, folder: Path) -> tuple[Measurement, ...]:
        """Return the measurement of the model before training, stored in the run's folder; empty without tasks."""
        if not self.tasks:
            return ()
        return (measured_once(folder, fingerprint(self.tasks, self.limits), lambda: self._answered()[0]),)

    def after(self, folder: Path) -> tuple[Measurement, ...]:
        """Return the measurement of the current model and write its replies; empty without tasks."""
        if not self.tasks:
            return ()
        figure, replies = self._answered()
        with replacing(folder / REPLIES_FILE) as temporary:
            temporary.write_text("".join(json.dumps(reply) + "\n" for reply in replies), encoding="utf-8")
        return (figure,)

    def _answered(self) -> tuple[Measurement, list[dict[str, Any]]]:
        """Return the mean reward of the replies that can be judged, and all replies.

        Raises:
            UserError: No reply can be judged.
        """
        asked = [Asked(task, tuple(task.prompt_ids(self.encoder)), seed=0) for task in self.tasks]
        replies = [(one, reply) for one, (reply,) in zip(asked, self.sampler.sample(asked, 1), strict=True)]
        rewards = self.judge.rewards(replies)
        written = [
            {
                "id": one.task.item.id,
                "reply": completion_of(reply, self.encoder).text,
                "reward": reward.value,
                "reason": reward.reason,
            }
            for (one, reply), reward in zip(replies, rewards, strict=True)
        ]
        values = np.array([reward.value for reward in rewards if reward.value is not None])
        if not len(values):
            raise UserError("no held-back task can be judged: correct their gold, or leave data.validation out")
        return ratio(REWARD, values, np.ones(len(values))), written


def fingerprint(tasks: Sequence[PolicyTask], limits: Any) -> str:
    """Return a hash of prompts, golds and limits that is the same in every process."""
    content = [[task.item.id, task.asked, _plain(task.item.gold)] for task in tasks]
    return hashlib.sha256(json.dumps([content, limits], default=_as_data).encode()).hexdigest()


def _plain(gold: Any) -> Any:
    return asdict(gold) if is_dataclass(gold) and not isinstance(gold, type) else gold


def _as_data(value: Any) -> Any:
    # The order of a set of texts differs between processes.
    return sorted(value) if isinstance(value, frozenset) else repr(value)
