"""Number of parameters of a model, by part, and number of parameters that one token's pass reads.

Model makers count active parameters differently, so two numbers are given: with the embedding table, of which a
token reads one row, and without (gpt-oss's card excludes it, Qwen3's includes it). A tied table counts as the
head's matrix.

Letters: D model width, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.mtp import mtp_weights
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.residual import hyper_head
from modelstack.architecture.counts.terms import Weights, norm_weights

EMBEDDING, HEAD, FINAL_NORM = "embedding", "head", "final_norm"


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters of a model. Multi-token prediction is counted separately and only in its own sums."""

    parts: Mapping[str, Weights]
    """Weights by kind of block, all layers together."""
    mtp: Weights
    """Weights of all multi-token prediction modules; they share embedding and head with the model."""

    @property
    def model(self) -> Weights:
        """Sum of all parts."""
        return sum(self.parts.values(), Weights())

    @property
    def total(self) -> int:
        """Number of parameters of the model."""
        return self.model.total

    @property
    def total_with_mtp(self) -> int:
        """Number of parameters including the multi-token prediction modules."""
        return self.total + self.mtp.total

    @property
    def embedding(self) -> int:
        """Number of entries of the embedding table."""
        return self.parts[EMBEDDING].total

    @property
    def active_with_embedding(self) -> int:
        """Number of parameters outside the experts that a token is not routed to."""
        return self.model.active

    @property
    def active(self) -> int:
        """Active parameters without an embedding table that is only looked up."""
        return self.active_with_embedding - (self.embedding if self.parts[HEAD].total else 0)

    @property
    def buffers(self) -> Mapping[str, tuple[int, int]]:
        """Stored tensors that are not parameters: number of entries and bytes per entry, by name."""
        return self.model.buffers


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count a model's parameters."""
    parts: dict[str, Weights] = defaultdict(Weights)
    table = config.vocab_size * config.hidden_size
    parts[EMBEDDING] += Weights(matrices=table)
    for part, layer, formula in layers(config):
        parts[part] += formula.weights(config, layer)
    if config.norm_placement == "hyper":
        parts["hyper_connections"] += hyper_head(config)
    parts[FINAL_NORM] += Weights(vectors=norm_weights(config))
    parts[HEAD] += Weights(matrices=0 if config.tie_word_embeddings else table)
    return ParameterCount(dict(parts), mtp_weights(config))
