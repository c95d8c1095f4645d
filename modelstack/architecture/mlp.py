"""The dense MLP and its activations.

SwiGLU and GeGLU: Shazeer, arXiv 2002.05202. Squared ReLU: Primer, 2109.08668. DeepSeek-V4 clamps both factors of
the product. gpt-oss also clamps, adds 1 to the linear part and has its own sigmoid slope.

Letters: D model width, I inner width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.projections import projected


def relu2(x: Tensor) -> Tensor:
    """Return max(x, 0) squared."""
    return F.relu(x).square()


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu2": relu2,
}


def gated_activation(config: ModelConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Return f(gate, up), the product that enters the down projection."""
    act = ACTIVATIONS[config.hidden_act]
    limit, alpha = config.swiglu_limit, config.swiglu_alpha
    if alpha is not None:

        def gpt_oss(gate: Tensor, up: Tensor) -> Tensor:
            if limit is not None:
                gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            return (up + 1) * (gate * torch.sigmoid(gate * alpha))

        return gpt_oss
    if limit is not None:

        def clamped(gate: Tensor, up: Tensor) -> Tensor:
            return act(gate.clamp(max=limit)) * up.clamp(-limit, limit)

        return clamped
    return lambda gate, up: act(gate) * up


class MLP(nn.Module):
    """down(act(gate x) * up x), or down(act(up x)) if the config has no gate."""

    def __init__(self, config: ModelConfig, size: int | None = None) -> None:
        """Create the projections; `size` is I (None: `intermediate_size`)."""
        super().__init__()
        D, inner, bias = config.hidden_size, size or config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(D, inner, bias=bias) if config.mlp_gated else None
        self.up_proj = nn.Linear(D, inner, bias=bias)
        self.down_proj = nn.Linear(inner, D, bias=bias)
        self.act = ACTIVATIONS[config.hidden_act]
        self.gated_act = gated_activation(config)

    def forward(self, x_BTD: Tensor, context: ForwardContext | None = None) -> Tensor:
        """Return [B, T, D]; the context is ignored: feed-forward kinds with routing need it."""
        if self.gate_proj is None:
            return self.down_proj(self.act(self.up_proj(x_BTD)))
        gate, up = projected(x_BTD, (self.gate_proj, self.up_proj))
        return self.down_proj(self.gated_act(gate, up))
