"""Forward and backward passes, wherever the model lies: what a training step needs of a layout.

A step asks for gradients of micro-batches, for their norm and for sums over all ranks. On one device that is a
loop over micro-batches; sharded, in a pipeline or with experts elsewhere it is `modelstack.train.parallel`'s. The
step itself is the same for all.

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
    """What a layout does for a step; every rank calls each method, in the same order."""

    def total(self, n: float) -> float:
        """Return the sum of a number over the ranks that have different batches; exact for whole ones."""
        ...

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of this rank's micro-batches.

        Args:
            batches: At least one.
            n_labels: Labelled tokens of the whole step, by their weights: of all micro-batches of all ranks. Sums
                over tokens are divided by it, so that gradients add up to those of one large batch.

        Returns:
            The step's losses by part, coefficients applied, of all ranks together; the same on each.
        """
        ...

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to a norm; return the norm before, of the whole model."""
        ...

    def settle(self, taken: bool) -> None:
        """Do what follows a step that was taken, or rejected: move or keep the balancing biases."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPasses:
    """The whole model on one device, one process."""

    model: CausalLM
    balancer: BiasBalancer | None = None
    token_loss: TokenLoss = "cross_entropy"

    def total(self, n: float) -> float:
        """Return `n`: there are no others."""
        return n

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of micro-batches one after the other; return the losses."""
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
        """Move the balancing biases of a step that was taken; forget its counts otherwise."""
        settle_balancer(self.balancer, taken)


def clip_apart(
    parameters: Iterable[nn.Parameter],
    of_indexers: Sequence[nn.Parameter],
    clip: Callable[[list[nn.Parameter]], float],
    *,
    has_indexer: bool | None = None,
) -> float:
    """Clip the model's gradients, and apart from them those of its indexers; return the norm before.

    Indexers are trained separately (DeepSeek-V3.2): the size of their gradient must not change the model's step.
    The norm is the model's, as without indexers; where theirs is not finite it is theirs, for a guard to see.

    Args:
        parameters: All.
        of_indexers: Some of them.
        clip: Scales gradients down, and returns their norm before. Called twice where there is an indexer.
        has_indexer: Whether any rank has one; None: as this one.
    """
    if not (of_indexers if has_indexer is None else has_indexer):
        return clip(list(parameters))
    apart = set(of_indexers)
    norm, norm_of_indexers = clip([each for each in parameters if each not in apart]), clip(list(of_indexers))
    return norm if math.isfinite(norm_of_indexers) else norm_of_indexers


def settle_balancer(
    balancer: BiasBalancer | None, taken: bool, sum_over_ranks: Callable[[Tensor], object] | None = None
) -> None:
    """Move the balancing biases of a step that was taken, by all ranks' counts; forget its counts otherwise."""
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

    `choose_places`: where few tokens have a label, the last layer's feed-forward leaves out the others.
    """
    device = next(model.parameters()).device
    places_P = labelled_places(batch.labels_BT)  # before the labels leave the CPU
    places_P = None if places_P is None else places_P.to(device)
    batch = batch.to(device)
    documents_BT = batch.documents_BT
    if bool((documents_BT == documents_BT[:, :1]).all()):
        documents_BT = (
            None  # a document a row: attention needs no mask but the causal one, which is in its kernels
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
