"""Rollouts as plain data and tensors, so that a run that is killed between two steps on a rollout can resume it.

The weights that sampled no longer exist then, so the replies are stored with all values computed from them.

Letters: P labelled positions, S distinct sets of legal tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Reward

_STORED_FIELDS = (
    "ids_BT",
    "labels_BT",
    "documents_BT",
    "position",
    "advantages_G",
    "sampler_log_probs_GT",
    "old_log_probs_GT",
    "ref_log_probs_GT",
    "n_shared",
    "replies",
    "is_truncated",
    "n_tries",
    "tried_rewards",
)


def rollout_state(batch: RolloutBatch, tasks: Sequence[PolicyTask]) -> dict[str, Any]:
    """Return a batch as plain data and tensors.

    Args:
        batch: A batch whose task is one of `tasks`.
        tasks: Tasks of the run, in order.
    """
    return {name: getattr(batch, name) for name in _STORED_FIELDS} | {
        "task": next(number for number, task in enumerate(tasks) if task is batch.task),
        "rewards": [
            {"value": each.value, "reason": each.reason, "answer": each.answer, "parts": dict(each.parts)}
            for each in batch.rewards
        ],
        "legal": None if batch.legal_P is None else _legal_state(batch.legal_P),
    }


def rollout_of(state: Mapping[str, Any], tasks: Sequence[PolicyTask]) -> RolloutBatch:
    """Return the batch from a state made with the same `tasks`."""
    return RolloutBatch(
        **{name: state[name] for name in _STORED_FIELDS},
        task=tasks[state["task"]],
        rewards=tuple(Reward(**each) for each in state["rewards"]),
        legal_P=None if state["legal"] is None else _legal_of(state["legal"]),
    )


def _legal_state(legal_P: Sequence[LegalTokens | None]) -> dict[str, Any]:
    """Return each distinct set once, and the number of the set at each position; a grammar has few sets."""
    sets: dict[int, LegalTokens] = {id(legal): legal for legal in legal_P if legal is not None}
    numbers = {key: number for number, key in enumerate(sets)}
    return {
        "set_of_P": torch.tensor([-1 if legal is None else numbers[id(legal)] for legal in legal_P]),
        "sets_S": [_set_state(legal) for legal in sets.values()],
    }


def _set_state(legal: LegalTokens) -> dict[str, Any]:
    if legal.illegal_V is None:
        return {"ids": torch.from_numpy(legal.to_ids().astype(np.int64))}
    return {"legal_bits": torch.from_numpy(np.packbits(~legal.illegal_V)), "n_vocab": legal.illegal_V.size}


def _legal_of(state: Mapping[str, Any]) -> tuple[LegalTokens | None, ...]:
    sets = [_set_of(each) for each in state["sets_S"]]
    return tuple(None if number < 0 else sets[number] for number in state["set_of_P"].tolist())


def _set_of(state: Mapping[str, Any]) -> LegalTokens:
    if "ids" in state:
        return LegalTokens.from_ids(state["ids"].numpy().astype(np.intp))
    return LegalTokens.from_flags(
        np.unpackbits(state["legal_bits"].numpy(), count=state["n_vocab"]).view(np.bool_)
    )
