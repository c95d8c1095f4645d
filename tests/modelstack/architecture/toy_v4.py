"""Toy models of DeepSeek-V4's kind, poisoned so that every parameter takes part."""

from typing import Any

import torch
from parity import poisoned

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import from_hf

KINDS = {0: "sliding_attention", 4: "compressed_sparse_attention", 16: "heavily_compressed_attention"}


def toy_config(ratios: tuple[int, ...] = (0, 4, 16, 4), **keys: Any) -> ModelConfig:
    """Return a config with layers that compress by these rates; 2 index heads, so that many scores are equal."""
    return from_hf(
        {
            "model_type": "deepseek_v4",
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": len(ratios),
            "num_attention_heads": 4,
            "head_dim": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "o_groups": 2,
            "o_lora_rank": 8,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_topk": 3,
            "hc_mult": 2,
            "layer_types": [KINDS[ratio] for ratio in ratios],
            "compress_rates": {kind: ratio for ratio, kind in KINDS.items() if ratio},
            "num_hash_layers": 1,
            "num_nextn_predict_layers": 0,
            **keys,
        }
    )


def toy_model(config: ModelConfig, seed: int = 0) -> CausalLM:
    """Return a poisoned model."""
    torch.manual_seed(seed)
    model = CausalLM(config)
    poisoned(model, seed)
    return model.eval()
