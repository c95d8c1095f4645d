"""Figures of an autoencoder on held-out text: of its states, and of the model that computes with them.

- Explained variance: 1 - E|y - y^|^2 / (E|y|^2 - |E y|^2), its sums in float64 over the whole set; an average over
  batches is another number.
- Loss recovered: (CE with zeros - CE with the autoencoder) / (CE with zeros - CE). Zeros take the place of the
  output at the tokens that are read; at other tokens the model computes with its own states.
- KL score: the same share of the KL divergence from the model's own distribution of the next token.
- L0: active latents of a token. Alive: share of the latents that fire at least once. l2 ratio: |y^| / |y|.

Letters: B rows, T tokens, N tokens that are read, D and O widths of input and output, F latents, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.align.sae.autoencoder import Autoencoder, chunks
from modelstack.align.sae.hook_point import replaced
from modelstack.align.sae.state_windows import StateSource
from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch

DENSITY_BINS = 20
"""Bins of the histogram of densities, from 1e-6 to 1 in powers of ten."""


class StateTotals:
    """Sums over states and their reconstructions."""

    def __init__(self, d_out: int, n_latents: int) -> None:
        """Start at zero."""
        self.n = 0
        self._sum_O = torch.zeros(d_out, dtype=torch.float64)
        self._squares = self._errors = self._ratios = 0.0
        self._n_active = 0
        self.fired_F = torch.zeros(n_latents, dtype=torch.int64)
        self.highest_F = torch.zeros(n_latents)

    @torch.no_grad()
    def add(self, autoencoder: Autoencoder, x_ND: Tensor, y_NO: Tensor) -> None:
        """Add some tokens."""
        for x, y in zip(chunks(x_ND), chunks(y_NO), strict=True):
            codes = autoencoder.encode(x)
            rebuilt_NO, y = autoencoder.decode(codes, x).double().cpu(), y.double().cpu()
            self.n += len(y)
            self._sum_O += y.sum(0)
            self._squares += float(y.square().sum())
            self._errors += float((y - rebuilt_NO).square().sum())
            self._ratios += float((rebuilt_NO.norm(dim=1) / y.norm(dim=1).clamp_min(1e-12)).sum())
            is_active_M = codes.values_M > 0
            latents_M, values_M = codes.pattern.latents_M[is_active_M].cpu(), codes.values_M[is_active_M].cpu()
            self._n_active += len(latents_M)
            self.fired_F += torch.bincount(latents_M, minlength=len(self.fired_F))
            self.highest_F.scatter_reduce_(0, latents_M, values_M.float(), "amax")

    @property
    def density_F(self) -> Tensor:
        """Share of the tokens at which each latent fires."""
        return self.fired_F / max(self.n, 1)

    @property
    def figures(self) -> dict[str, float]:
        """Explained variance, l2 ratio, L0 and share of latents alive."""
        variance = self._squares / self.n - float((self._sum_O / self.n).square().sum())
        return {
            "explained_variance": 1 - self._errors / self.n / variance,
            "l2_ratio": self._ratios / self.n,
            "l0": self._n_active / self.n,
            "alive": float((self.fired_F > 0).double().mean()),
        }


@dataclass(slots=True)
class EffectTotals:
    """Sums over next-token losses of the model as it is, with the autoencoder, and with zeros."""

    n: int = 0
    loss: float = 0.0
    loss_rebuilt: float = 0.0
    loss_zeros: float = 0.0
    kl_rebuilt: float = 0.0
    kl_zeros: float = 0.0

    @property
    def figures(self) -> dict[str, float]:
        """Cross-entropies, loss recovered and KL score."""
        loss, rebuilt, zeros = (each / self.n for each in (self.loss, self.loss_rebuilt, self.loss_zeros))
        return {
            "loss_recovered": (zeros - rebuilt) / (zeros - loss),
            "kl_score": (self.kl_zeros - self.kl_rebuilt) / self.kl_zeros,
            "ce": loss,
            "ce_rebuilt": rebuilt,
            "ce_zeros": zeros,
        }


@torch.no_grad()
def measured(
    source: StateSource,
    autoencoder: Autoencoder,
    batches: Sequence[Batch],
    told: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[dict[str, float], StateTotals]:
    """Return the figures of an autoencoder on some rows, and the sums over its states."""
    config = autoencoder.config
    states, effects = StateTotals(config.d_out, config.n_latents), EffectTotals()
    device = source.model.lm_head.weight.device
    for number, batch in enumerate(batches):
        for row in range(len(batch.ids_BT)):
            _add_row(source, autoencoder, _one_row(batch, row).to(device), states, effects)
        told(number + 1, len(batches))
    return states.figures | effects.figures, states


def _one_row(batch: Batch, row: int) -> Batch:
    counted_BT = None if batch.counted_BT is None else batch.counted_BT[row : row + 1]
    ids_BT, labels_BT, documents_BT = (
        each[row : row + 1] for each in (batch.ids_BT, batch.labels_BT, batch.documents_BT)
    )
    return Batch(ids_BT, labels_BT, documents_BT, batch.position + row, counted_BT=counted_BT)


def _add_row(
    source: StateSource, autoencoder: Autoencoder, row: Batch, states: StateTotals, effects: EffectTotals
) -> None:
    is_read_BT = source.is_read_BT(row)
    if not is_read_BT.any():
        return

    def rebuild(x_BTD: Tensor, y_BTO: Tensor) -> Tensor:
        states.add(autoencoder, x_BTD[is_read_BT], y_BTO[is_read_BT])
        rebuilt_BTO = y_BTO.clone()
        rebuilt_BTO[is_read_BT] = autoencoder(x_BTD[is_read_BT]).to(y_BTO)
        return rebuilt_BTO

    own_NV = _log_probs(source, row)
    with replaced(source.model, source.hook, rebuild):
        rebuilt_NV = _log_probs(source, row)
    with replaced(source.model, source.hook, lambda x, y: y.masked_fill(is_read_BT[..., None], 0)):
        zeros_NV = _log_probs(source, row)
    labels_N = row.labels_BT[row.labels_BT != IGNORED]
    effects.n += len(labels_N)
    effects.loss += _cross_entropy(own_NV, labels_N)
    effects.loss_rebuilt += _cross_entropy(rebuilt_NV, labels_N)
    effects.loss_zeros += _cross_entropy(zeros_NV, labels_N)
    effects.kl_rebuilt += float(F.kl_div(rebuilt_NV, own_NV, reduction="sum", log_target=True))
    effects.kl_zeros += float(F.kl_div(zeros_NV, own_NV, reduction="sum", log_target=True))


def _log_probs(source: StateSource, row: Batch) -> Tensor:
    output = source.model(row.ids_BT, documents_BT=row.documents_BT, with_logits=False)
    hidden_ND = output.hidden_BTD[row.labels_BT != IGNORED]
    return source.model.logits(hidden_ND[None])[0].float().log_softmax(-1)


def _cross_entropy(log_probs_NV: Tensor, labels_N: Tensor) -> float:
    return float(F.nll_loss(log_probs_NV, labels_N, reduction="sum"))


def density_histogram(density_F: Tensor) -> list[tuple[float, int]]:
    """Return lower edges, as powers of ten from -6, and numbers of latents that fire; dead ones are not in it."""
    alive = density_F[density_F > 0].double().log10().clamp(-6, 0)
    counts = torch.histc(alive, DENSITY_BINS, -6, 0).to(torch.int64).tolist() if len(alive) else [0] * DENSITY_BINS
    return [(-6 + 6 * number / DENSITY_BINS, count) for number, count in enumerate(counts)]
