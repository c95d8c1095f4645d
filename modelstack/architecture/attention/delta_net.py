"""Gated DeltaNet: a recurrent state instead of a growing cache (layer type `linear_attention`).

Each value head keeps a matrix S that maps keys to values. Each token decays S, reads the value that S stores for
its key, and writes the difference to its own value: S <- e^g S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q.
The arithmetic is that of Qwen3-Next and Qwen3.5. Source: arXiv 2412.06464.

Step by step this takes T small matrix products. In a chunk of C tokens, the u of all tokens are the solution of
one unit-triangular system (the WY form of arXiv 2406.06484), so only the state is passed from chunk to chunk.

Letters: B batch, T tokens, D model width, N chunks, C tokens of a chunk, H value heads, k channels of a key, v of
a value, K taps of the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.norms import RMSNorm

CHUNK = 64
"""Tokens per chunk: the triangular system grows with its square, the number of loop steps falls."""
L2_EPS = 1e-6


@dataclass(slots=True)
class RecurrentCache:
    """The last K - 1 inputs of the convolution and the state; its size does not depend on the sequence length."""

    inputs_BCT: Tensor | None = None
    """Inputs of the convolution, [B, channels, K - 1]."""
    state_BHkv: Tensor | None = None
    """State matrices, fp32."""

    def bytes_in_use(self) -> int:
        """Return the bytes of both."""
        return sum(t.nbytes for t in (self.inputs_BCT, self.state_BHkv) if t is not None)


class GatedDeltaNet(nn.Module):
    """Token mixer with projections, short convolution, delta rule and gated norm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create the projections; A_log is the logarithm of a uniform draw, as in the reference."""
        super().__init__()
        D = config.hidden_size
        self.n_key_heads, self.n_value_heads = config.linear_num_key_heads or 0, config.linear_num_value_heads or 0
        self.key_dim, self.value_dim = config.linear_key_head_dim or 0, config.linear_value_head_dim or 0
        self.n_taps = config.linear_conv_kernel_dim
        keys, values = self.n_key_heads * self.key_dim, self.n_value_heads * self.value_dim
        self.sizes = (keys, keys, values)
        self.in_proj_qkv = nn.Linear(D, sum(self.sizes), bias=False)
        self.in_proj_z = nn.Linear(D, values, bias=False)
        self.in_proj_b = nn.Linear(D, self.n_value_heads, bias=False)
        self.in_proj_a = nn.Linear(D, self.n_value_heads, bias=False)
        self.conv1d = nn.Conv1d(sum(self.sizes), sum(self.sizes), self.n_taps, groups=sum(self.sizes), bias=False)
        self.dt_bias = nn.Parameter(torch.ones(self.n_value_heads))
        self.A_log = nn.Parameter(torch.empty(self.n_value_heads).uniform_(0.01, 16).log())
        self.norm = RMSNorm(self.value_dim, config.rms_norm_eps)
        self.out_proj = nn.Linear(values, D, bias=False)

    def new_cache(self) -> RecurrentCache:
        """Return an empty state."""
        return RecurrentCache()

    def forward(self, x_BTD: Tensor, context: ForwardContext, cache: RecurrentCache | None = None) -> Tensor:
        """Mix tokens: [B, T, D] to [B, T, D]."""
        B, T, _ = x_BTD.shape
        mixed = F.silu(self._convolve(self.in_proj_qkv(x_BTD).transpose(1, 2), context, cache)).transpose(1, 2)
        q, k, v = mixed.split(self.sizes, dim=-1)
        q = q.reshape(B, T, self.n_key_heads, self.key_dim).transpose(1, 2).float()
        k = k.reshape(B, T, self.n_key_heads, self.key_dim).transpose(1, 2).float()
        v = v.reshape(B, T, self.n_value_heads, self.value_dim).transpose(1, 2).float()
        q, k = _unit_length(q) * self.key_dim**-0.5, _unit_length(k)
        n_repeat = self.n_value_heads // self.n_key_heads
        q, k = q.repeat_interleave(n_repeat, 1), k.repeat_interleave(n_repeat, 1)
        beta = self.in_proj_b(x_BTD).sigmoid().transpose(1, 2).float()
        decay = -self.A_log.float().exp() * F.softplus(self.in_proj_a(x_BTD).float() + self.dt_bias.float())
        state = cache.state_BHkv if cache else None
        y, state = gated_delta_rule(q, k, v, decay.transpose(1, 2), beta, state, context.documents_BT)
        if cache is not None:
            cache.state_BHkv = state
        z = self.in_proj_z(x_BTD).view(B, T, self.n_value_heads, self.value_dim)
        y = self.norm(y.transpose(1, 2).to(x_BTD.dtype)) * F.silu(z.float())
        return self.out_proj(y.to(x_BTD.dtype).reshape(B, T, -1))

    def _convolve(self, x_BCT: Tensor, context: ForwardContext, cache: RecurrentCache | None) -> Tensor:
        """Apply the causal depthwise convolution; inputs before the first token are 0, or come from the cache."""
        n_before = self.n_taps - 1
        if cache is None or cache.inputs_BCT is None:
            padded = F.pad(x_BCT, (n_before, 0))
        else:
            padded = torch.cat((cache.inputs_BCT, x_BCT), dim=2)
        if cache is not None:
            cache.inputs_BCT = padded[:, :, padded.shape[2] - n_before :].clone()
        if context.documents_BT is None:
            return self.conv1d(padded)
        documents = F.pad(context.documents_BT, (n_before, 0), value=-1)
        T, taps = x_BCT.shape[2], self.conv1d.weight[:, 0]
        y = torch.zeros_like(x_BCT)
        for tap in range(self.n_taps):
            same = (documents[:, tap : tap + T] == context.documents_BT)[:, None]
            y = y + padded[:, :, tap : tap + T] * same * taps[:, tap, None]
        return y


def gated_delta_rule(
    q_BHTk: Tensor,
    k_BHTk: Tensor,
    v_BHTv: Tensor,
    decay_BHT: Tensor,
    beta_BHT: Tensor,
    state_BHkv: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return outputs [B, H, T, v] and the state after the last token [B, H, k, v].

    Args:
        q_BHTk: Queries, scaled.
        k_BHTk: Keys of length 1.
        v_BHTv: Values.
        decay_BHT: Logarithm of the decay factor of the state at each token, at most 0.
        beta_BHT: Fraction of the difference that is written, in (0, 1).
        state_BHkv: State before the first token; None: 0.
        documents_BT: Document numbers; the state is reset at each packed document.
        chunk: Tokens that are solved together.
    """
    B, H, T, n_k = k_BHTk.shape
    C = min(chunk, T)
    pad = -T % C
    q, k, v = (F.pad(t, (0, 0, 0, pad)).unflatten(2, (-1, C)) for t in (q_BHTk, k_BHTk, v_BHTv))
    beta = F.pad(beta_BHT, (0, pad)).unflatten(2, (-1, C)).unsqueeze(-1)
    gamma = F.pad(decay_BHT, (0, pad)).unflatten(2, (-1, C)).cumsum(-1)
    same, carries_in = _document_masks(documents_BT, B, T, C, k.device)
    lower = torch.ones(C, C, dtype=torch.bool, device=k.device).tril() & same
    # Above the diagonal the difference is positive and might overflow, so it is masked before exp.
    between = (gamma.unsqueeze(-1) - gamma.unsqueeze(-2)).masked_fill(~lower, float("-inf")).exp()
    from_start = gamma.exp().unsqueeze(-1) * carries_in
    system = beta * (k @ k.transpose(-1, -2)) * between
    # The solver assumes 1 on the diagonal and does not read above it.
    solved = torch.linalg.solve_triangular(
        system, torch.cat((beta * v, beta * from_start * k), dim=-1), upper=False, unitriangular=True
    )
    u_alone, u_of_state = solved.split([v.shape[-1], n_k], dim=-1)
    scores = (q @ k.transpose(-1, -2)) * between
    q_of_state = q * from_start
    to_end = between[..., -1, :].unsqueeze(-1)
    state = k.new_zeros(B, H, n_k, v.shape[-1]) if state_BHkv is None else state_BHkv
    outputs = []
    for n in range(k.shape[2]):
        u = u_alone[:, :, n] - u_of_state[:, :, n] @ state
        outputs.append(q_of_state[:, :, n] @ state + scores[:, :, n] @ u)
        state = from_start[:, :, n, -1:, :] * state + (k[:, :, n] * to_end[:, :, n]).transpose(-1, -2) @ u
    return torch.stack(outputs, dim=2).flatten(2, 3)[:, :, :T], state


def _document_masks(
    documents_BT: Tensor | None, B: int, T: int, C: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return which tokens of a chunk share a document, and which belong to the last document of the chunk before.

    Shapes [B, 1, N, C, C] and [B, 1, N, C, 1]; padding at the end belongs to the last document.
    """
    if documents_BT is None:
        yes = torch.ones((1, 1, 1, 1, 1), dtype=torch.bool, device=device)
        return yes, yes
    last = documents_BT[:, -1:].expand(B, -T % C)
    documents = torch.cat((documents_BT, last), dim=1).view(B, 1, -1, C)
    before = torch.cat((documents[:, :, :1, 0], documents[:, :, :-1, -1]), dim=2).unsqueeze(-1)
    return documents.unsqueeze(-1) == documents.unsqueeze(-2), (documents == before).unsqueeze(-1)


def _unit_length(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_EPS)
