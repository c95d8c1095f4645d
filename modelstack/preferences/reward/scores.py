"""Scores of a reward model on pairs: accuracy, margin, and the shift of rewards to mean 0.

Letters: U pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.posttrain.measuring import ratio
from modelstack.posttrain.stages.record import Measurement
from modelstack.preferences.reward.loader import pair_batch
from modelstack.preferences.reward.passes import rewards_of
from modelstack.preferences.reward.value_model import Normalisation, ValueModel
from modelstack.preferences.scores import UNITS_AT_ONCE
from modelstack.preferences.units import Units
from modelstack.train.evaluation import in_use

ACCURACY, MARGIN = "chosen scored above rejected", "margin of scores"


@torch.no_grad()
def score_pairs(
    model: ValueModel, units: Units, n_most: int | None = None, told: Callable[[int], object] = lambda n: None
) -> NDArray[np.float64]:
    """Return the rewards of pairs, [U, 2], chosen first; the model's mode and the random state are unchanged.

    Args:
        model: The reward model.
        units: Pairs.
        n_most: Maximum number of pairs, from the first on; None: all.
        told: Receives the number of scored pairs.
    """
    n = len(units) if n_most is None else min(n_most, len(units))
    rewards_U2 = np.empty((n, 2))
    order = np.argsort(units.lengths[:n], kind="stable")  # rows of similar length together need little padding
    with in_use(model):
        for start in range(0, n, UNITS_AT_ONCE):
            numbers = order[start : start + UNITS_AT_ONCE]
            found = rewards_of(model, pair_batch(units, numbers.tolist()))
            rewards_U2[numbers] = found.view(2, -1).T.double().cpu().numpy()
            told(start + len(numbers))
    return rewards_U2


def measured(rewards_U2: NDArray[np.float64]) -> tuple[Measurement, ...]:
    """Return the share of pairs in the right order and the mean margin, with 95 % intervals over the pairs."""
    lead = rewards_U2[:, 0] - rewards_U2[:, 1]
    n = np.ones(len(lead))
    return (
        ratio(ACCURACY, (lead > 0).astype(np.float64), n, "share of pairs"),
        ratio(MARGIN, lead, n, "mean over the pairs, in the model's own unit"),
    )


def normalise(model: ValueModel, chosen: NDArray[np.float64]) -> Normalisation:
    """Shift a model's rewards so that the mean of `chosen` becomes 0 (Ouyang et al., section 3.5).

    Args:
        model: Model whose bias of the head is changed.
        chosen: The model's rewards of chosen training replies, [U].
    """
    found = Normalisation(mean=float(chosen.mean()), deviation=float(chosen.std()), n=len(chosen))
    with torch.no_grad():
        model.score.bias.sub_(found.mean)
    return found
