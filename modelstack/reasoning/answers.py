"""How a model answers held-back tasks: greedily, judged as in training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.reasoning.group_sampler import sample_group
from modelstack.reasoning.policy_tasks import PolicyTask
from modelstack.reasoning.recipe import PolicyRecipe
from modelstack.reasoning.sampled import completion_of
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.sft.base import Base
from modelstack.sft.stage_record import Measurement
from modelstack.tokenizer.measures import ratio_interval

REWARD = "reward of greedy replies"


class _Before(BaseModel, frozen=True, extra="forbid"):
    asked: str
    """Fingerprint of tasks and limits."""
    measured: Measurement


def answer(
    base: Base, tasks: Sequence[PolicyTask], recipe: PolicyRecipe, reward: GuardedReward
) -> tuple[Measurement, list[dict[str, Any]]]:
    """Return the mean reward of greedy replies, what cannot be judged left out, and the replies.

    Raises:
        UserError: None can be judged.
    """
    values: list[float] = []
    replies: list[dict[str, Any]] = []
    ends = frozenset(base.encoder.end_ids)
    for task in tasks:
        (sampled,) = sample_group(
            base.model,
            task.prompt_ids(base.encoder),
            1,
            max_tokens=recipe.sampling.max_tokens,
            temperature=0.0,
            end_ids=ends,
            seed=0,
        )
        completion = completion_of(sampled, base.encoder)
        judged = reward.score(task.item, completion)
        replies.append(
            {"id": task.item.id, "reply": completion.text, "reward": judged.value, "reason": judged.reason}
        )
        if judged.value is not None:
            values.append(judged.value)
    interval = ratio_interval(np.array(values), np.ones(len(values))) if values else None
    if interval is None:
        raise UserError("no held-back task can be judged; correct their gold, or leave data.validation out")
    return (
        Measurement(name=REWARD, value=interval.value, low=interval.low, high=interval.high, n=len(values)),
        replies,
    )


def measured_before(
    file: Path, base: Base, tasks: Sequence[PolicyTask], recipe: PolicyRecipe, reward: GuardedReward
) -> tuple[Measurement, ...]:
    """Return the figure of a model that has not learnt anything yet, measured by one of the run's processes."""
    if not tasks:
        return ()
    content = [[task.item.id, repr(task.item.gold)] for task in tasks]
    asked = hashlib.sha256(json.dumps([content, recipe.sampling.max_tokens]).encode()).hexdigest()
    if file.exists():
        known = _Before.model_validate_json(file.read_bytes())
        if known.asked == asked:
            return (known.measured,)
    found = _Before(asked=asked, measured=answer(base, tasks, recipe, reward)[0])
    with replacing(file) as temporary:
        temporary.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return (found.measured,)
