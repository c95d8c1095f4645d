"""Every parameter of every family is moved once, by the optimizer that the sheet gives it to."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from modelstack.architecture.config import build
from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.optimizers.grouping import placed_parameters
from modelstack.train.optimizers.matrices import Fusion, join, split
from tests.modelstack.architecture.families import FAMILIES
from tests.modelstack.train.toys import family_model

VECTOR_LEAVES = {"sinks", "position_bias", "base", "scale", "hc_base", "hc_scale", "A_log", "dt_bias"}


def delta_net() -> CausalLM:
    return CausalLM(
        build(
            {
                "model_type": "qwen3",
                "vocab_size": 64,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "attn_output_gate": True,
                "layer_types": ("linear_attention", "full_attention"),
                "mlp_layer_types": ("dense",) * 2,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
            }
        )
    )


MODELS = {family: lambda family=family: family_model(family) for family in FAMILIES} | {
    "gated_delta_net": delta_net,
    "deepseek_v3 with mtp": lambda: family_model("deepseek_v3", num_nextn_predict_layers=1),
    "deepseek_v4 with mtp": lambda: family_model("deepseek_v4", num_nextn_predict_layers=1),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["muon", "adamw"])
def test_no_parameter_is_left_out_and_none_moved_twice(name: str, method: str) -> None:
    model = MODELS[name]()
    optimizer = build_optimizer(model, OptimizerConfig.model_validate({"name": method}))
    moved = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(moved) == len(set(moved))
    assert set(moved) == {id(p) for p in model.parameters()}
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert set(names) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_muon_moves_the_matrices_and_nothing_else(name: str) -> None:
    for placed in placed_parameters(MODELS[name]()):
        leaf = placed.name.rpartition(".")[2]
        is_matrix = placed.parameter.ndim > 1 and not leaf.endswith("bias") and "conv1d" not in placed.name
        if "embed_tokens" in placed.name:
            assert placed.role == "embedding"
        elif placed.name == "lm_head.weight":
            assert placed.role == "head"
        elif leaf in VECTOR_LEAVES or "norm" in placed.name or not is_matrix:
            assert placed.role == "vector", placed.name
        else:
            assert placed.role == "matrix", placed.name


def test_what_the_sheet_names_of_deepseek_v4_is_where_it_says() -> None:
    roles = {placed.name: placed.role for placed in placed_parameters(family_model("deepseek_v4"))}
    by_leaf = {name.rpartition(".")[2]: role for name, role in roles.items() if not name.endswith("weight")}
    assert by_leaf == {
        **dict.fromkeys(("sinks", "position_bias", "base", "scale", "hc_base", "hc_scale"), "vector"),
        **dict.fromkeys(("fn", "hc_fn", "gate_up_proj", "down_proj"), "matrix"),
    }
    assert {role for name, role in roles.items() if name.endswith("mlp.gate.weight")} == {"matrix"}


@pytest.mark.parametrize(
    ("name", "suffix", "fusion"),
    [
        ("qwen3_moe", "experts.gate_up_proj", Fusion(-2, (32, 32))),
        ("gpt_oss", "experts.gate_up_proj", Fusion(-1, (1, 1), 32)),
        ("deepseek_v3", "kv_b_proj.weight", Fusion(-2, (16, 16), 4)),
        ("deepseek_v3", "kv_a_proj_with_mqa.weight", Fusion(-2, (16, 8))),
        ("deepseek_v4", "o_a_proj.weight", Fusion(-2, (16, 16))),
        ("gated_delta_net", "in_proj_qkv.weight", Fusion(-2, (16, 16, 32))),
        ("gated_delta_net", "q_proj.weight", Fusion(-2, (16, 16), 2)),
    ],
)
def test_fused_matrices_are_known(name: str, suffix: str, fusion: Fusion) -> None:
    fusions = {p.name: p.fusion for p in placed_parameters(MODELS[name]()) if p.fusion is not None}
    assert {found for name, found in fusions.items() if name.endswith(suffix)} == {fusion}


@pytest.mark.parametrize("fusion", [None, Fusion(-2, (3, 5), 2), Fusion(-1, (1, 1), 6), Fusion(-2, (4, 4, 8))])
def test_what_is_split_is_joined_as_it_was(fusion: Fusion | None) -> None:
    x = torch.randn(3, 16, 12)
    pieces = split(x, fusion)
    assert len(pieces) == (len(fusion.sizes) if fusion else 1)
    assert torch.equal(join(pieces, fusion), x)


def test_a_tied_head_is_moved_as_the_embedding() -> None:
    model = family_model("qwen3")
    roles = {placed.name: placed.role for placed in placed_parameters(model)}
    assert roles["model.embed_tokens.weight"] == "embedding"
    assert "lm_head.weight" not in roles


def test_roles_have_learning_rates_and_decays_of_their_own() -> None:
    config = OptimizerConfig(lr=1.0, muon_lr=2.0, embedding_lr=3.0, head_lr=4.0, weight_decay=0.2)
    optimizer = build_optimizer(family_model("llama"), config)
    by_role = {group["role"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert by_role == {"matrix": (2.0, 0.2), "embedding": (3.0, 0.2), "head": (4.0, 0.2), "vector": (1.0, 0.0)}


def test_a_pattern_gives_matrices_to_adamw() -> None:
    optimizer = build_optimizer(family_model("qwen3_moe"), OptimizerConfig(adamw_names=("*.gate.weight",)))
    method = {name: group["method"] for group in optimizer.param_groups for name in group["names"]}
    assert {method[name] for name in method if name.endswith(".gate.weight")} == {"adamw"}
    assert {method[name] for name in method if name.endswith("q_proj.weight")} == {"muon"}


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"adamw_names '\*\.gates\.weight' matches no matrix"):
        build_optimizer(family_model("qwen3_moe"), OptimizerConfig(adamw_names=("*.gates.weight",)))


def test_frozen_parameters_are_left_alone() -> None:
    model = family_model("llama")
    model.model.embed_tokens.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig())
    assert "embedding" not in {group["role"] for group in optimizer.param_groups}


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimizerConfig())


def test_an_unknown_key_of_the_config_is_an_error() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        OptimizerConfig.model_validate({"learning_rate": 1.0})
