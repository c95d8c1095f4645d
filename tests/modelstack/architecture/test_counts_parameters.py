"""Parameter formulas against our model, transformers' and the makers' figures."""

import subprocess
import sys
from typing import get_args

import pytest
from count_cases import TOYS, n_parameters, on_meta, persistent_buffers, reference_on_meta, toy, variants

from modelstack.architecture.attention.registry import ATTENTION
from modelstack.architecture.blocks import BLOCKS
from modelstack.architecture.config import LayerType, MlpType
from modelstack.architecture.counts.parameters import EMBEDDING, HEAD, count_parameters
from modelstack.architecture.counts.registry import ATTENTION_FORMULAS, FEED_FORWARD_FORMULAS
from modelstack.architecture.counts.residual import RESIDUAL_FORMULAS
from modelstack.architecture.feed_forward import FEED_FORWARD
from modelstack.architecture.presets.registry import PRESETS, published

SIZES = sorted(name for preset in PRESETS.values() for name in preset.sizes)
VARIANTS = variants()

PUBLISHED = {
    # total, and active where there are experts, as their makers' reports and cards print them
    "llama-3-8b": ("8.03B", None),
    "llama-3-70b": ("70.6B", None),
    "llama-3.1-405b": ("405.9B", None),
    "smollm2-135m": ("134.5M", None),
    "qwen2.5-coder-0.5b": ("0.49B", None),
    "qwen2.5-coder-1.5b": ("1.54B", None),
    "qwen3-0.6b": ("0.6B", None),
    "qwen3-30b-a3b": ("30.5B", "3.3B"),
    "gemma3-1b": ("1.0B", None),
    "olmo3-7b": ("7.3B", None),
    "smollm3-3b": ("3.08B", None),
    "gpt-oss-20b": ("20.9B", "3.6B"),
    "gpt-oss-120b": ("116.8B", "5.1B"),
    "deepseek-v3": ("671B", "37B"),
    "deepseek-v4-flash": ("284B", "13B"),
    "deepseek-v4-pro": ("1.6T", "49B"),
}
ACTIVE_RTOL = 0.03
"""Makers count active parameters with the embedding table or without: the nearer reading counts."""
UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}


def test_every_registered_kind_has_a_formula() -> None:
    assert set(ATTENTION) <= set(ATTENTION_FORMULAS)
    assert set(get_args(LayerType)) == set(ATTENTION_FORMULAS)
    assert set(FEED_FORWARD) <= set(FEED_FORWARD_FORMULAS)
    assert set(get_args(MlpType)) == set(FEED_FORWARD_FORMULAS)
    assert set(BLOCKS) == set(RESIDUAL_FORMULAS)


def test_every_preset_has_a_toy_and_every_published_size_its_figure() -> None:
    assert set(PRESETS) <= set(TOYS)
    assert {name for name in SIZES if not name.startswith("nano")} <= set(PUBLISHED)


def test_counting_loads_no_torch() -> None:
    code = (
        "import sys; from modelstack.architecture.counts import parameters, flops, memory; "
        "from modelstack.architecture.presets.registry import published; "
        "parameters.count_parameters(published('llama-3-8b')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("size", "total"), [("qwen2.5-coder-0.5b", 494_032_768), ("qwen2.5-coder-1.5b", 1_543_714_304)]
)
def test_qwen2_sizes_have_as_many_parameters_as_their_checkpoints(size: str, total: int) -> None:
    assert count_parameters(published(size)).total == n_parameters(on_meta(published(size))) == total


@pytest.mark.parametrize("model_type", PRESETS)
def test_toys_have_as_many_parameters_as_both_models(model_type: str) -> None:
    config = toy(model_type)
    count = count_parameters(config)
    assert count.total_with_mtp == n_parameters(on_meta(config))
    assert count.total == n_parameters(reference_on_meta(config))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_decision_changes_the_count_as_it_changes_the_model(name: str) -> None:
    assert count_parameters(VARIANTS[name]).total_with_mtp == n_parameters(on_meta(VARIANTS[name]))


@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_every_block_has_as_many_parameters_as_its_formula_says(name: str) -> None:
    config = VARIANTS[name] if name in VARIANTS else toy(name)
    model = on_meta(config)
    for layer, block in enumerate(model.model.layers):
        attention = ATTENTION_FORMULAS[config.layer_types[layer]].weights(config, layer)
        feed_forward = FEED_FORWARD_FORMULAS[config.mlp_layer_types[layer]].weights(config, layer)
        around = RESIDUAL_FORMULAS[config.norm_placement][1].weights(config, layer)
        assert attention.total == n_parameters(block.self_attn)  # pyright: ignore
        assert feed_forward.total == n_parameters(block.mlp)  # pyright: ignore
        assert attention.total + feed_forward.total + around.total == n_parameters(block)
    if model.mtp is not None:
        assert count_parameters(config).mtp.total == n_parameters(model.mtp)


@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_matrices_are_the_weights_of_two_axes_and_more(name: str) -> None:
    config = VARIANTS[name] if name in VARIANTS else toy(name)
    count = count_parameters(config)
    tables = ("position_bias", "conv1d.weight", "gate_up_proj_bias", "down_proj_bias")
    matrices = sum(
        parameter.numel()
        for parameter_name, parameter in on_meta(config).named_parameters()
        if parameter.ndim > 1 and not parameter_name.endswith(tables)
    )
    assert (count.model + count.mtp).matrices == matrices


@pytest.mark.parametrize("model_type", PRESETS)
def test_buffers_are_counted_apart_from_parameters(model_type: str) -> None:
    config = toy(model_type)
    count = count_parameters(config)
    entries = {name: n for name, (n, _) in (count.model + count.mtp).buffers.items()}
    assert entries == persistent_buffers(on_meta(config))


@pytest.mark.parametrize("model_type", [name for name in PRESETS if toy(name).has_experts])
def test_active_leaves_out_the_experts_that_a_token_is_not_sent_to(model_type: str) -> None:
    config = toy(model_type)
    count, model = count_parameters(config), on_meta(config.with_(num_nextn_predict_layers=0))
    experts = sum(p.numel() for name, p in model.named_parameters() if ".mlp.experts." in name)
    assert config.n_routed_experts and config.num_experts_per_tok
    share = 1 - config.num_experts_per_tok / config.n_routed_experts
    assert experts > 0
    assert count.active_with_embedding == n_parameters(model) - share * experts
    assert count.active == count.active_with_embedding - config.vocab_size * config.hidden_size


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_as_many_parameters_as_both_models(name: str) -> None:
    config = published(name)
    count = count_parameters(config)
    assert count.total_with_mtp == n_parameters(on_meta(config))
    assert count.total == n_parameters(reference_on_meta(config))


@pytest.mark.parametrize("name", [name for name in SIZES if name in PUBLISHED])
def test_published_sizes_round_to_the_published_figures(name: str) -> None:
    total, active = PUBLISHED[name]
    count = count_parameters(published(name))
    digits = len(total[:-1].partition(".")[2])
    assert round(count.total / UNITS[total[-1]], digits) == float(total[:-1])
    if active is not None:
        readings = (count.active, count.active_with_embedding)
        expected = float(active[:-1]) * UNITS[active[-1]]
        assert min(abs(reading / expected - 1) for reading in readings) < ACTIVE_RTOL


def test_a_tied_table_is_counted_once_and_stays_active() -> None:
    count = count_parameters(VARIANTS["tied"])
    assert count.parts[HEAD].total == 0
    assert count.active == count.active_with_embedding == count.total
    assert count.embedding == count.parts[EMBEDDING].total == 96 * 64
