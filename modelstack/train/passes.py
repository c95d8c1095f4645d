"""Forward and backward passes of a training step, independent of the layout of the model over devices.

A step needs gradients of micro-batches, their norm, and sums over all ranks. On one device this is a loop over
micro-batches; `modelstack.train.parallel` implements it for sharding, pipelines and distributed experts. The step
itself is the same for all layouts.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from modelstack.architecture.attention.indexer_loss import indexer_parameters
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import TokenLoss, labelled_places, total_loss
from modelstack.architecture.moe.balancing import BiasBalancer
from modelstack.data.batches import Batch


class Passes(Protocol):
    """Operations of a step for one layout; every rank must call each method, in the same order."""

    def total(self, n: float) -> float:
        """Return the sum of a number over the ranks with different batches; exact for integers."""
        ...

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of this rank's micro-batches.

        Args:
            batches: At least one micro-batch.
            n_labels: Weighted number of labelled tokens of the whole step, over all micro-batches of all ranks.
                Sums over tokens are divided by it, so that gradients add up to those of one large batch.

        Returns:
            The losses of the step by part, coefficients applied, summed over all ranks; equal on every rank.
        """
        ...

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to `max_norm`; return the norm of the whole model before."""
        ...

    def settle(self, taken: bool) -> None:
        """Finish a step: update the balancing biases if it was taken, reset their counts if it was rejected."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPasses:
    """Passes of the whole model on one device, in one process."""

    model: CausalLM
    balancer: BiasBalancer | None = None
    token_loss: TokenLoss = "cross_entropy"

    def total(self, n: float) -> float:
        """Return `n`, because there is only one rank."""
        return n

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of the micro-batches one after another; return the losses."""
        sums: dict[str, Tensor] = {}
        for batch in batches:
            losses = add_gradients(
                self.model,
                self.balancer,
                batch,
                n_labels,
                self.token_loss,
                choose_places=self.model.can_choose_places,
            )
            for name, loss in losses.items():
                sums[name] = sums[name] + loss if name in sums else loss
        return {name: float(loss) for name, loss in sums.items()}

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm before."""
        return clip_apart(
            self.model.parameters(),
            indexer_parameters(self.model),
            lambda parameters: float(nn.utils.clip_grad_norm_(parameters, max_norm)),
        )

    def settle(self, taken: bool) -> None:
        """Update the balancing biases after a taken step; reset the counts after a rejected one."""
        settle_balancer(self.balancer, taken)


def clip_apart(
    parameters: Iterable[nn.Parameter],
    of_indexers: Sequence[nn.Parameter],
    clip: Callable[[list[nn.Parameter]], float],
    *,
    has_indexer: bool | None = None,
) -> float:
    """Clip the gradients of the model and, separately, those of its indexers; return the norm before.

    Indexers are trained separately (DeepSeek-V3.2): the size of their gradient must not change the model's step.
    The result is the norm without indexers. If the indexers' norm is not finite, it is returned instead, so that a
    guard sees it.

    Args:
        parameters: All parameters.
        of_indexers: Those of the indexers.
        clip: Scales gradients down and returns their norm before. It is called twice if there is an indexer.
        has_indexer: Whether any rank has an indexer; None: whether this rank has one.
    """
    if not (of_indexers if has_indexer is None else has_indexer):
        return clip(list(parameters))
    apart = set(of_indexers)
    norm, norm_of_indexers = clip([each for each in parameters if each not in apart]), clip(list(of_indexers))
    return norm if math.isfinite(norm_of_indexers) else norm_of_indexers


def settle_balancer(
    balancer: BiasBalancer | None, taken: bool, sum_over_ranks: Callable[[Tensor], object] | None = None
) -> None:
    """Update the balancing biases from the counts of all ranks if the step was taken, else reset the counts."""
    if balancer is None:
        return
    if taken:
        balancer.update(sum_over_ranks=sum_over_ranks)
    else:
        balancer.counts_LE.zero_()


def add_gradients(
    model: CausalLM,
    balancer: BiasBalancer | None,
    batch: Batch,
    n_labels: float,
    token_loss: TokenLoss = "cross_entropy",
    *,
    choose_places: bool = False,
) -> dict[str, Tensor]:
    """Add one micro-batch's gradients and balancing counts; return its parts of the loss, detached.

    With `choose_places`, if few tokens have a label, the last layer's feed-forward computes only those.
    """
    device = next(model.parameters()).device
    places_P = labelled_places(batch.labels_BT)  # before the labels leave the CPU
    places_P = None if places_P is None else places_P.to(device)
    batch = batch.to(device)
    documents_BT = batch.documents_BT
    if bool((documents_BT == documents_BT[:, :1]).all()):
        documents_BT = (
            None  # one document per row: attention needs only the causal mask, which its kernels implement
        )
    labels_BT, weights_BT, chosen_P = batch.labels_BT, batch.weights_BT, None
    if choose_places and places_P is not None:
        labels_BT = labels_BT.flatten()[places_P][None]
        weights_BT = None if weights_BT is None else weights_BT.flatten()[places_P][None]
        chosen_P, places_P = places_P, None
    output = model(
        batch.ids_BT,
        documents_BT=documents_BT,
        forced_experts=batch.forced_experts,
        with_logits=False,
        with_mtp=model.config.mtp_loss_coef > 0,
        places_P=chosen_P,
    )
    losses = total_loss(
        model,
        output,
        labels_BT,
        n_labels=n_labels,
        weights_BT=weights_BT,
        places_P=places_P,
        token_loss=token_loss,
        counted_BT=batch.counted_BT,
    )
    losses.total.backward()
    if balancer is not None:
        balancer.count(output.routing, batch.counted_BT)
    return {name: loss.detach() for name, loss in losses.parts.items()}
