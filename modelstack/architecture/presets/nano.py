"""Small models of this project: published architectures, sized for training on a CPU and for quantisation.

Every row of every matrix is a multiple of 256 long, the block of llama.cpp's K-quants, so no tensor falls back to
a coarser type. `nano-2m` is the exception: two cores train it from scratch in 20 minutes, and its rows fit the
quantisations with blocks of 32 (Q8_0, Q4_0). The architectures are families that transformers, vLLM and llama.cpp
support, so the models run without code of this project. The vocabulary is 16,384, the default of `modelstack
tokenizer train`; 4,096 for the smallest.

The small DeepSeek-V4 is defined beside its family, in `presets.deepseek_v4`.
"""

from __future__ import annotations

from modelstack.architecture.presets.preset import Json

_ALL: Json = {"vocab_size": 16384, "max_position_embeddings": 2048, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6}
_DENSE: Json = _ALL | {"model_type": "qwen3", "head_dim": 64, "tie_word_embeddings": True}

SIZES: dict[str, Json] = {
    "nano-2m": _DENSE
    | {
        "vocab_size": 4096,
        "head_dim": 32,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "nano-9m": _DENSE
    | {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "nano-34m": _DENSE
    | {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "nano-110m": _DENSE
    | {
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 14,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "nano-moe-24m": _ALL
    | {
        "model_type": "qwen3_moe",
        "head_dim": 64,
        "hidden_size": 256,
        "intermediate_size": 768,
        "moe_intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
    },
}
"""`config.json` of each size, by name."""
