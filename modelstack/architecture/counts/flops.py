"""FLOPs of a forward pass, of a training step, of one decoded token.

Counted are matrix products and convolutions, a multiply-add as two: weights times tokens, scores and mixes of
attention, an indexer's scores and in training its loss, a recurrence's updates, the mixing of residual streams,
the head. Not counted are norms, activations, softmax, rotations and lookups. A backward pass costs two products
for each of the forward's, and none where there is no gradient; what a kernel computes again (flash attention's
scores, checkpointed activations) is no work of the model, as in MFU (PaLM, arXiv 2204.02311; its own formula takes
attention in full).

With `attention="full"` every query meets every key on offer, which is what torch's FlopCounterMode counts and a
masked kernel computes; with "causal" only what the mask lets through, about half.

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
        """Return the FLOPs of the forward pass."""
        return sum(self.parts.values(), Work()).forward

    @property
    def backward(self) -> int:
        """Return what training adds to the forward pass."""
        return sum(self.parts.values(), Work()).backward

    @property
    def training(self) -> int:
        """Return the FLOPs of both passes."""
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
    """Count one pass over `n_tokens` of one sequence behind `n_past` in the cache.

    Args:
        config: The model.
        n_tokens: Tokens that are computed.
        n_past: Tokens that the cache holds.
        attention: Which pairs count, see above.
        last_only: The head computes the logits of the last token alone.
        mtp: With the modules of multi-token prediction, as in training; for whole sequences.

    Raises:
        UserError: A number is too small, or multi-token prediction was asked for behind a cache.
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
    """Return the FLOPs of forward and backward pass for a token of a sequence of `context`: MFU's numerator."""
    return count_flops(config, context, attention=attention, mtp=mtp).training / context


def decode_flops(config: ModelConfig, n_past: int) -> int:
    """Return the FLOPs of one token behind `n_past`."""
    return count_flops(config, 1, n_past).forward


def _check(config: ModelConfig, n_tokens: int, n_past: int, mtp: bool) -> None:
    if n_tokens < 1:
        raise UserError(f"n_tokens {n_tokens} must be at least 1")
    if n_past < 0:
        raise UserError(f"n_past {n_past} must be at least 0")
    if mtp and n_past:
        raise UserError(f"n_past {n_past} must be 0 with mtp: multi-token prediction trains on whole sequences")
    if mtp and n_tokens <= config.num_nextn_predict_layers:
        raise UserError(
            f"n_tokens {n_tokens} is too few for {config.num_nextn_predict_layers} modules of multi-token "
            f"prediction; give at least {config.num_nextn_predict_layers + 1}"
        )
