"""The experts of one layer, computed together: tokens sorted by expert, then one grouped matmul per projection.

Weights are 3-D and named as in transformers. Packed (the usual layout): gate_up_proj [E, 2I, D], whose first half
is the gate, and down_proj [E, D, I], as in a linear layer. Interleaved (gpt-oss): gate_up_proj [E, D, 2I] with
gate in even and up in odd columns, down_proj [E, I, D], and a bias on each.

Letters: N tokens, k experts per token, S = N * k, E experts, D model width, I inner width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.mlp import gated_activation
from modelstack.errors import UserError

WIDTH_MULTIPLE = 8
"""Required multiple of channels: the grouped matmul needs rows in multiples of 16 bytes, 8 channels of bf16."""


class PackedExperts(nn.Module):
    """Experts in the layout "packed"."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the weights."""
        super().__init__()
        E, inner, D = _sizes(config)
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * inner, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, inner))
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=config.initializer_range)
        self.gated_act = gated_activation(config)

    def forward(self, x_ND: Tensor, experts_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts, [N, D]."""
        return mix_by_expert(self._expert, len(self.down_proj), x_ND, experts_Nk, weights_Nk)

    def _expert(self, x_SD: Tensor, ends_E: Tensor, expert_S: Tensor) -> Tensor:
        gate, up = F.grouped_mm(x_SD, self.gate_up_proj.transpose(1, 2), offs=ends_E).chunk(2, dim=-1)
        return F.grouped_mm(self.gated_act(gate, up), self.down_proj.transpose(1, 2), offs=ends_E)


class InterleavedExperts(nn.Module):
    """Experts in the layout "interleaved"."""

    def __init__(self, config: ModelConfig) -> None:
        """Create weights and biases."""
        super().__init__()
        E, inner, D = _sizes(config)
        self.gate_up_proj = nn.Parameter(torch.empty(E, D, 2 * inner))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(E, 2 * inner))
        self.down_proj = nn.Parameter(torch.empty(E, inner, D))
        self.down_proj_bias = nn.Parameter(torch.zeros(E, D))
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=config.initializer_range)
        self.gated_act = gated_activation(config)

    def forward(self, x_ND: Tensor, experts_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts, [N, D]."""
        return mix_by_expert(self._expert, len(self.down_proj), x_ND, experts_Nk, weights_Nk)

    def _expert(self, x_SD: Tensor, ends_E: Tensor, expert_S: Tensor) -> Tensor:
        gate_up = F.grouped_mm(x_SD, self.gate_up_proj, offs=ends_E) + self.gate_up_proj_bias[expert_S]
        y = self.gated_act(gate_up[..., 0::2], gate_up[..., 1::2])
        return F.grouped_mm(y, self.down_proj, offs=ends_E) + self.down_proj_bias[expert_S]


EXPERTS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "packed": PackedExperts,
    "interleaved": InterleavedExperts,
}


def mix_by_expert(
    expert: Callable[[Tensor, Tensor, Tensor], Tensor],
    n_experts: int,
    x_ND: Tensor,
    experts_Nk: Tensor,
    weights_Nk: Tensor,
) -> Tensor:
    """Return the weighted sum of each token's experts, [N, D].

    Args:
        expert: Maps the rows sorted by expert [S, D], the end of each expert's rows [E] and the expert of each row
            [S].
        n_experts: E.
        x_ND: The tokens.
        experts_Nk: The experts of each token.
        weights_Nk: The weights of these experts.
    """
    N, k = experts_Nk.shape
    expert_S, order = experts_Nk.flatten().sort(stable=True)
    n_rows = torch.zeros(n_experts, dtype=torch.int32, device=x_ND.device)
    ends_E = n_rows.scatter_add(0, expert_S, n_rows.new_ones(N * k)).cumsum(0, dtype=torch.int32)
    y_SD = expert(x_ND[order // k], ends_E, expert_S)
    # Restore token order with a gather: a scatter-add over duplicates would not be deterministic on GPUs.
    place = torch.empty_like(order).scatter(0, order, torch.arange(N * k, device=order.device))
    y_NkD = y_SD[place].view(N, k, -1)
    return torch.bmm(weights_Nk.to(y_NkD.dtype).unsqueeze(1), y_NkD).squeeze(1)


def _sizes(config: ModelConfig) -> tuple[int, int, int]:
    if not config.mlp_gated:
        raise UserError("mlp_gated is false, but experts always have a gate; use it with dense layers only")
    E, inner, D = config.n_routed_experts or 0, config.moe_intermediate_size or 0, config.hidden_size
    if inner % WIDTH_MULTIPLE or D % WIDTH_MULTIPLE:
        raise UserError(
            f"moe_intermediate_size {inner} and hidden_size {D} must be multiples of {WIDTH_MULTIPLE}, "
            f"because the grouped matrix product of experts requires rows in multiples of 16 bytes"
        )
    return E, inner, D
