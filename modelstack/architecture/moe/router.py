"""Routers: fp32 scores of every expert, a selection of k, weights from the selected scores.

The selection may use more than the scores. The bias b of auxiliary-loss-free balancing (arXiv 2408.15664) changes
the selection but never the weights. With DeepSeek-V3's groups (2412.19437, 2.1.2), only experts of the groups with
the largest sum of their two best scores can be selected. Forced selections replace the router's own, while the
weights still come from the current scores; anticipatory routing (DeepSeek-V4) and replay in RL need this.

Letters: N tokens, D model width, E experts, k of them selected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import Routing
from modelstack.architecture.moe.scoring import SCORING
from modelstack.errors import UserError

NORM_EPS = 1e-20
"""Prevents division by zero if all scores underflow: DeepSeek-V3's value."""
GROUP_VOTES = 2
"""Number of best scores of a group that are added to rank it: DeepSeek-V3's value."""


class Router(nn.Module, ABC):
    """Base class that scores and weights experts; a subclass selects them."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the projection to E logits."""
        super().__init__()
        self.n_experts = config.n_routed_experts or 0
        self.n_chosen = config.num_experts_per_tok or 0
        self.scores = SCORING[config.scoring_func]
        self.normalise = config.norm_topk_prob or config.scoring_func == "topk_softmax"
        self.scale = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(self.n_experts, config.hidden_size))
        nn.init.normal_(self.weight, std=config.initializer_range)
        self.bias = nn.Parameter(torch.zeros(self.n_experts)) if config.router_bias else None

    @abstractmethod
    def choose(self, scores_NE: Tensor, token_ids_N: Tensor) -> Tensor:
        """Return the k experts of each token, int64 [N, k]."""

    def forward(
        self, x_ND: Tensor, token_ids_N: Tensor, forced_Nk: Tensor | None = None
    ) -> tuple[Routing, Tensor]:
        """Route tokens.

        Args:
            x_ND: Tokens of any float type; routing is computed in fp32, because small differences change the
                selection.
            token_ids_N: Token ids, for selections that depend on the token itself.
            forced_Nk: Experts that replace the router's own selection.

        Returns:
            The routing decision, and the weights of the selected experts, [N, k], fp32.
        """
        bias = None if self.bias is None else self.bias.float()
        logits_NE = F.linear(x_ND.float(), self.weight.float(), bias)
        scores_NE = self.scores(logits_NE)
        experts_Nk = self.choose(scores_NE.detach(), token_ids_N) if forced_Nk is None else forced_Nk
        weights_Nk = scores_NE.gather(1, experts_Nk)
        if self.normalise:
            weights_Nk = weights_Nk / (weights_Nk.sum(dim=-1, keepdim=True) + NORM_EPS)
        return Routing(logits_NE, scores_NE, experts_Nk), weights_Nk * self.scale


class TopKRouter(Router):
    """Router that selects the k best scores, corrected by the balancing bias, within the best groups."""

    e_score_correction_bias: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        """Create projection and bias.

        Raises:
            UserError: The selectable groups have fewer than k experts.
        """
        super().__init__(config)
        self.n_groups, self.n_chosen_groups = config.n_group, config.topk_group
        n_candidates = self.n_experts // self.n_groups * self.n_chosen_groups
        if self.n_chosen > n_candidates:
            raise UserError(
                f"num_experts_per_tok {self.n_chosen} is more than the {n_candidates} experts of topk_group "
                f"{self.n_chosen_groups} of n_group {self.n_groups} groups: choose from more groups"
            )
        bias = torch.zeros(self.n_experts, dtype=torch.float32) if config.score_correction_bias else None
        self.register_buffer("e_score_correction_bias", bias)

    def choose(self, scores_NE: Tensor, token_ids_N: Tensor) -> Tensor:
        """Return the k experts of each token, int64 [N, k]."""
        if self.e_score_correction_bias is not None:
            scores_NE = scores_NE + self.e_score_correction_bias
        if self.n_groups > 1:
            scores_NE = scores_NE.masked_fill(~self._in_best_groups(scores_NE), float("-inf"))
        return scores_NE.topk(self.n_chosen, dim=-1).indices

    def _in_best_groups(self, scores_NE: Tensor) -> Tensor:
        by_group = scores_NE.unflatten(-1, (self.n_groups, -1))
        group_size = by_group.shape[-1]
        votes = by_group.topk(min(GROUP_VOTES, group_size), dim=-1).values.sum(dim=-1)
        best = votes.topk(self.n_chosen_groups, dim=-1).indices
        chosen = torch.zeros_like(votes, dtype=torch.bool).scatter(1, best, True)
        return chosen.repeat_interleave(group_size, dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TopKRouter:
        """Keep the bias in fp32 when the model is cast: bf16 would round away its steps of 0.001."""
        exact = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved = self.e_score_correction_bias
        if exact is not None and moved is not None and moved.dtype != exact.dtype:
            self.e_score_correction_bias = exact.to(moved.device)
        return self
