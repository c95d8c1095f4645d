"""How many parameters a model has, by part, and how many of them one token's pass reads.

Makers count differently, so both readings of "active" are here: with the embedding table, of which a token reads
one row, and without (gpt-oss's card leaves it out, Qwen3's does not). A tied table is the head's matrix.

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
    """A model's parameters; multi-token prediction is beside the model and in no sum but its own."""

    parts: Mapping[str, Weights]
    """By kind of block, all layers together."""
    mtp: Weights
    """All modules of multi-token prediction; they share embedding and head."""

    @property
    def model(self) -> Weights:
        """Return the sum of all parts."""
        return sum(self.parts.values(), Weights())

    @property
    def total(self) -> int:
        """Return all parameters of the model."""
        return self.model.total

    @property
    def total_with_mtp(self) -> int:
        """Return the same with the modules of multi-token prediction."""
        return self.total + self.mtp.total

    @property
    def embedding(self) -> int:
        """Return the entries of the embedding table."""
        return self.parts[EMBEDDING].total

    @property
    def active_with_embedding(self) -> int:
        """Return the parameters outside the experts that a token is not sent to."""
        return self.model.active

    @property
    def active(self) -> int:
        """Return the same without an embedding table that is only looked up."""
        return self.active_with_embedding - (self.embedding if self.parts[HEAD].total else 0)

    @property
    def buffers(self) -> Mapping[str, tuple[int, int]]:
        """Return what is stored but is no parameter: entries and bytes of each, by name."""
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
