"""The mixture-of-experts layer: router, routed experts, shared experts.

DeepSeekMoE (arXiv 2401.06066): many small experts, several of them active, and shared experts that every token
passes through, for common knowledge. Qwen3-Next weights its shared expert by a sigmoid of the token.

Letters: B batch, T tokens, N = B * T, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.mlp import MLP
from modelstack.architecture.moe.experts import EXPERTS
from modelstack.architecture.moe.router import Router


class MoE(nn.Module):
    """Mixture-of-experts block of the MLP types `moe` and `hash_moe`, which differ in the router."""

    def __init__(self, config: ModelConfig, layer: int, router: Router) -> None:
        """Create the experts; submodules have the names that the family has in transformers."""
        super().__init__()
        self.layer = layer
        self.router_name = "router" if config.experts_layout == "interleaved" else "gate"
        self.add_module(self.router_name, router)
        self.experts = EXPERTS[config.experts_layout](config)
        self.shared_name = "shared_expert" if config.shared_expert_gate else "shared_experts"
        self.has_shared, self.has_shared_gate = config.n_shared_experts > 0, config.shared_expert_gate
        if self.has_shared:
            width = config.n_shared_experts * (config.moe_intermediate_size or 0)
            self.add_module(self.shared_name, MLP(config, width))
        if self.has_shared_gate:
            self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    @property
    def routing_module(self) -> Router:
        """The router, under any of its family-specific names."""
        return getattr(self, self.router_name)

    def forward(self, x_BTD: Tensor, context: ForwardContext) -> Tensor:
        """Return [B, T, D]; the routing decision is stored in `context.routing`."""
        x_ND = x_BTD.flatten(0, 1)
        forced_Nk = context.forced_experts.get(self.layer)
        routing, weights_Nk = self.routing_module(x_ND, context.token_ids_BT.flatten(), forced_Nk)
        context.routing[self.layer] = routing
        y_BTD = self.experts(x_ND, routing.experts_Nk, weights_Nk).view_as(x_BTD)
        if not self.has_shared:
            return y_BTD
        shared_BTD = getattr(self, self.shared_name)(x_BTD)
        if self.has_shared_gate:
            shared_BTD = torch.sigmoid(self.shared_expert_gate(x_BTD)) * shared_BTD
        return y_BTD + shared_BTD
