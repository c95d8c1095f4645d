"""A dense shape for a number of parameters: Qwen3's block, as in our nano sizes.

Width over depth is 64 up to a width of 1,024 (nanochat's one dial), 128 from 4,096 on (Llama 3), and between them
the root of the width joins both; depth gives way to meet the number. Widths lie on a grid that grows coarser, so
that heads divide by what tensor parallelism asks. The MLP is 3 widths wide; heads have 64 channels, 128 from a
width of 2,048 on, and two of them share keys and values where their number is even. The table is tied below that
width, as small models do.

Letters: D width, L layers, V vocabulary, N parameters.
"""

from __future__ import annotations

from bisect import bisect_left
from math import log, sqrt

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.presets.registry import from_hf
from modelstack.errors import UserError

LARGE = 2048
"""From this width on heads are twice as wide and the table is not tied."""
WIDTHS = (*range(64, 1024, 64), *range(1024, 2048, 256), *range(2048, 4096, 512), *range(4096, 32769, 1024))


def dense_shape(n_parameters: float, vocab_size: int, context: int) -> ModelConfig:
    """Return the shape whose parameters, embeddings included, are nearest to a number by ratio.

    Raises:
        UserError: The number is smaller than the smallest shape, or larger than the widest.
    """
    # Parameters grow with the width, so the nearest is one of two neighbours of a halving.
    at = bisect_left(WIDTHS, n_parameters, 1, len(WIDTHS) - 1, key=lambda D: _size(D, vocab_size, context))
    config = min(
        (_shape(D, depth, vocab_size, context) for D in WIDTHS[at - 1 : at + 1] for depth in _depths(D)),
        key=lambda shape: abs(log(count_parameters(shape).total / n_parameters)),
    )
    ratio = count_parameters(config).total / n_parameters
    if not 0.5 < ratio < 2:
        raise UserError(
            f"no dense shape with a vocabulary of {vocab_size:,} has about {n_parameters:.3g} parameters, the "
            f"nearest has {count_parameters(config).total:,}; change budget or vocabulary, or name a preset"
        )
    return config


def _depths(width: int) -> list[int]:
    """Return the depth that suits a width, and its neighbours."""
    depth = max(1, round(width / min(128.0, max(64.0, 2 * sqrt(width)))))
    return list(range(max(1, depth - depth // 4 - 1), depth + max(3, depth // 4) + 1))


def _size(width: int, vocab_size: int, context: int) -> int:
    depths = _depths(width)
    return count_parameters(_shape(width, depths[len(depths) // 2], vocab_size, context)).total


def _shape(width: int, depth: int, vocab_size: int, context: int) -> ModelConfig:
    channels = 128 if width >= LARGE else 64
    n_heads = width // channels
    return from_hf(
        {
            "model_type": "qwen3",
            "vocab_size": vocab_size,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": n_heads,
            "num_key_value_heads": n_heads // 2 if n_heads % 2 == 0 else n_heads,
            "head_dim": channels,
            "max_position_embeddings": context,
            "rope_theta": 10_000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": width < LARGE,
        }
    )
