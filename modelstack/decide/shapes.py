"""Dense shape for a number of parameters: Qwen3's block, as in our nano sizes.

The ratio of width to depth is 64 up to width 1,024 (nanochat's single dial), 128 from width 4,096 (Llama 3), and
proportional to the square root of the width in between; depth is adjusted to meet the number of parameters. Widths
lie on a grid that becomes coarser, so that tensor parallelism can divide the heads. The MLP is 3 times as wide as
the model. Heads have 64 channels, or 128 from width 2,048; two heads share keys and values if their number is
even. Below that width the embedding is tied, as usual for small models.

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
"""Width from which heads are twice as wide and the embedding is not tied."""
WIDTHS = (*range(64, 1024, 64), *range(1024, 2048, 256), *range(2048, 4096, 512), *range(4096, 32769, 1024))


def dense_shape(n_parameters: float, vocab_size: int, context: int) -> ModelConfig:
    """Return the shape whose number of parameters, embeddings included, is nearest in ratio to the given number.

    Raises:
        UserError: The number is below the smallest shape or above the widest one.
    """
    # Parameters grow with the width, so the nearest shape is one of two neighbours in the bisection.
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
    """Return the standard depth for a width, and its neighbours."""
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
