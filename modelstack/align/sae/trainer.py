"""Trainer of an autoencoder on batches of states, wherever they come from.

States are scaled so that their mean length is the root of their width (Anthropic, April 2024), which makes one
learning rate fit all places; the finished autoencoder reads states as they are. It begins with the geometric
median as the decoder's bias and with the decoder's rows as encoder. Rows of the decoder stay at length 1: the part
of their gradient along themselves is removed, and they are normalised after each step.

Letters: N tokens, D and O widths of input and output, F latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.align.sae.autoencoder import Autoencoder, AutoencoderConfig
from modelstack.align.sae.sae_recipe import SaeForm
from modelstack.align.sae.training_losses import loss_of
from modelstack.train.schedules import ScheduleConfig, schedule

BETAS = (0.9, 0.999)
THRESHOLD_RATE = 10.0
"""Learning rate of learnt thresholds over that of the weights: few tokens are near a threshold."""
MEDIAN_STEPS, MEDIAN_TOLERANCE = 100, 1e-6
FIRST_TOKENS = 8192
"""Tokens that scales, median and first thresholds are taken from."""


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Figures of a step."""

    loss: float
    unexplained: float
    """Mean squared error over the variance of the batch."""
    n_active: float
    """Active latents of a token."""
    n_dead: int
    """Latents that did not fire for long, before the step."""
    norm: float
    """Norm of the gradient before it is scaled down."""


class SaeTrainer:
    """State of a training."""

    def __init__(
        self,
        form: SaeForm,
        d_in: int,
        d_out: int,
        *,
        rate: float,
        factors: ScheduleConfig,
        max_norm: float = 1.0,
        seed: int = 0,
        is_transcoder: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        """Draw the rows of the decoder; `begin` sets the rest from the first states.

        Args:
            form: Architecture and loss.
            d_in: Width of the input.
            d_out: Width of the output.
            rate: Highest learning rate.
            factors: Its course.
            max_norm: Maximum gradient norm.
            seed: Seed of the first weights.
            is_transcoder: Whether the output is another state than the input.
            device: Device of the weights.
        """
        self.form = form
        config = AutoencoderConfig(
            activation="topk" if form.kind == "topk" else "jumprelu",
            d_in=d_in,
            d_out=d_out,
            n_latents=form.latents,
            k=form.k if form.kind == "topk" else None,
            is_transcoder=is_transcoder,
            has_skip=form.skip,
        )
        self.autoencoder = Autoencoder(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.autoencoder.decoder_FO.normal_(generator=generator)
            self.autoencoder.encoder_FD.normal_(generator=generator)
        self.autoencoder.to(device)
        _normalise_(self.autoencoder.decoder_FO)
        if is_transcoder:
            _normalise_(self.autoencoder.encoder_FD)
        self._learns_threshold = form.kind == "jumprelu"
        self._parameters = [
            parameter
            for name, parameter in self.autoencoder.named_parameters()
            if name != "threshold_F" or self._learns_threshold
        ]
        threshold_F = self.autoencoder.threshold_F if self._learns_threshold else None
        others = [parameter for parameter in self._parameters if parameter is not threshold_F]
        groups = [{"params": others}, *([{"params": [threshold_F]}] if threshold_F is not None else [])]
        self._optimizer = torch.optim.Adam(groups, lr=rate, betas=BETAS, fused=True)
        self._rates = (rate, THRESHOLD_RATE * rate)
        self._factor, self._max_norm = schedule(factors), max_norm
        self.n_steps = 0
        self.n_tokens = 0
        self.scale_in = self.scale_out = 1.0
        """Factors on input and output: mean lengths become the roots of the widths."""
        self.quiet_F = torch.zeros(form.latents, dtype=torch.int64, device=device)
        """Tokens since each latent fired."""
        self.threshold: float | None = None
        """Average of the lowest active value; None before the first step."""
        self._bar = 0.0

    @torch.no_grad()
    def begin(self, x_ND: Tensor, y_NO: Tensor) -> None:
        """Set scales, biases and encoder by some states."""
        x_ND, y_NO = x_ND[:FIRST_TOKENS].float(), y_NO[:FIRST_TOKENS].float()
        self.scale_in, self.scale_out = _scale(x_ND), _scale(y_NO)
        x_ND, y_NO = x_ND * self.scale_in, y_NO * self.scale_out
        model = self.autoencoder
        model.decoder_bias_O.copy_(geometric_median(y_NO))
        if model.config.is_transcoder:
            # No bias is taken off the input: the encoder's own centres it.
            model.encoder_bias_F.copy_(-model.encoder_FD @ geometric_median(x_ND))
        else:
            model.encoder_FD.copy_(model.decoder_FO)
        if self._learns_threshold:
            assert model.threshold_F is not None
            scores_NF = model.pre_activations(x_ND)
            n_below = round(len(x_ND) * (1 - self.form.k / self.form.latents))
            lowest = scores_NF.kthvalue(max(1, min(n_below, len(x_ND))), dim=0).values
            model.threshold_F.copy_(lowest.clamp_min(0))

    def step(self, x_ND: Tensor, y_NO: Tensor | None = None) -> StepFigures:
        """Learn from a batch of states; without `y_NO` the input is the wanted output."""
        x_ND = x_ND.float() * self.scale_in
        wanted_NO = x_ND if y_NO is None else y_NO.float() * self.scale_out
        dead_A = (self.quiet_F >= self.form.dead_after).nonzero().squeeze(1)
        loss = loss_of(self.autoencoder, self.form, x_ND, wanted_NO, dead_A, 0.8 * self._bar)
        self._optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        decoder_FO = self.autoencoder.decoder_FO
        with torch.no_grad():
            assert decoder_FO.grad is not None
            along_F1 = (decoder_FO.grad * decoder_FO).sum(1, keepdim=True)
            decoder_FO.grad.sub_(along_F1 * decoder_FO)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=False):
            group["lr"] = rate * self._factor(self.n_steps)
        self._optimizer.step()
        _normalise_(decoder_FO)
        if self._learns_threshold and self.autoencoder.threshold_F is not None:
            with torch.no_grad():
                self.autoencoder.threshold_F.clamp_min_(0)
        self.quiet_F += len(x_ND)
        self.quiet_F[loss.is_fired_F] = 0
        self._follow(loss.lowest)
        self.n_steps += 1
        self.n_tokens += len(x_ND)
        variance = float((wanted_NO - wanted_NO.mean(0)).square().mean())
        unexplained = loss.rebuilt / variance if variance else math.inf
        return StepFigures(float(loss.total.detach()), unexplained, loss.n_active, len(dead_A), float(norm))

    def _follow(self, lowest: float | None) -> None:
        if lowest is None:
            return
        self._bar = lowest
        rate = self.form.threshold_rate
        self.threshold = lowest if self.threshold is None else (1 - rate) * self.threshold + rate * lowest

    @torch.no_grad()
    def finished(self) -> Autoencoder:
        """Return the autoencoder for states as they are, without scales; the training can go on."""
        own = self.autoencoder
        found = Autoencoder(own.config)
        state = {name: value.detach().clone() for name, value in own.state_dict().items()}
        state["encoder_FD"] *= self.scale_in / self.scale_out
        state["encoder_bias_F"] /= self.scale_out
        state["decoder_bias_O"] /= self.scale_out
        if "skip_OD" in state:
            state["skip_OD"] *= self.scale_in / self.scale_out
        if "threshold_F" in state:
            if not self._learns_threshold:
                state["threshold_F"].fill_(self.threshold or 0.0)
            state["threshold_F"] /= self.scale_out
        found.load_state_dict(state)
        return found.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "weights": dict(self.autoencoder.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "n_steps": self.n_steps,
            "n_tokens": self.n_tokens,
            "scales": [self.scale_in, self.scale_out],
            "quiet": self.quiet_F,
            "threshold": self.threshold,
            "bar": self._bar,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of the same form."""
        self.autoencoder.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.n_steps, self.n_tokens = state["n_steps"], state["n_tokens"]
        self.scale_in, self.scale_out = state["scales"]
        self.quiet_F.copy_(state["quiet"])
        self.threshold, self._bar = state["threshold"], state["bar"]


def geometric_median(x_ND: Tensor) -> Tensor:
    """Return the point with the least sum of distances to all (Weiszfeld's iteration), [D]."""
    median_D = x_ND.mean(0)
    for _ in range(MEDIAN_STEPS):
        weights_N = 1 / (x_ND - median_D).norm(dim=1).clamp_min(1e-6)
        next_D = (weights_N / weights_N.sum()) @ x_ND
        moved = float((next_D - median_D).norm())
        median_D = next_D
        if moved <= MEDIAN_TOLERANCE * float(median_D.norm().clamp_min(1e-12)):
            break
    return median_D


def _scale(x_ND: Tensor) -> float:
    length = float(x_ND.double().norm(dim=1).mean())
    return math.sqrt(x_ND.shape[1]) / length if length else 1.0


@torch.no_grad()
def _normalise_(rows_FD: Tensor) -> None:
    rows_FD.copy_(F.normalize(rows_FD, dim=1))
