"""States of a known dictionary, and how much of it an autoencoder found (as in SynthSAEBench, 2602.14687).

A state is a bias and the sum of a few directions of unit length, of which there are more than dimensions. They
fire independently, few of them often and many rarely (Zipf). An autoencoder is judged by its decoder: each
direction gets a latent of its own so that the sum of |cosines| is highest (Hungarian matching); their mean is the
MCC. It is also judged by whether the matched latents fire where their directions do.

Letters: N tokens, D width, G true directions, F latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.align.sae.autoencoder import Autoencoder, chunks

_FIRST_SEED = 0x5AE0000
"""Seed of dictionary 0. A trainer with the same seed and sizes would begin with the dictionary itself."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownDictionary:
    """Directions with the probabilities of their firing."""

    directions_GD: Tensor
    probabilities_G: Tensor
    bias_D: Tensor
    deviation: float
    """Standard deviation of the values of a direction that fires, around 1."""

    @classmethod
    def drawn(
        cls,
        n: int,
        width: int,
        *,
        active: float = 20.0,
        exponent: float = 0.5,
        deviation: float = 0.3,
        seed: int = 0,
    ) -> KnownDictionary:
        """Draw a dictionary.

        Args:
            n: Number of directions.
            width: Width of a state.
            active: Directions of a token, on average.
            exponent: Exponent of Zipf's law of their frequencies; 0: all alike.
            deviation: Standard deviation of their values.
            seed: Seed of the draw.
        """
        generator = torch.Generator().manual_seed(_FIRST_SEED + seed)
        directions_GD = F.normalize(torch.randn(n, width, generator=generator), dim=1)
        weights_G = torch.arange(1, n + 1).double() ** -exponent
        probabilities_G = (active * weights_G / weights_G.sum()).clamp_max(0.5).float()
        bias_D = F.normalize(torch.randn(width, generator=generator), dim=0) * math.sqrt(active)
        return cls(directions_GD, probabilities_G, bias_D, deviation)

    def states(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return states [N, D] of `n` tokens, and the values of the directions, [N, G]."""
        size = (n, len(self.directions_GD))
        fires_NG = torch.rand(size, generator=generator) < self.probabilities_G
        values_NG = 1 + self.deviation * torch.randn(size, generator=generator)
        values_NG = values_NG.abs() * fires_NG
        return values_NG @ self.directions_GD + self.bias_D, values_NG


@dataclass(frozen=True, slots=True)
class Recovered:
    """Share of a known dictionary that an autoencoder found."""

    mcc: float
    """Mean |cosine| of the matched pairs."""
    precision: float
    """Share of the matched latents' firings at which the direction fires, averaged over directions."""
    recall: float
    """Share of the directions' firings at which the matched latent fires, averaged over directions."""
    f1: float
    """Harmonic mean of both, averaged over directions."""


def matched(decoder_FD: Tensor, directions_GD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return places of matched latents, their directions' places, and the |cosine| of each pair."""
    from scipy.optimize import linear_sum_assignment

    cosines_FG = (F.normalize(decoder_FD, dim=1) @ F.normalize(directions_GD, dim=1).T).abs()
    latents, directions = linear_sum_assignment(cosines_FG.numpy(), maximize=True)
    latents, directions = torch.from_numpy(latents.astype(np.int64)), torch.from_numpy(directions.astype(np.int64))
    return latents, directions, cosines_FG[latents, directions]


@torch.no_grad()
def recovered(
    autoencoder: Autoencoder, known: KnownDictionary, n_tokens: int = 20_000, seed: int = 1
) -> Recovered:
    """Return how much of a dictionary an autoencoder found, its firing on `n_tokens` states."""
    latents, directions, cosines = matched(autoencoder.decoder_FO, known.directions_GD)
    x_ND, values_NG = known.states(n_tokens, torch.Generator().manual_seed(seed))
    counts = torch.zeros(3, len(latents), dtype=torch.float64)
    for part_ND, truth_NG in zip(chunks(x_ND), chunks(values_NG), strict=True):
        fires_NP = autoencoder.encode(part_ND).dense()[:, latents] > 0
        truth_NP = truth_NG[:, directions] > 0
        counts += torch.stack([(fires_NP & truth_NP).sum(0), fires_NP.sum(0), truth_NP.sum(0)])
    both, fired, true = counts
    precision, recall = both / fired.clamp_min(1), both / true.clamp_min(1)
    f1 = 2 * both / (fired + true).clamp_min(1)
    return Recovered(*(float(each.mean()) for each in (cosines, precision, recall, f1)))
