"""Load balancing without an auxiliary loss: a bias on the selection, updated after each optimizer step.

Wang et al., arXiv 2408.15664: b_i += speed * sign(mean(c) - c_i), where c are the tokens of each expert in the
whole batch. The bias affects only the selection, so balancing does not change gradients. DeepSeek-V3 and V4 train
with it at speed 0.001. MaxVio is the paper's measure of imbalance.

A trainer calls `count` once per micro-batch with the model's routing, and `update` after each optimizer step.
Counting from the output instead of in forward hooks counts a layer once even if checkpointing runs it twice.

Letters: L layers with a bias, N tokens, E experts, k of them selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from modelstack.architecture.context import Routing
from modelstack.architecture.moe.layer import MoE
from modelstack.architecture.moe.router import TopKRouter
from modelstack.errors import UserError

BIAS_SPEED = 0.001
"""Step of the bias in DeepSeek-V3 and V4."""


class BiasBalancer(nn.Module):
    """Count tokens over micro-batches and update the biases of a model's routers.

    Its `state_dict` holds the counts of an unfinished step; the biases are in the model's state dict.
    """

    counts_LE: Tensor

    def __init__(self, model: nn.Module) -> None:
        """Find the routers that have a bias.

        Raises:
            UserError: The model has no such router.
        """
        super().__init__()
        # A plain dict, so that the routers' buffers are not registered in this module too.
        self.routers: dict[int, TopKRouter] = {}
        for moe in (module for module in model.modules() if isinstance(module, MoE)):
            router = moe.routing_module
            if isinstance(router, TopKRouter) and router.e_score_correction_bias is not None:
                self.routers[moe.layer] = router
        if not self.routers:
            raise UserError("no layer of the model has a balancing bias: set score_correction_bias = true")
        n_experts = next(iter(self.routers.values())).n_experts
        self.register_buffer("counts_LE", torch.zeros(len(self.routers), n_experts))

    @torch.no_grad()
    def count(self, routing: Mapping[int, Routing], counted_BT: Tensor | None = None) -> None:
        """Add the routing of a micro-batch.

        Args:
            routing: The model's routing, by layer. Layers that did not run (multi-token prediction when it is not
                requested) are absent.
            counted_BT: bool, False for padding; None: all tokens count. Layers of multi-token prediction run on
                the last tokens of each row.
        """
        for row, layer in enumerate(self.routers):
            if layer in routing:
                experts_Nk = routing[layer].experts_Nk
                counted = None if counted_BT is None else counted_BT[:, -len(experts_Nk) // len(counted_BT) :]
                self.counts_LE[row] += tokens_per_expert(experts_Nk, self.counts_LE.shape[1], counted)

    @torch.no_grad()
    def update(
        self, speed: float = BIAS_SPEED, sum_over_ranks: Callable[[Tensor], object] | None = None
    ) -> dict[int, float]:
        """Update the biases from the counts since the last update, and reset the counts.

        Args:
            speed: Step of the bias; 0 leaves it unchanged.
            sum_over_ranks: Sums a tensor over all ranks in place, so the sign is that of the whole batch.

        Returns:
            MaxVio of each layer in the batch.
        """
        if sum_over_ranks is not None:
            sum_over_ranks(self.counts_LE)
        violation = dict(zip(self.routers, max_violation(self.counts_LE).tolist(), strict=True))
        for router, step_E in zip(self.routers.values(), bias_step(self.counts_LE, speed), strict=True):
            assert router.e_score_correction_bias is not None  # checked in __init__
            router.e_score_correction_bias += step_E
        self.counts_LE.zero_()
        return violation


def balancer_of(model: nn.Module) -> BiasBalancer | None:
    """Return the balancer of a model or of a pipeline stage; None if none of its layers has a bias."""
    has_bias = any(name.endswith("e_score_correction_bias") for name, _ in model.named_buffers())
    return BiasBalancer(model) if has_bias else None


def bias_step(counts_LE: Tensor, speed: float) -> Tensor:
    """Return speed * sign(mean(c) - c): up for experts with too few tokens, down for those with too many."""
    return speed * torch.sign(counts_LE.mean(dim=-1, keepdim=True) - counts_LE)


def max_violation(counts_LE: Tensor) -> Tensor:
    """Return max(c) / mean(c) - 1, [L]: 0 if even or empty, E / k - 1 if the same k experts get all tokens."""
    mean_L = counts_LE.mean(dim=-1)
    return torch.where(mean_L > 0, counts_LE.amax(dim=-1) / mean_L - 1, 0.0)


def tokens_per_expert(experts_Nk: Tensor, n_experts: int, counted_BT: Tensor | None = None) -> Tensor:
    """Return the number of tokens routed to each expert, fp32 [E]."""
    counts_E = torch.zeros(n_experts, device=experts_Nk.device)
    if counted_BT is None:
        weight_Nk = counts_E.new_ones(experts_Nk.shape)
    else:
        weight_Nk = counted_BT.reshape(-1, 1).to(counts_E.dtype).expand_as(experts_Nk)
    return counts_E.scatter_add(0, experts_Nk.flatten(), weight_Nk.flatten())
