"""Log-probabilities of units' replies by a frozen model, for the reference and for evaluations.

The reference is the model before training. Its sums are computed once, before the first step, so that no second
model stays in memory.

Letters: U units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.measuring import ratio
from modelstack.posttrain.stages.record import Measurement
from modelstack.preferences.loader import unit_batch
from modelstack.preferences.log_probs import summed
from modelstack.preferences.methods import Direct, Method
from modelstack.preferences.passes import log_probs_of
from modelstack.preferences.reference_free import CpoConfig, SimpoConfig
from modelstack.preferences.units import Units
from modelstack.preferences.unpaired import UnpairedConfig
from modelstack.train.evaluation import in_use

UNITS_AT_ONCE = 8
LIKELIER, CHOSEN = "chosen likelier than rejected", "log-probability of the chosen reply"
ACCURACY, MARGIN = "chosen rewarded above rejected", "margin of rewards"


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Log-probabilities of replies, summed over their tokens."""

    log_probs: NDArray[np.float32]
    """Sums over each unit's first and second reply, [U, 2]."""
    n_tokens: NDArray[np.int64]
    """Number of tokens of these replies, [U, 2]."""


@torch.no_grad()
def score(model: CausalLM, units: Units, told: Callable[[int], object] = lambda n: None) -> Sums:
    """Score all units; the model's mode and the random state are unchanged.

    Args:
        model: Model that computes the log-probabilities.
        units: Units to score.
        told: Receives the number of scored units.
    """
    device = next(model.parameters()).device
    sums, counts = np.empty((len(units), 2), np.float32), np.empty((len(units), 2), np.int64)
    order = np.argsort(units.lengths, kind="stable")  # rows of similar length together need little padding
    with in_use(model):
        for start in range(0, len(units), UNITS_AT_ONCE):
            numbers = order[start : start + UNITS_AT_ONCE]
            found = log_probs_of(model, unit_batch(units, numbers.tolist()).to(device))
            sums[numbers] = summed(found.log_probs_BT, found.is_label_BT).view(2, -1).T.cpu().numpy()
            counts[numbers] = found.is_label_BT.sum(-1).view(2, -1).T.cpu().numpy()
            told(start + len(numbers))
    return Sums(sums, counts)


def rewards_of(method: Method, policy: Sums, reference: Sums) -> NDArray[np.float64]:
    """Return the rewards that a method's loss compares, [U, 2].

    Args:
        method: Method of the training.
        policy: Sums of the trained model.
        reference: Sums of the model before training; ignored by a method without a reference.
    """
    sums = policy.log_probs.astype(np.float64)
    if isinstance(method, Direct):
        return method.loss.beta * (sums - reference.log_probs)
    if isinstance(method, UnpairedConfig):
        return method.beta * (sums - reference.log_probs)
    if isinstance(method, CpoConfig):
        return method.beta * sums
    per_token = sums / np.maximum(policy.n_tokens, 1)
    return per_token * (method.beta if isinstance(method, SimpoConfig) else method.ratio_coefficient)


def standing(sums: Sums) -> tuple[Measurement, ...]:
    """Return a model's figures on pairs without a reference: accuracy, and log-probability of the chosen reply."""
    likelier = (sums.log_probs[:, 0] > sums.log_probs[:, 1]).astype(np.float64)
    chosen = sums.log_probs[:, 0].astype(np.float64)
    return (
        ratio(LIKELIER, likelier, np.ones(len(likelier)), "share of pairs, by the sums of log-probabilities"),
        ratio(CHOSEN, chosen, sums.n_tokens[:, 0].astype(np.float64), "nats a token; falling is a warning"),
    )


def progress(rewards: NDArray[np.float64]) -> tuple[Measurement, ...]:
    """Return the share of pairs in the right order and the mean margin, from rewards [U, 2]."""
    margins = rewards[:, 0] - rewards[:, 1]
    ones = np.ones(len(margins))
    return (
        ratio(ACCURACY, (margins > 0).astype(np.float64), ones, "share of pairs, by the loss's rewards"),
        ratio(MARGIN, margins, ones, "mean over the pairs"),
    )
