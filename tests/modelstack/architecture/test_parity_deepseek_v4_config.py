"""DeepSeek-V4's config.json: the released form, transformers' form, and the sizes by name."""

from typing import Any

import pytest
import torch
from families import FAMILIES

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.deepseek_v4 import HEAVY, SLIDING, SPARSE
from modelstack.architecture.presets.registry import from_hf, published, to_hf
from modelstack.errors import UserError

RELEASED: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "expert_dtype": "fp4",
    "num_hidden_layers": 5,
    "vocab_size": 129280,
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "compress_ratios": [0, 0, 4, 128, 4, 0],
    "num_hash_layers": 3,
    "qk_rope_head_dim": 64,
    "head_dim": 512,
    "compress_rope_theta": 160000,
    "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 16,
        "original_max_position_embeddings": 65536,
        "type": "yarn",
    },
    "topk_method": "noaux_tc",
}


def transformers_json(json: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    return AutoConfig.for_model(**json).to_dict()


def test_the_released_form_says_what_transformers_reads_in_it() -> None:
    config = from_hf(RELEASED)
    assert config == from_hf(transformers_json(RELEASED))
    assert config.layer_types == (SLIDING, SLIDING, SPARSE, HEAVY, SPARSE)
    assert config.mlp_layer_types == ("hash_moe",) * 3 + ("moe",) * 2
    assert config.qk_rope_head_dim == 64
    plain, compress = config.rope_parameters[SLIDING], config.rope_parameters[HEAVY]
    assert (plain.rope_type, plain.rope_theta) == ("default", 10000)
    assert (compress.rope_type, compress.rope_theta, compress.factor) == ("yarn", 160000, 16)
    assert compress.attention_factor == 1.0


@pytest.mark.parametrize("name", ["deepseek-v4-flash", "deepseek-v4-pro", "nano-v4"])
def test_what_we_write_transformers_reads_and_writes_back(name: str) -> None:
    config = published(name)
    assert from_hf(transformers_json(to_hf(config))) == config


def test_toy_keys_of_transformers_come_back() -> None:
    config = from_hf(transformers_json({"model_type": "deepseek_v4", "vocab_size": 99} | FAMILIES["deepseek_v4"]))
    assert from_hf(to_hf(config)) == config
    assert config.num_nextn_predict_layers == 0


@pytest.mark.parametrize(
    ("name", "kinds", "n_billion"),
    [
        ("deepseek-v4-flash", {SLIDING: 2, SPARSE: 21, HEAVY: 20}, 284),
        ("deepseek-v4-pro", {SPARSE: 30, HEAVY: 31}, 1573),
    ],
)
def test_published_sizes_have_the_published_layers_and_parameters(
    name: str, kinds: dict[str, int], n_billion: int
) -> None:
    config = published(name)
    assert {kind: config.layer_types.count(kind) for kind in set(config.layer_types)} == kinds
    with torch.device("meta"):
        model = CausalLM(config.with_(num_nextn_predict_layers=0))
    # 284 and 1600 billion are named; Pro's counts the module for multi-token prediction.
    assert round(sum(p.numel() for p in model.parameters()) / 1e9) == n_billion


def test_nano_v4_is_small_exports_and_quantises() -> None:
    config = published("nano-v4")
    model = CausalLM(config)
    assert 5e6 < sum(p.numel() for p in model.parameters()) < 15e6
    assert {config.compress_rates[kind] for kind in (SPARSE, HEAVY)} == {4, 128}
    assert config.index_head_dim == 64
    assert config.mlp_layer_types[0] == "hash_moe" and "hash_moe" not in config.mlp_layer_types[1:]
    assert set(config.layer_types) == {SLIDING, SPARSE, HEAVY}
    for name, parameter in model.named_parameters():
        is_quantised = parameter.ndim > 1 and not name.endswith("position_bias")
        assert not is_quantised or parameter.shape[-1] % 256 == 0, (name, parameter.shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compress_ratios": None}, "layer_types or compress_ratios"),
        ({"compress_ratios": [0, 0, 4, 8, 4]}, r"\[8\].*\[0, 4, 128\]"),
        ({"layer_types": ["full_attention"] * 5}, "full_attention"),
        ({"compress_ratios": [0, 4]}, "names 2 layers"),
    ],
)
def test_a_config_json_that_does_not_say_its_layers_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_hf(RELEASED | changes)
