"""Fit of probes on collected states.

A request has one state, at the end of its prompt: logistic regression. A reply has one state per token and one
label. A sliding mean of M tokens smooths its log-odds, and its loss is the mean of its tokens' losses, weighted by
the softmax of the smoothed log-odds: the most suspicious place decides (Constitutional Classifiers++, arXiv
2601.04603; temperature 1).

Letters: N rows, T tokens, C = L * D channels, M tokens of the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Mean and deviation of each channel, by which states are standardised for a fit."""

    mean_C: Tensor
    deviation_C: Tensor

    @classmethod
    def of(cls, states_NC: NDArray[np.float16]) -> Scaling:
        """Measure states, in pieces."""
        total, squares, n = 0.0, 0.0, len(states_NC)
        for start in range(0, n, 8192):
            piece = torch.from_numpy(states_NC[start : start + 8192]).double()
            total, squares = total + piece.sum(0), squares + piece.square().sum(0)
        mean = torch.as_tensor(total) / n
        return cls(mean.float(), (torch.as_tensor(squares) / n - mean.square()).clamp_min(1e-8).sqrt().float())

    def folded(self, weights_C: Tensor, bias: Tensor) -> tuple[NDArray[np.float32], float]:
        """Return weights and bias for states that are not standardised."""
        weights = weights_C / self.deviation_C
        return weights.numpy(), float(bias - weights @ self.mean_C)


def fit_requests(
    states_NC: NDArray[np.float16],
    unsafe_N: NDArray[np.bool_],
    *,
    penalty: float,
    weights_N: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Return weights [C] and bias of a logistic regression, with `penalty` * |w|^2 / 2 on standardised states."""
    scaling = Scaling.of(states_NC)
    x_NC = (torch.from_numpy(states_NC).float() - scaling.mean_C) / scaling.deviation_C
    y_N = torch.from_numpy(unsafe_N).float()
    of_row = torch.ones(len(y_N)) if weights_N is None else torch.from_numpy(weights_N).float()

    def loss(w_C: Tensor, bias: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(x_NC @ w_C + bias, y_N, reduction="none")
        return (losses * of_row).sum() / of_row.sum() + penalty * w_C.square().sum() / 2

    return scaling.folded(*_minimised(loss, x_NC.shape[1]))


def fit_replies(
    states: Sequence[NDArray[np.float16]],
    unsafe_N: NDArray[np.bool_],
    *,
    window: int,
    penalty: float,
    start: tuple[NDArray[np.float32], float] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Return weights [C] and bias of the probe of replies.

    Args:
        states: States [T, C] of each reply.
        unsafe_N: Label of each reply.
        window: M, tokens of the sliding mean.
        penalty: Coefficient of |w|^2 / 2 on standardised states.
        start: Weights and bias to begin with, for states that are not standardised; None: zeros.
    """
    flat = np.concatenate(states)
    scaling = Scaling.of(flat)
    x_TC = ((torch.from_numpy(flat).float() - scaling.mean_C) / scaling.deviation_C).bfloat16()
    lengths = torch.tensor([len(each) for each in states])
    row_T = torch.repeat_interleave(torch.arange(len(states)), lengths)
    place_T = torch.arange(len(flat)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    y_N = torch.from_numpy(unsafe_N).float()

    def loss(w_C: Tensor, bias: Tensor) -> Tensor:
        z_T = (x_TC @ w_C.bfloat16()).float() + bias
        smooth_T = _sliding_mean(z_T, place_T, window)
        losses_T = F.binary_cross_entropy_with_logits(smooth_T, y_N[row_T], reduction="none")
        # A softmax within each row, over the tokens whose window is full; short rows use their last token.
        is_used_T = (place_T >= window - 1) | (place_T == lengths[row_T] - 1)
        exponent_T = torch.where(is_used_T, smooth_T.detach() - smooth_T.detach().max(), -torch.inf).exp() + 1e-30
        weight_T = exponent_T / torch.zeros(len(y_N)).index_add(0, row_T, exponent_T)[row_T]
        return (weight_T * losses_T).sum() / len(y_N) + penalty * w_C.square().sum() / 2

    if start is None:
        return scaling.folded(*_minimised(loss, x_TC.shape[1]))
    weights_C = torch.from_numpy(start[0]) * scaling.deviation_C
    bias = torch.tensor(start[1]) + torch.from_numpy(start[0]) @ scaling.mean_C
    return scaling.folded(*_minimised(loss, x_TC.shape[1], (weights_C, bias)))


def smoothed(z_T: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the exponential mean of a reply's log-odds after each token, as `monitor.watch.Watch` computes it."""
    rate = 2 / (window + 1)
    mean, found = 0.0, np.empty(len(z_T))
    for t, z in enumerate(z_T):
        mean += rate * (z - mean)
        found[t] = mean / (1 - (1 - rate) ** (t + 1))
    return found


def _sliding_mean(z_T: Tensor, place_T: Tensor, window: int) -> Tensor:
    """Return the mean of each token and up to M - 1 tokens before it in its row."""
    total_T = z_T.cumsum(0)
    n_T = (place_T + 1).clamp(max=window)
    before_T = torch.arange(len(z_T)) - n_T
    return (total_T - torch.where(before_T >= 0, total_T[before_T.clamp(min=0)], torch.zeros(()))) / n_T


def _minimised(
    loss: Callable[[Tensor, Tensor], Tensor], n_channels: int, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return weights and bias at the minimum, by L-BFGS."""
    w_C, bias = (torch.zeros(n_channels), torch.zeros(())) if start is None else start
    w_C, bias = w_C.clone().requires_grad_(True), bias.clone().float().requires_grad_(True)
    optimizer = torch.optim.LBFGS([w_C, bias], max_iter=200, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(w_C, bias)
        value.backward()
        return value

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return w_C.detach(), bias.detach()
