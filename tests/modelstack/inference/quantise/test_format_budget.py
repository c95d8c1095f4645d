"""A budget of bits is kept, and spent where the divergence is largest."""

from __future__ import annotations

import pytest
import torch

from modelstack.errors import UserError
from modelstack.inference.quantise.budget import choose_formats
from modelstack.inference.quantise.comparison import compare
from modelstack.inference.quantise.rounded_model import METHODS, quantise
from tests.modelstack.inference.quantise.quantised_toys import INT4, INT5, INT8, rows, toy

CANDIDATES = (INT8, INT4, INT5)


def test_the_budget_is_kept_and_more_bits_diverge_less() -> None:
    original = toy()
    found: list[float] = []
    for bits in (4.5, 5.0, 6.0, 8.5):
        choice = choose_formats(original, CANDIDATES, bits, rows())
        assert choice.bits_per_weight <= bits
        model = toy()
        result = quantise(model, lambda name, _, of=choice.formats: of[name], METHODS["rtn"], rows())
        n_bits = sum(t.bits_per_weight * t.n_weights for t in result.tensors)
        assert n_bits / sum(t.n_weights for t in result.tensors) == pytest.approx(choice.bits_per_weight)
        found.append(compare(original, model, rows(seed=1)).kl)
        # The prediction is one of second order, with independent errors.
        assert 0.3 < choice.predicted_kl / found[-1] < 3
    assert found == sorted(found, reverse=True)


def test_the_choice_beats_its_opposite() -> None:
    """Eight bits for the chosen layers diverge less than eight bits for the others, of no smaller size."""
    original = toy()
    choice = choose_formats(original, (INT4, INT8), 6.0, rows())
    assert {*choice.formats.values()} == {INT4, INT8}

    def divergence(flipped: bool) -> tuple[float, float]:
        model = toy()
        swap = {INT4: INT8, INT8: INT4} if flipped else {INT4: INT4, INT8: INT8}
        result = quantise(model, lambda name, _: swap[choice.formats[name]], METHODS["rtn"], rows())
        n_bits = sum(t.bits_per_weight * t.n_weights for t in result.tensors)
        return compare(original, model, rows(seed=1)).kl, n_bits

    (kl, n_bits), (other_kl, other_bits) = divergence(False), divergence(True)
    assert n_bits <= other_bits * 1.2
    assert kl < other_kl


def test_layers_of_one_product_share_a_format_and_the_model_is_left_alone() -> None:
    model = toy().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    formats = choose_formats(model, CANDIDATES, 6.0, rows()).formats
    for layer in range(model.config.num_hidden_layers):
        attention, feed_forward = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        assert len({formats[f"{attention}.{part}_proj.weight"] for part in "qkv"}) == 1
        assert len({formats[f"{feed_forward}.{part}_proj.weight"] for part in ("gate", "up")}) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_budget_below_the_smallest_format_and_a_model_with_experts_are_refused() -> None:
    with pytest.raises(UserError, match="formats cannot be chosen for a model with experts"):
        choose_formats(toy("qwen3_moe", norm_topk_prob=True), CANDIDATES, 6.0, rows())
    with pytest.raises(UserError, match=r"4 bits per weight are too few: the smallest format takes 4\.50"):
        choose_formats(toy(), CANDIDATES, 4.0, rows())
