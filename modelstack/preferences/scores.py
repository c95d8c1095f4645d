"""Log-probabilities of units' replies by a model at rest: the reference's, and those that an evaluation asks for.

The reference is the model that training begins with, so its sums are computed once, before the first step, and
kept with a fingerprint of weights and data: no second model is held in memory, no second pass is made.

Letters: U units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.files import replacing
from modelstack.posttrain.stages.record import Measurement
from modelstack.preferences.loader import unit_batch
from modelstack.preferences.log_probs import summed
from modelstack.preferences.methods import Direct, Method
from modelstack.preferences.passes import log_probs_of
from modelstack.preferences.reference_free import CpoConfig, SimpoConfig
from modelstack.preferences.units import Units
from modelstack.preferences.unpaired import UnpairedConfig
from modelstack.tokenizer.measures import ratio_interval
from modelstack.train.evaluation import in_use

UNITS_AT_ONCE = 8
LIKELIER, CHOSEN = "chosen likelier than rejected", "log-probability of the chosen reply"
ACCURACY, MARGIN = "chosen rewarded above rejected", "margin of rewards"


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Log-probabilities of replies, summed over their tokens."""

    log_probs: NDArray[np.float32]
    """Of a unit's first and second reply, [U, 2]."""
    n_tokens: NDArray[np.int64]
    """[U, 2]."""


@torch.no_grad()
def score(model: CausalLM, units: Units, told: Callable[[int], object] = lambda n: None) -> Sums:
    """Score all units; the model's mode and the random numbers are as before afterwards.

    Args:
        model: Is asked.
        units: About these.
        told: How many are done.
    """
    device = next(model.parameters()).device
    sums, counts = np.empty((len(units), 2), np.float32), np.empty((len(units), 2), np.int64)
    order = np.argsort(units.lengths, kind="stable")  # rows of similar length together: little padding
    with in_use(model):
        for start in range(0, len(units), UNITS_AT_ONCE):
            numbers = order[start : start + UNITS_AT_ONCE]
            found = log_probs_of(model, unit_batch(units, numbers.tolist()).to(device))
            sums[numbers] = summed(found.log_probs_BT, found.is_label_BT).view(2, -1).T.cpu().numpy()
            counts[numbers] = found.is_label_BT.sum(-1).view(2, -1).T.cpu().numpy()
            told(start + len(numbers))
    return Sums(sums, counts)


def kept_reference(
    file: Path, fingerprint: str, model: CausalLM, units: Units, told: Callable[[int], object]
) -> Tensor:
    """Return the reference's sums, fp32 [U, 2], from a file where it holds those of the same fingerprint."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    if file.exists():
        try:
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("fingerprint") == fingerprint:
                    return stored.get_tensor("sums")
        except SafetensorError:
            pass  # cut off by a full disk: it is made again
    sums = torch.from_numpy(score(model, units, told).log_probs)
    with replacing(file) as temporary:
        save_file({"sums": sums}, temporary, metadata={"fingerprint": fingerprint})
    return sums


def rewards_of(method: Method, policy: Sums, reference: Sums) -> NDArray[np.float64]:
    """Return the rewards of replies that a method's loss compares, [U, 2].

    Args:
        method: Trained with.
        policy: Of the model.
        reference: Of the model that training began with; a method that has no reference does not look at it.
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
    """Return what can be said of a model alone on pairs: which reply is likelier, how likely the chosen one is."""
    likelier = (sums.log_probs[:, 0] > sums.log_probs[:, 1]).astype(np.float64)
    chosen = sums.log_probs[:, 0].astype(np.float64)
    return (
        _measured(LIKELIER, likelier, np.ones(len(likelier)), "share of pairs, by the sums of log-probabilities"),
        _measured(CHOSEN, chosen, sums.n_tokens[:, 0].astype(np.float64), "nats a token; falling is a warning"),
    )


def progress(rewards: NDArray[np.float64]) -> tuple[Measurement, ...]:
    """Return how a model stands against its reference on pairs: rewards [U, 2] to share and margin."""
    margins = rewards[:, 0] - rewards[:, 1]
    ones = np.ones(len(margins))
    return (
        _measured(ACCURACY, (margins > 0).astype(np.float64), ones, "share of pairs, by the loss's rewards"),
        _measured(MARGIN, margins, ones, "mean over the pairs"),
    )


def _measured(name: str, above: NDArray[np.float64], below: NDArray[np.float64], note: str) -> Measurement:
    interval = ratio_interval(above, below)
    assert interval is not None  # there are pairs, and replies have tokens
    return Measurement(
        name=name, value=interval.value, low=interval.low, high=interval.high, n=len(above), note=note
    )
