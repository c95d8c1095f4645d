"""How a model answers held-back tasks: greedily, judged as in training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.posttrain.base import Base
from modelstack.posttrain.stages.record import Measurement
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.sampling.sampled import Asked, Sampler, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.tokenizer.measures import ratio_interval

REWARD = "reward of greedy replies"
BEFORE_FILE, REPLIES_FILE = "before.json", "replies-after.jsonl"


class _Before(BaseModel, frozen=True, extra="forbid"):
    asked: str
    """Fingerprint of tasks and limits."""
    measured: Measurement


def answer(
    base: Base, tasks: Sequence[PolicyTask], sampler: Sampler, reward: GuardedReward
) -> tuple[Measurement, list[dict[str, Any]]]:
    """Return the mean reward of greedy replies, what cannot be judged left out, and the replies.

    Args:
        base: That answers.
        tasks: Held back.
        sampler: Of the base, at temperature 0, as it is asked in training otherwise.
        reward: Of training.

    Raises:
        UserError: None can be judged.
    """
    values: list[float] = []
    replies: list[dict[str, Any]] = []
    for task in tasks:
        ((sampled,),) = sampler.sample([Asked(task, tuple(task.prompt_ids(base.encoder)), seed=0)], 1)
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
    file: Path,
    base: Base,
    tasks: Sequence[PolicyTask],
    sampler: Sampler,
    recipe: PolicyRecipe,
    reward: GuardedReward,
) -> tuple[Measurement, ...]:
    """Return the figure of a model that has not learnt anything yet, measured by one of the run's processes."""
    if not tasks:
        return ()
    asked = _fingerprint(
        tasks, [recipe.max_tokens, recipe.sampling.grammar, recipe.episodes and recipe.episodes.model_dump()]
    )
    if file.exists():
        known = _Before.model_validate_json(file.read_bytes())
        if known.asked == asked:
            return (known.measured,)
    found = _Before(asked=asked, measured=answer(base, tasks, sampler, reward)[0])
    with replacing(file) as temporary:
        temporary.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return (found.measured,)


def measured_after(
    file: Path, base: Base, tasks: Sequence[PolicyTask], sampler: Sampler, reward: GuardedReward
) -> tuple[Measurement, ...]:
    """Return the figure of the model as it is now; its replies go to a file."""
    if not tasks:
        return ()
    figure, replies = answer(base, tasks, sampler, reward)
    with replacing(file) as temporary:
        temporary.write_text("".join(json.dumps(reply) + "\n" for reply in replies), encoding="utf-8")
    return (figure,)


def _fingerprint(tasks: Sequence[PolicyTask], limits: Any) -> str:
    """Return a hash of what is asked and what is right, the same in every process."""
    content = [[task.item.id, task.asked, _plain(task.item.gold)] for task in tasks]
    return hashlib.sha256(json.dumps([content, limits], default=_as_data).encode()).hexdigest()


def _plain(gold: Any) -> Any:
    return asdict(gold) if is_dataclass(gold) and not isinstance(gold, type) else gold


def _as_data(value: Any) -> Any:
    # The order of a set of texts changes from process to process.
    return sorted(value) if isinstance(value, frozenset) else repr(value)
