"""A quantised model: smaller error with more knowledge, the same function before rounding, folders and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.errors import UserError
from modelstack.inference.quantise.calibration import InputMoments, for_each_block
from modelstack.inference.quantise.comparison import compare
from modelstack.inference.quantise.rounded_model import METHODS, quantise
from tests.modelstack.inference.quantise.quantised_toys import INT4, INT8, rows, toy

EXACT = NumberFormat("int", 8, "group", 32)


def kl(original: CausalLM, method: str, number_format: NumberFormat, batches: list[Tensor]) -> float:
    model = toy()
    quantise(model, lambda _, __: number_format, METHODS[method], batches)
    return compare(original, model, rows(seed=1)).kl


def test_gptq_reduces_the_divergence_and_more_bits_make_it_small() -> None:
    original, batches = toy(), rows(16, 64)
    nearest, _, gptq, both = (kl(original, name, INT4, batches) for name in METHODS)
    assert max(gptq, both) < 0.9 * nearest
    assert kl(original, "rtn", INT8, batches) < 0.02 * nearest


def test_awq_reduces_the_error_of_outputs_that_read_an_outlier() -> None:
    errors: list[float] = []
    for method in ("rtn", "awq"):
        tensors = quantise(toy(), lambda _, __: INT4, METHODS[method], rows(16, 64)).tensors
        readers = [each for each in tensors if re.search(r"layers\.0\.self_attn\.[qkv]_proj", each.name)]
        errors.append(sum(each.output_error or 0 for each in readers))
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "olmo3", "smollm3"])
def test_scales_of_inputs_change_no_function(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWQ's scales, with a rounding that rounds nothing."""
    from modelstack.inference.quantise import awq, rounded_model

    model, original = toy(family), toy(family)
    found: list[Tensor] = []

    def scale(weights: list[Tensor], magnitude_K: Tensor, *_: object) -> Tensor:
        found.append(magnitude_K.pow(0.5) / magnitude_K.pow(0.5).mean())
        return found[-1]

    monkeypatch.setattr(awq, "input_scale", scale)
    monkeypatch.setattr(rounded_model, "_round_linear", lambda *_: None)
    with pytest.raises(UserError, match="no weight of this model can be rounded"):
        quantise(model, lambda _, __: INT8, METHODS["awq"], rows())
    assert len(found) >= model.config.num_hidden_layers
    ids = rows()[0]
    before, after = (each(ids).logits_BTV for each in (original, model))
    assert not torch.equal(
        model.state_dict()[name := "model.layers.0.mlp.up_proj.weight"], original.state_dict()[name]
    )
    torch.testing.assert_close(after, before, atol=2e-4, rtol=1e-4)


def test_moments_of_inputs_follow_scales_and_layers_with_one_input_share_them() -> None:
    model = toy()
    seen: list[int] = []

    def check(number: int, block: torch.nn.Module, moments: object) -> None:
        assert isinstance(moments, dict)
        attention = block.get_submodule("self_attn")
        shared = moments[attention.get_submodule("q_proj")]
        assert shared is moments[attention.get_submodule("v_proj")]
        assert shared is not moments[attention.get_submodule("o_proj")]
        assert isinstance(shared, InputMoments)
        before = shared.second_moment_KK, shared.magnitude_K
        scale = torch.linspace(0.5, 2, len(before[1]))
        shared.divide(scale)
        torch.testing.assert_close(shared.second_moment_KK, before[0] / scale / scale[:, None])
        torch.testing.assert_close(shared.magnitude_K, before[1] / scale)
        seen.append(number)

    for_each_block(model, rows(), check)
    assert seen == list(range(model.config.num_hidden_layers))


def test_the_model_holds_what_the_rounded_weights_say(tmp_path: Path) -> None:
    for family in ("llama", "qwen3_moe"):
        model = toy(family, **({"norm_topk_prob": True} if family == "qwen3_moe" else {}))
        result = quantise(model, lambda _, __: INT4, METHODS["rtn"])
        state = model.state_dict()
        assert all(torch.equal(state[name], weight.dequantised()) for name, weight in result.weights.items())
        assert [tensor.name for tensor in result.tensors] == list(result.weights)
        kept = {name for name in state if name not in result.weights and state[name].ndim > 1}
        assert kept <= {"model.embed_tokens.weight", "lm_head.weight"} | {n for n in kept if "mlp.gate" in n}
        assert any(".experts." in name for name in result.weights) == (family == "qwen3_moe")


def test_what_cannot_be_quantised_is_named() -> None:
    with pytest.raises(UserError, match="requires calibration text"):
        quantise(toy(), lambda _, __: INT4, METHODS["gptq"])
    with pytest.raises(UserError, match="no weight of this model can be rounded"):
        quantise(toy(), lambda _, __: NumberFormat("int", 4, "group", 48), METHODS["rtn"])
    model = toy()
    model.state_dict()["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.inf
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight contains infinite numbers"):
        quantise(model, lambda _, __: INT4, METHODS["rtn"])
    model = toy()
    model.state_dict()["model.layers.1.input_layernorm.weight"][0] = torch.nan
    with pytest.raises(UserError, match=r"the input of model\.layers\.1\.self_attn\.q_proj\.weight overflows"):
        quantise(model, lambda _, __: INT4, METHODS["gptq"], rows())


def test_a_model_diverges_from_itself_by_nothing_and_from_another_as_its_logits_say() -> None:
    model, other, batches = toy(), toy(), rows()
    same = compare(model, model, batches)
    assert (same.kl, same.kl_half_width, same.same_choice) == (0, 0, 1)
    assert same.perplexity_before == same.perplexity_after
    quantise(other, lambda _, __: INT4, METHODS["rtn"])
    found = compare(model, other, batches)
    ids = torch.cat(batches)
    log_p, log_q = (each(ids).logits_BTV[:, :-1].log_softmax(-1) for each in (model, other))
    kl_BT = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    assert found.n_tokens == kl_BT.numel()
    assert found.kl == pytest.approx(float(kl_BT.mean()), rel=1e-3)
    losses = [torch.nn.functional.nll_loss(each.flatten(0, 1), ids[:, 1:].flatten()) for each in (log_p, log_q)]
    assert found.perplexity_before == pytest.approx(float(losses[0].exp()), rel=1e-4)
    assert found.perplexity_after == pytest.approx(float(losses[1].exp()), rel=1e-4)
    assert found.same_choice == pytest.approx(float((log_p.argmax(-1) == log_q.argmax(-1)).float().mean()))
