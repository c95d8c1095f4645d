"""FLOPs of a forward pass, of a training step, of one decoded token.

Counted are matrix products and convolutions, with two FLOPs per multiply-add: weights times tokens, scores and
mixes of attention, an indexer's scores and in training its loss, a recurrence's updates, the mixing of residual
streams, the head. Not counted are norms, activations, softmax, rotations and lookups. A backward pass costs two
products for each product of the forward pass, and none where there is no gradient. Recomputation by a kernel
(flash attention's scores, checkpointed activations) is not counted, as in MFU (PaLM, arXiv 2204.02311, whose
formula counts full attention).

`attention="full"` counts every pair of a query and an available key, as torch's FlopCounterMode does and a masked
kernel computes. "causal" counts only the pairs that the mask allows, about half.

Letters: D model width, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.mtp import mtp_work
from modelstack.architecture.counts.parameters import HEAD
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.residual import hyper_head
from modelstack.architecture.counts.terms import Attention, Span, Work, block_work, matrix_work
from modelstack.errors import UserError


@dataclass(frozen=True, slots=True)
class FlopCount:
    """FLOPs of one sequence, by part."""

    parts: Mapping[str, Work]

    @property
    def forward(self) -> int:
        """FLOPs of the forward pass."""
        return sum(self.parts.values(), Work()).forward

    @property
    def backward(self) -> int:
        """FLOPs that training adds to the forward pass."""
        return sum(self.parts.values(), Work()).backward

    @property
    def training(self) -> int:
        """FLOPs of both passes."""
        return self.forward + self.backward


def count_flops(
    config: ModelConfig,
    n_tokens: int,
    n_past: int = 0,
    *,
    attention: Attention = "causal",
    last_only: bool = False,
    mtp: bool = False,
) -> FlopCount:
    """Count one pass over `n_tokens` tokens of one sequence after `n_past` tokens in the cache.

    Args:
        config: The model.
        n_tokens: Number of tokens that are computed.
        n_past: Number of tokens in the cache.
        attention: The pairs that are counted, see above.
        last_only: Count the logits of the last token only.
        mtp: Include the multi-token prediction modules, as in training; for whole sequences only.

    Raises:
        UserError: A number is too small, or multi-token prediction was requested with past tokens.
    """
    _check(config, n_tokens, n_past, mtp)
    span = Span(n_tokens, n_past, attention)
    parts: dict[str, Work] = defaultdict(Work)
    for part, layer, formula in layers(config):
        parts[part] += block_work(formula, config, layer, span)
    if config.norm_placement == "hyper":
        parts["hyper_connections"] += matrix_work(hyper_head(config), n_tokens)
    parts[HEAD] += Work(2 * (1 if last_only else n_tokens) * config.hidden_size * config.vocab_size)
    if mtp:
        parts["mtp"] += mtp_work(config, span)
    return FlopCount(dict(parts))


def training_flops_per_token(
    config: ModelConfig, context: int, *, attention: Attention = "causal", mtp: bool = False
) -> float:
    """Return the FLOPs of forward and backward pass per token of a sequence of `context`: MFU's numerator."""
    return count_flops(config, context, attention=attention, mtp=mtp).training / context


def decode_flops(config: ModelConfig, n_past: int) -> int:
    """Return the FLOPs of one token after `n_past` tokens."""
    return count_flops(config, 1, n_past).forward


def _check(config: ModelConfig, n_tokens: int, n_past: int, mtp: bool) -> None:
    if n_tokens < 1:
        raise UserError(f"n_tokens {n_tokens} must be at least 1")
    if n_past < 0:
        raise UserError(f"n_past {n_past} must be at least 0")
    if mtp and n_past:
        raise UserError(f"n_past {n_past} must be 0 with mtp: multi-token prediction trains on whole sequences")
    if mtp and n_tokens <= config.n_mtp_predictions:
        raise UserError(
            f"n_tokens {n_tokens} is too few for {config.n_mtp_predictions} multi-token predictions; "
            f"give at least {config.n_mtp_predictions + 1}"
        )
