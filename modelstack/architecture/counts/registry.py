"""The formula for each kind of block, under the keys of `attention.registry` and of `feed_forward`.

Formulas are separate from the classes that they describe, so counting needs no torch. A test fails if a class has
no formula here.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.compressed import COMPRESSED_SPARSE, HEAVILY_COMPRESSED, SHARED_KV_SLIDING
from modelstack.architecture.counts.delta_net import GATED_DELTA_NET
from modelstack.architecture.counts.feed_forward import DENSE, HASH_MOE, MOE
from modelstack.architecture.counts.grouped import GROUPED
from modelstack.architecture.counts.latent import LATENT
from modelstack.architecture.counts.residual import RESIDUAL_FORMULAS
from modelstack.architecture.counts.terms import BlockFormula

ATTENTION_FORMULAS: dict[str, BlockFormula] = {
    "full_attention": GROUPED,
    "sliding_attention": GROUPED,
    "latent_attention": LATENT,
    "shared_kv_sliding_attention": SHARED_KV_SLIDING,
    "compressed_sparse_attention": COMPRESSED_SPARSE,
    "heavily_compressed_attention": HEAVILY_COMPRESSED,
    "linear_attention": GATED_DELTA_NET,
}
FEED_FORWARD_FORMULAS: dict[str, BlockFormula] = {"dense": DENSE, "moe": MOE, "hash_moe": HASH_MOE}


def layers(config: ModelConfig, first: int = 0) -> Iterator[tuple[str, int, BlockFormula]]:
    """Yield the part, the layer number and the formula of every block of the layers from `first`."""
    for layer in range(first, config.num_hidden_layers):
        attention, feed_forward = config.layer_types[layer], config.mlp_layer_types[layer]
        yield attention, layer, ATTENTION_FORMULAS[attention]
        yield feed_forward, layer, FEED_FORWARD_FORMULAS[feed_forward]
        part, formula = RESIDUAL_FORMULAS[config.norm_placement]
        yield part, layer, formula
