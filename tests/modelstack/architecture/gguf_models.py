"""Toy models that llama.cpp can run, one of each family: sizes as small as its kernels take, all parts in use."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import Exported, export_gguf
from modelstack.architecture.presets.registry import from_hf
from modelstack.tokenizer.chat import CHATML_END, CHATML_START
from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from tests.modelstack.architecture.families import FAMILIES
from tests.modelstack.architecture.parity import COMMON, poisoned

VOCAB_SIZE = 288
"""256 bytes, some merged pairs, control tokens, and rows without a token."""
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
UNROUNDED = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}
"""As gpt-oss was released."""
SCALED_V3 = YARN | {"mscale": 0.7, "mscale_all_dim": 0.7}
OTHER_V3 = {
    "n_group": 1,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 20,
    "v_head_dim": 24,
}
V4: dict[str, Any] = {
    "index_head_dim": 64,
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
    "max_position_embeddings": 512,
}
V4_YARN = YARN | {"partial_rotary_factor": 0.25, "attention_factor": 1.0}
V4_MAIN = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
V4_ROPE = {"main": V4_MAIN, "compress": V4_YARN}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama, Llama 3 scaling": ("llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "llama, linear scaling": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "llama, YaRN": ("llama", {"rope_parameters": YARN}),
    "llama, YaRN of other length": ("llama", {"rope_parameters": YARN | {"attention_factor": 1.3}}),
    "qwen2": ("qwen2", {}),
    "qwen2, a head of its own": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", {}),
    "qwen3, wide heads": ("qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
    "qwen3_moe": ("qwen3_moe", {"norm_topk_prob": True}),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 3, "final_logit_softcapping": 5.0}),
    "smollm3": ("smollm3", {}),
    "olmo3": ("olmo3", {}),
    "gpt_oss": ("gpt_oss", {}),
    "gpt_oss, YaRN": ("gpt_oss", {"rope_parameters": YARN | {"truncate": True}, "head_dim": 32}),
    "gpt_oss, YaRN unrounded": ("gpt_oss", {"rope_parameters": UNROUNDED}),
    "deepseek_v3": ("deepseek_v3", {}),
    "deepseek_v3, other sizes": ("deepseek_v3", OTHER_V3),
    "deepseek_v3, YaRN": ("deepseek_v3", {"rope_parameters": SCALED_V3, "first_k_dense_replace": 0}),
    "deepseek_v3, prediction module": ("deepseek_v3", {"num_nextn_predict_layers": 1}),
    "deepseek_v4": ("deepseek_v4", V4),
    "deepseek_v4, YaRN": ("deepseek_v4", V4 | {"rope_parameters": V4_ROPE, "swiglu_limit": 0.2}),
}


def toy_config(name: str, **changes: Any) -> ModelConfig:
    """Return a config of `MODELS`, with changed keys of `config.json`."""
    model_type, keys = MODELS[name]
    json = COMMON | FAMILIES[model_type] | keys | {"vocab_size": VOCAB_SIZE, "model_type": model_type} | changes
    if "layer_types" in json:
        json["layer_types"] = (json["layer_types"] * 4)[: json["num_hidden_layers"]]
    return from_hf(json)


def toy_model(config: ModelConfig, seed: int = 0) -> CausalLM:
    """Return a poisoned model."""
    torch.manual_seed(seed)
    model = CausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                # gpt-oss clamps at 7, which llama.cpp has fixed: biases that reach it.
                parameter.normal_(std=3.0 if name.endswith("gate_up_proj_bias") else 0.02)
    poisoned(model, seed)
    return model.eval()


def toy_file(model: CausalLM, path: Path, type_name: str = "f32") -> Exported:
    """Export a toy model with the toy tokenizer."""
    return export_gguf(model.config, model.state_dict(), toy_tokenizer(), path, type_name=type_name, name="toy")


def toy_tokenizer(vocab_size: int = VOCAB_SIZE) -> dict[str, Any]:
    """Return the metadata of a byte-level tokenizer: 256 bytes, a few merges, two control tokens."""
    alphabet = _byte_alphabet()
    merges = [("t", "h"), ("i", "n"), ("th", "e"), ("a", "n")]
    tokens = [*alphabet, *("".join(pair) for pair in merges), "<|begin|>", "<|end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 2) + [3, 3],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": tokens.index("<|begin|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|end|>"),
        "tokenizer.ggml.padding_token_id": tokens.index("<|end|>"),
        "tokenizer.ggml.add_bos_token": False,
    }


@cache
def toy_chat_tokenizer() -> TextTokenizer:
    """Return the toy tokenizer with ChatML's tokens."""
    fields = toy_tokenizer() | {"tokenizer.ggml.pre": "gpt-2"}
    tokens = [*fields["tokenizer.ggml.tokens"], CHATML_START, CHATML_END]
    fields |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*fields["tokenizer.ggml.token_type"], 3, 3],
        "tokenizer.ggml.eos_token_id": tokens.index(CHATML_END),
    }
    return tokenizer_from_fields(fields, Path("toy"))


def _byte_alphabet() -> list[str]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for code points from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
