"""Forward and backward passes of a drafter, and its acceptance by depth.

At position i, step k of the module predicts token i + k + 2, for which the model's own distribution is that of
position i + k + 1. Positions whose token is no target, or not in the draft vocabulary, are left out.

Letters: B rows, T tokens, P positions of a step, D model width, N tokens of the draft vocabulary, V all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED, mtp_labels
from modelstack.data.batches import Batch
from modelstack.posttrain.measuring import ratio
from modelstack.posttrain.passes import BatchLoss, TuningPasses
from modelstack.posttrain.stages.record import Measurement
from modelstack.reasoning.distil.loader import given_batch
from modelstack.reasoning.drafter.recipe import DrafterLoss
from modelstack.sft.tokenised import Tokenised
from modelstack.train.evaluation import in_use


@dataclass(frozen=True, slots=True)
class StepStates:
    """States of one step of the module, and of the model where it predicts the same tokens."""

    own_PD: Tensor
    model_PD: Tensor


@dataclass
class DrafterPasses(TuningPasses):
    """Passes of a module on its frozen model; the step's loss is a mean over the labelled tokens."""

    model: CausalLM
    loss: DrafterLoss

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The module."""
        assert self.model.mtp is not None
        return (self.model.mtp,)

    def losses_of(self, batch: Batch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the losses of a batch; the metric `agreement k` is the share of step k's equal first choices."""
        config, n_here = self.loss, 0
        weights = [config.decay**k for k in range(config.steps)]
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor | float] = {}
        for k, states in enumerate(step_states(self.model, batch)):
            share = weights[k] / sum(weights) / n_labels
            own_PN = self.model.draft_logits(states.own_PD).float()
            with torch.no_grad():
                model_PN = self.model.draft_logits(states.model_PD).float()
            if config.tokens:
                entropies = F.cross_entropy(own_PN, model_PN.softmax(-1), reduction="sum")
                losses["tokens"] = losses.get("tokens", 0.0) + config.tokens * share * entropies
            if config.states:
                distances = F.smooth_l1_loss(states.own_PD.float(), states.model_PD.float(), reduction="none")
                losses["states"] = losses.get("states", 0.0) + config.states * share * distances.mean(-1).sum()
            metrics[f"agreement {k + 1}"] = (own_PN.argmax(-1) == model_PN.argmax(-1)).float().mean()
            n_here = n_here or len(own_PN)
        return BatchLoss(losses, n_here / n_labels, metrics)


def step_states(model: CausalLM, batch: Batch) -> Iterator[StepStates]:
    """Yield the states of each step at a batch's targets; gradients reach the module only."""
    device = next(model.parameters()).device
    labels_BT = batch.labels_BT.to(device)
    output = model(batch.ids_BT.to(device), with_logits=False, with_mtp=True)
    if model.draft_vocabulary is not None:
        is_drafted = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)
        is_drafted[model.draft_vocabulary.ids] = True
        labels_BT = labels_BT.masked_fill((labels_BT != IGNORED) & ~is_drafted[labels_BT.clamp(min=0)], IGNORED)
    for k, ahead in enumerate(output.mtp):
        at = mtp_labels(labels_BT, k) != IGNORED
        yield StepStates(ahead.hidden_BTD[at], output.hidden_BTD[:, k + 1 :][at])


@torch.no_grad()
def acceptance(model: CausalLM, data: Tokenised) -> tuple[Measurement, ...]:
    """Return the share of held-back targets up to which all of a draft's first choices are the model's, by depth.

    The drafts follow the examples' text. The interval is a bootstrap over examples.
    """
    n_steps = model.config.mtp_steps
    right, tried = np.zeros((n_steps, data.n_examples)), np.zeros((n_steps, data.n_examples))
    with in_use(model):
        for number in range(data.n_examples):
            batch = given_batch(data, [number])
            device = next(model.parameters()).device
            output = model(batch.ids_BT.to(device), with_logits=False, with_mtp=True)
            labels_T = batch.labels_BT[0].to(device)
            choices_T = model.logits(output.hidden_BTD[0]).argmax(-1)
            all_right_T = torch.ones_like(labels_T, dtype=torch.bool)
            for k, ahead in enumerate(output.mtp):
                found = model.draft_ids(model.draft_logits(ahead.hidden_BTD[0]).argmax(-1))
                all_right_T = all_right_T[: len(found)] & (found == choices_T[k + 1 :])
                is_target = labels_T[k + 1 :] != IGNORED
                right[k, number] = float((all_right_T & is_target).sum())
                tried[k, number] = float(is_target.sum())
    note = f"share of drafts, {int(tried[0].sum()):,} targets"
    return tuple(ratio(f"accepted to depth {k + 1}", right[k], tried[k], note) for k in range(n_steps))
