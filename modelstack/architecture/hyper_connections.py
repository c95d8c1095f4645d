"""Manifold-constrained hyper-connections: the residual as n streams, mixed by doubly stochastic matrices.

Sources: mHC, arXiv 2512.24880; DeepSeek-V4's report, section 2.2. Every sub-block reads one mix of the streams and
writes to all of them. A matrix with row and column sums of 1 (Sinkhorn-Knopp) carries the streams over, so the
signal neither grows nor vanishes with depth. The order of the iteration and of the parameters follows DeepSeek's
released code: the paper exponentiates and ends on rows; the code starts from a row softmax and ends on columns.

At scale 0 and base 0 the streams stay equal and the model is a plain pre-norm network (checked by a test). In
training, the scale starts small but not at 0, because at 0 the streams would never become different.

Letters: B batch, T tokens, n streams, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.attention.registry import make_attention
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.feed_forward import make_feed_forward
from modelstack.architecture.norms import make_norm, weightless_rms_norm

GATING_INIT = 0.01
"""Initial value of the three scales: alpha in the paper's Table 5."""


class HyperConnection(nn.Module):
    """Compute one sub-block's input mix, output weights and residual matrix from the streams."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the projection; rows of `fn` and `base` are n for input, n for output, n * n for the residual."""
        super().__init__()
        n = self.n_streams = config.hc_mult
        self.n_iterations, self.eps, self.norm_eps = config.hc_sinkhorn_iters, config.hc_eps, config.rms_norm_eps
        self.fn = nn.Parameter(torch.empty((2 + n) * n, n * config.hidden_size))
        self.base = nn.Parameter(torch.zeros((2 + n) * n))
        self.scale = nn.Parameter(torch.full((3,), GATING_INIT))
        nn.init.normal_(self.fn, std=config.initializer_range)

    def forward(self, x_BTnD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sub-block's input [B, T, D], output weights [B, T, n] and residual matrix [B, T, n, n]."""
        n = self.n_streams
        z = F.linear(weightless_rms_norm(x_BTnD.flatten(2).float(), self.norm_eps), self.fn.float())
        read, write, residual = z.split([n, n, n * n], dim=-1)
        read_base, write_base, residual_base = self.base.float().split([n, n, n * n])
        read_scale, write_scale, residual_scale = self.scale.float().unbind(0)
        read = torch.sigmoid(read * read_scale + read_base) + self.eps
        write = 2 * torch.sigmoid(write * write_scale + write_base)
        logits = (residual * residual_scale + residual_base).unflatten(-1, (n, n))
        mixed = (read.unsqueeze(-1) * x_BTnD).sum(dim=2).to(x_BTnD.dtype)
        return mixed, write, sinkhorn(logits, self.n_iterations, self.eps)


class HyperHead(nn.Module):
    """Combine the streams into one state after the last block."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the projection to n weights."""
        super().__init__()
        n = config.hc_mult
        self.eps, self.norm_eps = config.hc_eps, config.rms_norm_eps
        self.hc_fn = nn.Parameter(torch.empty(n, n * config.hidden_size))
        self.hc_base = nn.Parameter(torch.zeros(n))
        self.hc_scale = nn.Parameter(torch.full((1,), GATING_INIT))
        nn.init.normal_(self.hc_fn, std=config.initializer_range)

    def forward(self, x_BTnD: Tensor) -> Tensor:
        """Return the combined state [B, T, D]."""
        z = F.linear(weightless_rms_norm(x_BTnD.flatten(2).float(), self.norm_eps), self.hc_fn.float())
        weights = torch.sigmoid(z * self.hc_scale.float() + self.hc_base.float()) + self.eps
        return (weights.unsqueeze(-1) * x_BTnD).sum(dim=2).to(x_BTnD.dtype)


class HyperBlock(nn.Module):
    """A pre-norm layer inside two hyper-connections: [B, T, n, D] to [B, T, n, D]."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create attention, feed-forward, their norms and connections."""
        super().__init__()
        self.self_attn = make_attention(config, layer)
        self.mlp = make_feed_forward(config, layer)
        self.input_layernorm = make_norm(config)
        self.post_attention_layernorm = make_norm(config)
        self.attn_hc = HyperConnection(config)
        self.ffn_hc = HyperConnection(config)

    def forward(self, x_BTnD: Tensor, context: ForwardContext, cache: Any = None) -> Tensor:
        """Return the streams after this layer."""
        mixed, write, residual = self.attn_hc(x_BTnD)
        x_BTnD = write_back(x_BTnD, self.self_attn(self.input_layernorm(mixed), context, cache), write, residual)
        mixed, write, residual = self.ffn_hc(x_BTnD)
        return write_back(x_BTnD, self.mlp(self.post_attention_layernorm(mixed), context), write, residual)


def write_back(x_BTnD: Tensor, y_BTD: Tensor, write_BTn: Tensor, residual_BTnn: Tensor) -> Tensor:
    """Return X'_k = write_k y + sum_j residual_jk X_j; the matrix is applied transposed."""
    dtype = x_BTnD.dtype
    carried = torch.matmul(residual_BTnn.to(dtype).transpose(-1, -2), x_BTnD)
    return write_BTn.to(dtype).unsqueeze(-1) * y_BTD.unsqueeze(-2) + carried


def expand(x_BTD: Tensor, n_streams: int) -> Tensor:
    """Return n copies [B, T, n, D], the initial streams."""
    return x_BTD.unsqueeze(2).expand(-1, -1, n_streams, -1).contiguous()


def sinkhorn(logits: Tensor, n_iterations: int, eps: float) -> Tensor:
    """Return a nearly doubly stochastic matrix, [..., n, n], fp32."""
    m = logits.softmax(dim=-1) + eps
    m = m / (m.sum(dim=-2, keepdim=True) + eps)
    for _ in range(n_iterations - 1):
        m = m / (m.sum(dim=-1, keepdim=True) + eps)
        m = m / (m.sum(dim=-2, keepdim=True) + eps)
    return m
