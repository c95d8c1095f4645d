"""LoRA updates as what they are, s B A, and back into two factors.

A and B on their own mean nothing: R A and B R^-1 are the same update for any invertible R, so a mean of two A
times a mean of two B is the update of neither parent nor of anything between them. Updates are merged as products.
The best two factors of a given rank for the result are its leading singular vectors (Eckart and Young, 1936).

Letters: O outputs, I inputs, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.posttrain.lora.adapters import PEFT_NAMES, PEFT_PREFIX
from modelstack.posttrain.lora.files import Adapter


@dataclass(frozen=True, slots=True)
class Factors:
    """An update B A of low rank."""

    a: Tensor
    """[r, I]"""
    b: Tensor
    """[O, r]"""
    squares: float
    """Sum of the squares of the whole update, before it was cut to its rank."""
    kept_squares: float
    """Of B A."""

    @property
    def kept(self) -> float:
        """Return the share of the update's Frobenius norm that is left; of nothing, all."""
        return (self.kept_squares / self.squares) ** 0.5 if self.squares else 1.0


def updates(adapter: Adapter, path: object) -> dict[str, Update]:
    """Return an adapter's updates by the name of the weight that they are added to.

    Args:
        adapter: As it was read.
        path: Where from, for messages.

    Raises:
        UserError: The adapter is DoRA's, or has a tensor that belongs to no pair.
    """
    if adapter.config.dora:
        raise UserError(
            f"{path} is a DoRA, whose update depends on the base's rows: merge it into its base first "
            f"(`modelstack stage merge STAGE OUT`), and merge the models"
        )
    leaf_a, leaf_b = (f".{PEFT_NAMES[part]}" for part in ("lora_A", "lora_B"))
    layers = sorted(name.removesuffix(leaf_a) for name in adapter.state if name.endswith(leaf_a))
    pairs = {layer: (f"{layer}{leaf_a}", f"{layer}{leaf_b}") for layer in layers}
    if adapter.state.keys() != {name for pair in pairs.values() for name in pair}:
        raise UserError(f"{path}: an adapter has an A and a B for each layer and nothing else")
    return {
        f"{layer.removeprefix(PEFT_PREFIX)}.weight": Update(
            adapter.state[a].float(), adapter.state[b].float(), adapter.config.scale, f"{path}: {layer}"
        )
        for layer, (a, b) in pairs.items()
    }


class Update:
    """One layer's s B A; the product is made when it is asked for."""

    def __init__(self, a: Tensor, b: Tensor, scale: float, where: str) -> None:
        """Take the factors.

        Args:
            a: [r, I], fp32.
            b: [O, r], fp32.
            scale: s.
            where: The layer, for messages.

        Raises:
            UserError: The factors do not fit each other.
        """
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
            raise UserError(f"{where} has A {list(a.shape)} and B {list(b.shape)}: not [r, I] and [O, r]")
        self._a, self._b, self._scale = a, b, scale
        self.shape = (b.shape[0], a.shape[1])

    def dense(self) -> Tensor:
        """Return s B A, [O, I]."""
        return self._scale * (self._b @ self._a)


def dense_or_zero(update: Update | None, shape: tuple[int, ...]) -> Tensor:
    """Return an update, or that of an adapter that leaves the layer alone."""
    return torch.zeros(shape) if update is None else update.dense()


def factorised(delta: Tensor, rank: int) -> Factors:
    """Return the best factors of an update, singular values shared evenly between A and B.

    Args:
        delta: [O, I].
        rank: At most min(O, I).
    """
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    squares = s.square()
    root = s[:rank].sqrt()
    # A pair of singular vectors has no sign of its own; the largest number in u's gets a plus.
    u, v = u[:, :rank], v[:rank]
    sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign().squeeze(0)
    a, b = v * (root * sign)[:, None], u * (root * sign)
    return Factors(a.float(), b.float(), float(squares.sum()), float(squares[:rank].sum()))


def kept_share(factors: Mapping[str, Factors]) -> float:
    """Return the share of all updates' Frobenius norm that is left."""
    squares = sum(each.squares for each in factors.values())
    kept = sum(each.kept_squares for each in factors.values())
    return (kept / squares) ** 0.5 if squares else 1.0
