"""Toy models of every family and kind of block, for the tests that hold the counting formulas against reality."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import from_hf, to_hf

COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GQA: dict[str, Any] = COMMON | {"num_key_value_heads": 2, "head_dim": 24, "intermediate_size": 80}
MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 40}
V4_LAYERS = [
    "sliding_attention",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
    "compressed_sparse_attention",
]

TOYS: dict[str, dict[str, Any]] = {
    "llama": GQA,
    "qwen2": GQA,
    "qwen3": GQA,
    "gemma3_text": GQA
    | {
        "sliding_window": 16,
        "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "olmo3": COMMON
    | {
        "num_key_value_heads": 2,
        "intermediate_size": 80,
        "sliding_window": 16,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "smollm3": COMMON | {"num_key_value_heads": 2, "intermediate_size": 80, "num_hidden_layers": 4},
    "qwen3_moe": GQA | MOE | {"num_experts": 8, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "gpt_oss": GQA
    | {
        "intermediate_size": 40,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "deepseek_v3": COMMON
    | MOE
    | {
        "num_key_value_heads": 4,
        "intermediate_size": 80,
        "q_lora_rank": 40,
        "kv_lora_rank": 48,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "num_nextn_predict_layers": 1,
    },
    "deepseek_v4": COMMON
    | MOE
    | {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "q_lora_rank": 40,
        "qk_rope_head_dim": 8,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "sliding_window": 8,
        "o_groups": 2,
        "o_lora_rank": 24,
        "index_n_heads": 16,
        "index_head_dim": 16,
        "index_topk": 4,
        "hc_mult": 4,
        "layer_types": V4_LAYERS,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
        "num_nextn_predict_layers": 1,
    },
}
"""A `config.json` for each preset; sizes differ from each other so that no two can be mistaken."""


def toy(model_type: str, **changes: Any) -> ModelConfig:
    """Return the toy of a family."""
    return from_hf({"model_type": model_type, **TOYS[model_type], **changes})


def variants() -> dict[str, ModelConfig]:
    """Return models with decisions that no family's toy has, by what is special in them."""
    llama = toy("llama")
    deltas = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 24,
    }
    hybrid = ("linear_attention", "linear_attention", "full_attention")
    return {
        "all biases": llama.with_(attention_bias=True, attention_out_bias=True, mlp_bias=True),
        "one kv head": llama.with_(num_key_value_heads=1),
        "tied": llama.with_(tie_word_embeddings=True),
        "layer norm": llama.with_(norm_type="layernorm", norm_placement="sandwich", qk_norm="head"),
        "no gate": llama.with_(mlp_gated=False, hidden_act="relu2"),
        "output gate": llama.with_(attn_output_gate=True),
        "sinks": llama.with_(attention_sinks=True),
        "soft-cap": llama.with_(attn_logit_softcapping=30.0),
        "hyper-connections": llama.with_(norm_placement="hyper", hc_mult=3),
        "gated deltanet": toy("llama", hidden_size=128).with_(layer_types=hybrid, **deltas),
        "one query stage": toy("deepseek_v3", q_lora_rank=None, num_nextn_predict_layers=0),
        "shared expert gate": toy("deepseek_v3", num_nextn_predict_layers=2).with_(shared_expert_gate=True),
    }


def on_meta(config: ModelConfig) -> CausalLM:
    """Return our model without storage: shapes only, whatever its size."""
    with torch.device("meta"):
        return CausalLM(config)


def reference_on_meta(config: ModelConfig) -> nn.Module:
    """Return transformers' model of the config that we write, without storage."""
    from transformers import AutoConfig, AutoModelForCausalLM

    json = to_hf(config)
    json.pop("architectures")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(json.pop("model_type"), **json))


def n_parameters(module: nn.Module) -> int:
    """Return the entries of all parameters, a shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def persistent_buffers(module: nn.Module) -> dict[str, int]:
    """Return the entries of the buffers that a checkpoint holds, by the last part of their names."""
    found: dict[str, int] = {}
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in module.state_dict().items():
        if name not in parameters:
            last = name.rpartition(".")[2]
            found[last] = found.get(last, 0) + tensor.numel()
    return found
