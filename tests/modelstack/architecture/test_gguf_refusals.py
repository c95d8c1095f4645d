"""A model that llama.cpp would compute otherwise, or abort at, is refused before a byte is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_models import V4_MAIN, V4_YARN, YARN, toy_config, toy_file, toy_model, toy_tokenizer

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.export import export_gguf
from modelstack.architecture.gguf.family import metadata
from modelstack.architecture.gguf.registry import family_of
from modelstack.errors import UserError

CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "soft-capped attention in llama": ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "soft-capped logits in qwen3": ("qwen3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "ALiBi in llama": ("llama", {"position_embedding": "alibi"}, "position_embedding is 'alibi'"),
    "another activation": ("llama", {"hidden_act": "relu2"}, "hidden_act"),
    "another norm": ("qwen3", {"norm_type": "rmsnorm_zero_centred"}, "norm_type"),
    "rotations by layer type": (
        "llama",
        {"rope_parameters": {"full_attention": {"rope_theta": 500.0}}},
        "set for full_attention: 'llama' needs default",
    ),
    "sinks in qwen3": ("qwen3", {"attention_sinks": True}, "attention_sinks"),
    "another scale": ("qwen3", {"query_pre_attn_scalar": 7.0}, "query_pre_attn_scalar"),
    "another scale in gemma3": (
        "gemma3",
        {"query_pre_attn_scalar": 7.0},
        "is 7.0.*uses 16",
    ),
    "a bias on qwen3's output": ("qwen3", {"attention_out_bias": True}, "no bias on o_proj"),
    "layers that do not rotate": (
        "smollm3",
        {"no_rope_layers": (1, 0, 1, 0)},
        r"is .*\[1, 1, 1, 0\]",
    ),
    "weights not divided": ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob is false"),
    "a tied head in olmo2": ("olmo3", {"tie_word_embeddings": True}, "tie_word_embeddings is true.*copy"),
    "another clamp in gpt-oss": ("gpt_oss", {"swiglu_limit": 9.0}, "swiglu_limit"),
    "V3 of 27 layers": (
        "deepseek_v3",
        {"num_hidden_layers": 27, "layer_types": ("latent_attention",) * 27, "mlp_layer_types": ("moe",) * 27},
        "num_hidden_layers is 27",
    ),
    "V3 with another epsilon": ("deepseek_v3", {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05.*set it to 1e-06"),
    "V3 rotating halves": ("deepseek_v3", {"rope_interleave": False}, "rope_interleave is False"),
    "V3 with all groups": ("deepseek_v3", {"topk_group": 2}, "set n_group to 1"),
    "V4 with three streams": ("deepseek_v4", {"hc_mult": 3}, "hc_mult is 3"),
    "V4 with narrow index heads": ("deepseek_v4", {"index_head_dim": 16}, "index_head_dim is 16.*multiple of 64"),
    "V4 compressing by 16": (
        "deepseek_v4",
        {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16}},
        "compress_rates are .*16",
    ),
    "V4 without an indexer": (
        "deepseek_v4",
        {"layer_types": ("shared_kv_sliding_attention",) * 4, "index_topk": None},
        "index_topk must be set",
    ),
    "V4 with hash layers behind": (
        "deepseek_v4",
        {"mlp_layer_types": ("moe", "hash_moe", "moe", "moe")},
        "hash_moe layers first",
    ),
}
JSONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a window in qwen3": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
        "sliding_attention.*has no windows",
    ),
    "dynamic scaling": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16}},
        "rope_type 'dynamic'.*linear, yarn, llama3",
    ),
    "Llama 3 scaling in qwen3": (
        "qwen3",
        {"rope_parameters": {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 16}},
        "rope_type 'llama3'",
    ),
    "half a head rotated": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    "YaRN unrounded": ("llama", {"rope_parameters": YARN | {"truncate": False}}, "truncate false.*set it to true"),
    "YaRN of other betas": ("llama", {"rope_parameters": YARN | {"beta_fast": 16.0}}, "beta_fast 16.0"),
    "YaRN of V3 without mscale": ("deepseek_v3", {"rope_parameters": YARN}, "equal mscales"),
    "V4 scaling plain layers": (
        "deepseek_v4",
        {"rope_parameters": {"main": V4_YARN, "compress": V4_YARN}},
        "scale plain layers",
    ),
    "V4 with longer rotations": (
        "deepseek_v4",
        {"rope_parameters": {"main": V4_MAIN, "compress": V4_YARN | {"attention_factor": 1.2}}},
        "attention_factor 1.2",
    ),
    "olmo3 with two bases": (
        "olmo3",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            }
        },
        "rope_parameters of sliding_attention",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decision_that_llama_cpp_does_not_know_is_named_and_refused(name: str) -> None:
    model, changes, message = CONFIGS[name]
    _assert_refused(toy_config(model).with_(**changes), message)


@pytest.mark.parametrize("name", JSONS)
def test_a_config_json_that_llama_cpp_cannot_follow_is_refused(name: str) -> None:
    model, keys, message = JSONS[name]
    _assert_refused(toy_config(model, **keys), message)


def test_gemma3_of_62_layers_scales_by_the_width_a_head() -> None:
    """llama.cpp takes it for the 27B model, whose query_pre_attn_scalar is not its head_dim."""
    layers = {"num_hidden_layers": 62, "layer_types": ["sliding_attention"] * 62, "head_dim": 32}
    metadata(family_of("gemma3_text"), toy_config("gemma3", **layers, query_pre_attn_scalar=16))
    _assert_refused(toy_config("gemma3", **layers, query_pre_attn_scalar=32), "always uses 16")


def test_nothing_is_written_when_a_model_is_refused(tmp_path: Path) -> None:
    model = toy_model(toy_config("qwen3").with_(final_logit_softcapping=30.0))
    with pytest.raises(UserError, match="final_logit_softcapping"):
        toy_file(model, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_there_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelstack.architecture.gguf import export

    def full(*_: object) -> None:
        raise OSError("no space left")

    model = toy_model(toy_config("qwen3"))
    path = tmp_path / "m.gguf"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(export, "encode", full)
    with pytest.raises(OSError, match="no space left"):
        export_gguf(model.config, model.state_dict(), toy_tokenizer(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    ("type_name", "message"),
    [
        ("q8_0", r"multiples of 32.*ffn_down.weight 80.*fit: f32, f16, bf16"),
        ("q4_k", r"multiples of 256.*fit: f32, f16, bf16"),
        ("q9", "'q9' is not known; known: f32, f16"),
    ],
)
def test_rows_that_blocks_do_not_fill_are_refused(tmp_path: Path, type_name: str, message: str) -> None:
    model = toy_model(toy_config("qwen3", intermediate_size=80))
    with pytest.raises(UserError, match=message):
        toy_file(model, tmp_path / "m.gguf", type_name)
    assert not list(tmp_path.iterdir())


def test_a_state_dict_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = toy_model(toy_config("qwen3"))
    weights = dict(model.state_dict())
    with pytest.raises(UserError, match="has lora.weight, which this config's model does not contain"):
        export_gguf(
            model.config, model.state_dict() | {"lora.weight": torch.ones(1)}, toy_tokenizer(), tmp_path / "m"
        )
    weights["model.norm.weight"] = torch.ones(32)
    with pytest.raises(UserError, match=r"model.norm.weight has shape \(32,\), but the config requires \(64,\)"):
        export_gguf(model.config, weights, toy_tokenizer(), tmp_path / "m.gguf")
    del weights["model.norm.weight"]
    with pytest.raises(UserError, match="has no model.norm.weight"):
        export_gguf(model.config, weights, toy_tokenizer(), tmp_path / "m.gguf")


def test_a_head_that_is_not_the_embedding_is_no_tied_head(tmp_path: Path) -> None:
    model = toy_model(toy_config("qwen3", tie_word_embeddings=True))
    weights = model.state_dict() | {"lm_head.weight": model.lm_head.weight + 1}
    with pytest.raises(UserError, match="lm_head.weight differs from model.embed_tokens.weight; set it to false"):
        export_gguf(model.config, weights, toy_tokenizer(), tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("value", "type_name", "message"),
    [
        (float("nan"), "f32", "token_embd.weight contains nan"),
        (float("inf"), "q8_0", "token_embd.weight contains inf"),
        (1e5, "f16", "token_embd.weight contains 100000.0, beyond F16's maximum 65504.0; use bf16"),
    ],
)
def test_numbers_that_the_type_does_not_hold_are_refused(
    tmp_path: Path, value: float, type_name: str, message: str
) -> None:
    model = toy_model(toy_config("llama"))
    with torch.no_grad():
        model.model.embed_tokens.weight[3, 5] = value
    with pytest.raises(UserError, match=message):
        toy_file(model, tmp_path / "m.gguf", type_name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.tokens": None}, "no tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": None}, "no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": []}, "empty list"),
        ({"tokenizer.ggml.tokens": ["a"]}, "differ in length"),
        ({"tokenizer.ggml.tokens": ["a"] * 300, "tokenizer.ggml.token_type": [1] * 300}, "300 tokens.*288"),
        ({"llama.block_count": 3}, "only keys tokenizer"),
        ({"tokenizer.ggml.eos_token_id": -1}, r"integers outside 0\.\.4294967295"),
        ({"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.x": {"a": 1}}, "holds dict; it must be bool"),
        ({"tokenizer.ggml.merges": ["t h", 3]}, "holds int, str; it must be bool"),
    ],
)
def test_tokenizer_fields_that_llama_cpp_refuses_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    model = toy_model(toy_config("qwen3"))
    fields = {key: value for key, value in (toy_tokenizer() | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        export_gguf(model.config, model.state_dict(), fields, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_losses_of_training_are_no_obstacle() -> None:
    config = toy_config("qwen3_moe").with_(z_loss_coef=1e-4, router_z_loss_coef=1e-3, initializer_range=0.01)
    assert metadata(family_of("qwen3_moe"), config) == metadata(family_of("qwen3_moe"), toy_config("qwen3_moe"))


def test_a_family_that_llama_cpp_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match="'rwkv' cannot be exported as GGUF.*deepseek_v3, deepseek_v4, gemma3"):
        family_of("rwkv")


def _assert_refused(config: ModelConfig, message: str) -> None:
    family = family_of(config.model_type)
    with pytest.raises(UserError, match=f"cannot be exported as GGUF '{family.arch}': .*{message}"):
        metadata(family, config)
