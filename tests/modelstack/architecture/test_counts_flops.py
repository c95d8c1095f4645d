"""FLOP formulas against torch's counter: forward, training, behind a cache, at toy and published sizes.

What the counter counts: matrix products and convolutions, two FLOPs a multiply-add; attention in full, masked or
not (so `attention="full"`). On a CPU it does not know the fused attention kernel, so attention runs unfused here;
nor grouped products and triangular solves, which it is told of; and it counts the weight gradient of a depthwise
convolution as if it were not depthwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

import pytest
import torch
from count_cases import on_meta, toy, variants
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from modelstack.architecture.attention import delta_net, indexer, indexer_loss
from modelstack.architecture.config import DEEPSEEK_V4_KINDS, ModelConfig
from modelstack.architecture.counts.delta_net import CHUNK
from modelstack.architecture.counts.flops import count_flops, decode_flops, training_flops_per_token
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.decoder import CausalLM, ModelOutput
from modelstack.architecture.presets.registry import PRESETS, published
from modelstack.architecture.rope import inverse_frequencies


def kinds_and_layers(name: str) -> tuple[int, int]:
    """Return the order of sizes: more kinds of layers first, then fewer layers."""
    config = published(name)
    return -len(set(zip(config.layer_types, config.mlp_layer_types, strict=True))), config.num_hidden_layers


SIZES = sorted(name for preset in PRESETS.values() for name in preset.sizes)
OF_FAMILIES = sorted(min(preset.sizes, key=kinds_and_layers) for preset in PRESETS.values())
"""The size of each family with all of its kinds of layers, and with the fewest layers: others repeat them."""
VARIANTS = variants()
N_TOKENS, BATCH = 150, 2
N_WHOLE, N_LONG = 4096, 16384
"""Tokens of whole models, and of single layers: more than any window, with more entries than an indexer takes."""
aten = torch.ops.aten


def _grouped_mm(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Rows [S, K] by one of E matrices each; or, for their gradient, [K, S] by [S, N]."""
    return 2 * prod(a) * b[-1]


def _triangular_solve(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return prod(b) * b[-2]


def _depthwise_backward(grad: Any, x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    assert weight[1] == 1
    return 2 * 2 * prod(grad) * weight[-1]


TOLD = {
    aten._grouped_mm: _grouped_mm,
    aten.linalg_solve_triangular: _triangular_solve,
    aten.convolution_backward: _depthwise_backward,
}


class WholeModel(ModuleTracker):
    """Follows no modules: torch's tracker fails at one that is called without gradients, as an indexer is."""

    def __enter__(self) -> "WholeModel":
        return self

    def __exit__(self, *args: object) -> None:
        pass


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    counter = FlopCounterMode(display=False, custom_mapping=TOLD)
    counter.mod_tracker = WholeModel()
    # In one block an indexer scores all entries, as "full" says; in several it leaves out later ones.
    one_block = patch.object(indexer, "FLOATS_AT_ONCE", 2**62)
    # Its loss, too, computes scores again where there are several.
    one_block_of_loss = patch.object(indexer_loss, "FLOATS_AT_ONCE", 2**62)
    with sdpa_kernel(SDPBackend.MATH), one_block, one_block_of_loss, counter:
        yield counter


def case(name: str) -> ModelConfig:
    return VARIANTS[name] if name in VARIANTS else toy(name)


def tolerance(config: ModelConfig) -> float:
    """Exact, but where the model cuts long inputs to bound its memory, or a gradient is no plain product."""
    kinds = set(config.layer_types)
    return 0.01 if "linear_attention" in kinds else 0.002 if kinds & DEEPSEEK_V4_KINDS else 0.0


def cut_alike(config: ModelConfig) -> bool:
    """Whether pieces do the same work as the whole: latents are absorbed behind a cache, chunks are padded, and a
    short context makes no choice of entries."""
    return not {"latent_attention", "linear_attention", "compressed_sparse_attention"} & set(config.layer_types)


def ids(n_tokens: int, vocab_size: int, device: str = "cpu", batch: int = BATCH) -> torch.Tensor:
    return (torch.arange(n_tokens, device=device) % vocab_size).expand(batch, -1)


def of_indexers(output: ModelOutput) -> torch.Tensor | float:
    return sum(one.divergence_BT.sum() for one in output.index_divergence.values())


@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_forward_and_backward_of_toys_cost_what_torch_counts(name: str) -> None:
    config = case(name)
    torch.manual_seed(0)
    model = CausalLM(config)
    with torch.no_grad(), counting() as counter:
        model(ids(N_TOKENS, config.vocab_size))
        forward = counter.get_total_flops()
    with counting() as counter:
        output = model(ids(N_TOKENS, config.vocab_size))
        (output.logits_BTV.square().sum() + of_indexers(output)).backward()
        training = counter.get_total_flops()
    count = count_flops(config, N_TOKENS, attention="full")
    assert BATCH * count.forward == pytest.approx(forward, rel=tolerance(config))
    assert BATCH * count.training == pytest.approx(training, rel=tolerance(config))


@torch.no_grad()
@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_a_chunk_and_a_token_behind_a_cache_cost_what_torch_counts(name: str) -> None:
    config = case(name)
    model = CausalLM(config)
    cache = model.new_cache()
    for n_tokens in (70, 33, 1, 1):
        n_past = cache.n_tokens
        with counting() as counter:
            model(ids(n_tokens, config.vocab_size), cache=cache, last_only=True)
        count = count_flops(config, n_tokens, n_past, attention="full", last_only=True)
        assert BATCH * count.forward == pytest.approx(counter.get_total_flops(), rel=tolerance(config)), (
            n_tokens,
            n_past,
        )


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", [name for name in PRESETS if toy(name).num_nextn_predict_layers])
def test_multi_token_prediction_costs_what_torch_counts(name: str, steps: int) -> None:
    config = toy(name).with_(mtp_steps=steps)
    model = CausalLM(config)
    with counting() as counter:
        output = model(ids(N_TOKENS, config.vocab_size), with_mtp=True)
        loss = output.logits_BTV.square().sum() + of_indexers(output)
        for module in output.mtp:
            loss = loss + model.logits(module.hidden_BTD).square().sum()
        loss.backward()
    count = count_flops(config, N_TOKENS, attention="full", mtp=True)
    assert BATCH * count.training == pytest.approx(counter.get_total_flops(), rel=tolerance(config))
    assert count.training > 1.05 * count_flops(config, N_TOKENS, attention="full").training


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", OF_FAMILIES)
def test_published_sizes_cost_what_torch_counts(name: str) -> None:
    config = published(name)
    with counting() as counter:
        shapes_only(config)(ids(N_WHOLE, config.vocab_size, "meta", batch=1))
    assert count_flops(config, N_WHOLE, attention="full").forward == pytest.approx(
        counter.get_total_flops(), rel=tolerance(config)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_training_a_layer_of_each_kind_at_published_width_costs_what_torch_counts(name: str) -> None:
    config = published(name)
    kinds = tuple(dict.fromkeys(zip(config.layer_types, config.mlp_layer_types, strict=True)))
    attention, feed_forward = zip(*kinds, strict=True)
    config = config.with_(
        num_hidden_layers=len(kinds), layer_types=attention, mlp_layer_types=feed_forward, no_rope_layers=()
    )
    with counting() as counter:
        output = shapes_only(config)(ids(N_LONG, config.vocab_size, "meta", batch=1))
        (output.logits_BTV.sum() + of_indexers(output)).backward()
    assert count_flops(config, N_LONG, attention="full").training == pytest.approx(
        counter.get_total_flops(), rel=tolerance(config)
    )


@pytest.mark.parametrize("name", ["llama-3.1-405b", "deepseek-v4-flash"])
def test_a_model_runs_where_the_meta_device_is_the_default(name: str) -> None:
    config = published(name)
    config = config.with_(
        num_hidden_layers=1, layer_types=config.layer_types[-1:], mlp_layer_types=config.mlp_layer_types[-1:]
    )
    inverse_frequencies.cache_clear()  # what was computed on another device would hide the fault
    with torch.device("meta"):
        assert shapes_only(config)(ids(8, config.vocab_size, "meta")).logits_BTV.shape == (2, 8, config.vocab_size)


def shapes_only(config: ModelConfig) -> CausalLM:
    """Return a model of bf16 (grouped products have no fp32 on the meta device).

    Sinkhorn's iterations are no matrix products and would take most of the test's time.
    """
    return on_meta(config.with_(hc_sinkhorn_iters=1)).to(torch.bfloat16)


def test_causal_attention_costs_half_of_full_and_windows_less() -> None:
    dense, context = published("llama-3-8b"), 8192
    full = count_flops(dense, context, attention="full")
    causal = count_flops(dense, context)
    scores = 4 * context**2 * dense.num_attention_heads * dense.head_dim * dense.num_hidden_layers
    assert full.forward - causal.forward == scores - scores * (context + 1) // (2 * context)
    windowed = dense.with_(layer_types=("sliding_attention",) * 32, sliding_window=128)
    seen = 128 * 129 // 2 + (context - 128) * 128
    assert causal.forward - count_flops(windowed, context).forward == (
        4 * (context * (context + 1) // 2 - seen) * dense.num_attention_heads * dense.head_dim * 32
    )


@pytest.mark.parametrize("name", [name for name in (*PRESETS, *VARIANTS) if cut_alike(case(name))])
def test_a_sequence_costs_the_same_in_one_pass_and_in_pieces(name: str) -> None:
    config = case(name)
    pieces = [(20, 0), (13, 20), *((1, past) for past in range(33, 150))]
    assert sum(count_flops(config, n, past).forward for n, past in pieces) == count_flops(config, 150).forward


def test_training_costs_six_flops_a_weight_and_token_and_attention() -> None:
    """PaLM's 6 N + 12 L H d T, its attention in full."""
    config, context = published("llama-3-8b"), 8192
    per_token = training_flops_per_token(config, context, attention="full")
    n = count_parameters(config).model.matrices - config.vocab_size * config.hidden_size
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * context
    assert per_token == 6 * n + attention


def test_a_token_behind_a_cache_costs_two_flops_an_active_matrix_weight_and_its_pairs() -> None:
    config = published("llama-3-8b")
    n = count_parameters(config).model.matrices - config.vocab_size * config.hidden_size
    pairs = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * 1000
    assert decode_flops(config, 999) == 2 * n + pairs


def test_chunks_are_as_long_in_the_formula_as_in_the_model() -> None:
    assert CHUNK == delta_net.CHUNK
