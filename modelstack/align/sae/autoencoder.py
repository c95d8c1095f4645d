"""Sparse autoencoder: a state as a bias and a few directions out of many, each with a positive value.

Codes are the `k` highest pre-activations of a token (TopK, 2406.04093), or all above a threshold (JumpReLU,
2407.14435). The encoder sees the state without the decoder's bias. A transcoder (2406.11944) reads the input of an
MLP and writes its output: it subtracts no bias, and may pass its input on through a matrix (skip, 2501.18823).
Rows of the decoder have length 1, so a value is the length of its part of the state.

Letters: N tokens, D width of the input, O width of the output, F latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn

from modelstack.align.sae.codes import Codes, above, combination, top_latents

Activation = Literal["topk", "jumprelu"]
CHUNK = 4096
"""Tokens whose pre-activations of all latents are in memory at a time."""


class AutoencoderConfig(BaseModel, frozen=True, extra="forbid"):
    """Form of an autoencoder."""

    activation: Activation
    """Codes: the `k` highest latents of a token, or all above their threshold."""
    d_in: int = Field(gt=0)
    """Width of the input."""
    d_out: int = Field(gt=0)
    """Width of the output."""
    n_latents: int = Field(gt=0)
    """Number of latents."""
    k: int | None = Field(default=None, gt=0)
    """Active latents of a token in `topk`."""
    is_transcoder: bool = False
    """Whether output and input are different states."""
    has_skip: bool = False
    """Whether a matrix passes the input on."""

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if (self.activation == "topk") != (self.k is not None):
            raise ValueError(f"activation = {self.activation!r} with k = {self.k}: k belongs to topk alone")
        if self.k is not None and self.k > self.n_latents:
            raise ValueError(f"k = {self.k} of {self.n_latents} latents: at most all can be active")
        if not self.is_transcoder and (self.d_in != self.d_out or self.has_skip):
            raise ValueError("only a transcoder has an output of another width, or a skip matrix")
        return self


class Autoencoder(nn.Module):
    """A trained autoencoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        """Create the parameters, all zero."""
        super().__init__()
        self.config = config
        n_latents, d_in, d_out = config.n_latents, config.d_in, config.d_out
        self.encoder_FD = nn.Parameter(torch.zeros(n_latents, d_in))
        self.encoder_bias_F = nn.Parameter(torch.zeros(n_latents))
        self.decoder_FO = nn.Parameter(torch.zeros(n_latents, d_out))
        self.decoder_bias_O = nn.Parameter(torch.zeros(d_out))
        self.threshold_F = nn.Parameter(torch.zeros(n_latents)) if config.activation == "jumprelu" else None
        self.skip_OD = nn.Parameter(torch.zeros(d_out, d_in)) if config.has_skip else None

    def bias_F(self) -> Tensor:
        """Return the encoder's bias for a state from which no bias is taken off, [F]."""
        if self.config.is_transcoder:
            return self.encoder_bias_F
        return self.encoder_bias_F - self.encoder_FD @ self.decoder_bias_O

    def pre_activations(self, x_ND: Tensor) -> Tensor:
        """Return the values of all latents before codes are chosen, [N, F]."""
        return torch.addmm(self.bias_F(), x_ND, self.encoder_FD.T)

    @torch.no_grad()
    def encode(self, x_ND: Tensor) -> Codes:
        """Return the codes of some tokens."""
        scores_NF = self.pre_activations(x_ND.to(self.encoder_FD))
        if self.threshold_F is None:
            assert self.config.k is not None
            pattern = top_latents(scores_NF, self.config.k)
        else:
            pattern = above(scores_NF, self.threshold_F)
        return Codes(pattern, scores_NF[pattern.tokens_M, pattern.latents_M].relu())

    def decode(self, codes: Codes, x_ND: Tensor) -> Tensor:
        """Return the output of codes, [N, O]; a skip matrix also reads the input."""
        y_NO = combination(codes.values_M, self.decoder_FO, codes.pattern) + self.decoder_bias_O
        return y_NO if self.skip_OD is None else y_NO + x_ND.to(y_NO) @ self.skip_OD.T

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return the output for some tokens, in the encoder's number type."""
        return torch.cat([self.decode(self.encode(part), part) for part in chunks(x_ND)])


def chunks(x_ND: Tensor) -> Iterator[Tensor]:
    """Yield at most `CHUNK` tokens at a time."""
    yield from x_ND.split(CHUNK)
