"""LoRA updates as products s B A, and their factorisation back into two matrices.

A and B cannot be averaged separately: R A and B R^-1 are the same update for any invertible R, so the mean of
two A times the mean of two B is unrelated to either parent. Updates are therefore merged as products. The best
two factors of a given rank are the leading singular vectors of the result (Eckart and Young, 1936).

Letters: O outputs, I inputs, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.posttrain.lora.files import Adapter, matrix_pairs


@dataclass(frozen=True, slots=True)
class Factors:
    """Low-rank update B A."""

    a: Tensor
    """[r, I]"""
    b: Tensor
    """[O, r]"""
    squares: float
    """Sum of squares of the full update, before truncation to the rank."""
    kept_squares: float
    """Sum of squares of B A."""

    @property
    def kept(self) -> float:
        """Return the kept share of the update's Frobenius norm; 1 for an update of zeros."""
        return (self.kept_squares / self.squares) ** 0.5 if self.squares else 1.0


def updates(adapter: Adapter, path: object) -> dict[str, Update]:
    """Return an adapter's updates by the name of the base weight.

    Args:
        adapter: Adapter as read from its files.
        path: Path of the adapter, for error messages.

    Raises:
        UserError: The adapter uses DoRA, or a tensor has no partner.
    """
    if adapter.config.dora:
        raise UserError(
            f"{path} uses DoRA, whose update depends on the base weights: merge it into its base first "
            f"(`modelstack stage merge STAGE OUT`), and merge the models"
        )
    return {
        f"{layer}.weight": Update(a, b, adapter.config.scale, f"{path}: {layer}")
        for layer, (a, b) in matrix_pairs(adapter, path).items()
    }


class Update:
    """Update s B A of one layer, with the product computed on demand."""

    def __init__(self, a: Tensor, b: Tensor, scale: float, where: str) -> None:
        """Store the factors after checking their shapes.

        Args:
            a: [r, I], fp32.
            b: [O, r], fp32.
            scale: Factor s.
            where: Path and layer, for error messages.

        Raises:
            UserError: The shapes do not match.
        """
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
            raise UserError(f"{where} has A {list(a.shape)} and B {list(b.shape)}; expected [r, I] and [O, r]")
        self._a, self._b, self._scale = a, b, scale
        self.shape = (b.shape[0], a.shape[1])

    def dense(self) -> Tensor:
        """Return s B A, [O, I]."""
        return self._scale * (self._b @ self._a)


def dense_or_zero(update: Update | None, shape: tuple[int, ...]) -> Tensor:
    """Return a dense update, or zeros for an adapter without this layer."""
    return torch.zeros(shape) if update is None else update.dense()


def factorised(delta: Tensor, rank: int) -> Factors:
    """Return the best factors of an update, with singular values split evenly between A and B.

    Args:
        delta: Update, [O, I].
        rank: Rank of the factors, at most min(O, I).
    """
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    squares = s.square()
    root = s[:rank].sqrt()
    # The sign of a pair of singular vectors is arbitrary; the largest entry of u is made positive.
    u, v = u[:, :rank], v[:rank]
    sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign().squeeze(0)
    a, b = v * (root * sign)[:, None], u * (root * sign)
    return Factors(a.float(), b.float(), float(squares.sum()), float(squares[:rank].sum()))


def kept_share(factors: Mapping[str, Factors]) -> float:
    """Return the kept share of the Frobenius norm over all updates."""
    squares = sum(each.squares for each in factors.values())
    kept = sum(each.kept_squares for each in factors.values())
    return (kept / squares) ** 0.5 if squares else 1.0
