"""The FP8 emulation is the published formula, bit for bit; the reference here goes piece by piece."""

import math

import pytest
import torch
from torch import Tensor, nn

from modelstack.errors import UserError
from modelstack.train.fp8 import (
    Fp8Linear,
    convert_linears,
    dequantise,
    emulated_matmul,
    has_kernel,
    quantise,
    scaled_matmul,
)
from tests.modelstack.train.toys import family_model

SHAPES = [(128, 128), (256, 384), (5, 300), (130, 7), (1, 1)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Values over many orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * torch.exp(3 * torch.randn(*shape, generator=generator))


def reference(x: Tensor, rows: int, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """Return what each element is after quantisation and back, and the scale of its piece."""
    back, scales = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], 128):
            piece = x[i : i + rows, j : j + 128]
            scale = piece.abs().max() / 448
            if power_of_two:
                scale = torch.tensor(2.0 ** math.ceil(math.log2(scale.double().item())))
            back[i : i + rows, j : j + 128] = (piece / scale).to(torch.float8_e4m3fn).float() * scale
            scales[i : i + rows, j : j + 128] = scale
    return back, scales


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 128])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_quantised_and_back_is_the_formula(shape: tuple[int, int], rows: int, power_of_two: bool) -> None:
    x = normal(*shape)
    expected, _ = reference(x, rows, power_of_two)
    q = quantise(x, rows, power_of_two=power_of_two)
    assert q.values_RK.dtype == torch.float8_e4m3fn
    assert q.scales.shape == (-(-shape[0] // rows), -(-shape[1] // 128))
    assert torch.equal(dequantise(q), expected)


def test_the_largest_of_each_piece_is_the_largest_number_of_the_type() -> None:
    q = quantise(normal(4, 256))
    largest = q.values_RK.float().abs().unflatten(1, (2, 128)).amax(-1)
    assert torch.equal(largest, torch.full((4, 2), 448.0))


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 1e30])
def test_pieces_of_any_size_come_back_finite(size: float) -> None:
    x = torch.full((2, 128), size)
    torch.testing.assert_close(dequantise(quantise(x)), x, rtol=1e-6, atol=1e-40)


def test_powers_of_two_tile_anew_without_another_error() -> None:
    # Within a factor of 8 of each other: what lies near the type's smallest numbers loses bits to a larger scale.
    x = torch.empty(128, 256).uniform_(0.5, 4, generator=torch.Generator().manual_seed(0))

    def again(power_of_two: bool) -> tuple[Tensor, Tensor]:
        once = dequantise(quantise(x, power_of_two=power_of_two))
        return once, dequantise(quantise(once.t(), power_of_two=power_of_two)).t()

    assert torch.equal(*again(power_of_two=True))
    assert not torch.equal(*again(power_of_two=False))


def reference_matmul(a: Tensor, b: Tensor, a_rows: int, b_rows: int) -> Tensor:
    """Return a b^T from sums over 128 that are exact in fp64, rounded and scaled in fp32."""
    a_back, a_scale = reference(a, a_rows, False)
    b_back, b_scale = reference(b, b_rows, False)
    out = torch.zeros(len(a), len(b))
    for i in range(len(a)):
        for j in range(len(b)):
            for k in range(0, a.shape[1], 128):
                left = (a[i, k : k + 128] / a_scale[i, k]).to(torch.float8_e4m3fn).double()
                right = (b[j, k : k + 128] / b_scale[j, k]).to(torch.float8_e4m3fn).double()
                partial = torch.tensor(math.fsum((left * right).tolist())).float()
                out[i, j] = out[i, j] + partial * (a_scale[i, k] * b_scale[j, k])
    return out


@pytest.mark.parametrize(("a_rows", "b_rows"), [(1, 128), (1, 1)])
@pytest.mark.parametrize("K", [128, 300])
def test_a_product_is_the_formula(a_rows: int, b_rows: int, K: int) -> None:
    a, b = normal(3, K), normal(5, K, seed=1)
    result = emulated_matmul(quantise(a, a_rows), quantise(b, b_rows))
    assert torch.equal(result, reference_matmul(a, b, a_rows, b_rows))


def test_a_product_is_near_the_exact_one() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 512, generator=generator), torch.randn(96, 512, generator=generator)
    error = emulated_matmul(quantise(a), quantise(b, 128)) - a @ b.t()
    assert error.square().mean().sqrt() < 0.05 * (a @ b.t()).square().mean().sqrt()


def test_on_a_cpu_products_are_emulated() -> None:
    a, b = quantise(torch.randn(16, 128)), quantise(torch.randn(128, 128), 128)
    assert not has_kernel(a, b)
    assert torch.equal(scaled_matmul(a, b), emulated_matmul(a, b))


@pytest.mark.parametrize("power_of_two", [False, True])
def test_a_layers_three_products_are_made_of_quantised_operands(power_of_two: bool) -> None:
    torch.manual_seed(0)
    layer = Fp8Linear.of(nn.Linear(200, 140, bias=False), power_of_two=power_of_two)
    x, dy = torch.randn(2, 9, 200, requires_grad=True), torch.randn(2, 9, 140)
    y = layer(x)
    y.backward(dy)
    x_rows, dy_rows, weight = x.detach().flatten(0, 1), dy.flatten(0, 1), layer.weight.detach()
    tiled = quantise(x_rows, power_of_two=power_of_two)
    blocks = quantise(weight, 128)
    assert torch.equal(y.flatten(0, 1), emulated_matmul(tiled, blocks))
    assert x.grad is not None and layer.weight.grad is not None
    assert torch.equal(x.grad.flatten(0, 1), emulated_matmul(quantise(dy_rows), quantise(weight.t(), 128)))
    again = quantise(dequantise(tiled).t(), power_of_two=power_of_two)
    assert torch.equal(layer.weight.grad, emulated_matmul(quantise(dy_rows.t()), again))


def test_a_layer_is_near_the_layer_that_it_replaces() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(256, 128)
    layer = Fp8Linear.of(plain)
    x = torch.randn(32, 256, requires_grad=True)
    results = []
    for one in (plain, layer):
        y = one(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, plain.weight, plain.bias])])
    for exact, close in zip(*results, strict=True):
        assert (close - exact).norm() < 0.1 * exact.norm()
        assert not torch.equal(close, exact)


def test_a_layer_keeps_type_parameters_and_names() -> None:
    plain = nn.Linear(128, 64).bfloat16()
    layer = Fp8Linear.of(plain)
    assert layer.weight is plain.weight and layer.bias is plain.bias
    assert set(layer.state_dict()) == {"weight", "bias"}
    y = layer(torch.randn(2, 3, 128, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and y.shape == (2, 3, 64)


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe", "deepseek_v3", "deepseek_v4"])
def test_embedding_head_norms_and_routers_stay(family: str) -> None:
    model = family_model(family)
    names = set(convert_linears(model))
    assert {name for name, module in model.named_modules() if isinstance(module, Fp8Linear)} == names
    assert not isinstance(model.lm_head, Fp8Linear)
    assert not any(name.endswith((".gate", "norm", "weights_proj", "lm_head", "embed_tokens")) for name in names)
    assert not any("compressor" in name and name.endswith("gate_proj") for name in names)
    assert any("self_attn" in name for name in names)
    loss = model(torch.arange(16)[None]).logits_BTV.square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_inputs_of_the_projection_behind_attention_have_powers_of_two() -> None:
    model = family_model("llama")
    convert_linears(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Fp8Linear)}
    assert {name.rpartition(".")[2] for name, layer in layers.items() if layer.power_of_two} == {"o_proj"}


def test_layers_can_be_chosen() -> None:
    model = family_model("llama")
    names = convert_linears(model, lambda name, _: name.endswith("down_proj"))
    assert names == [f"model.layers.{i}.mlp.down_proj" for i in range(2)]


def test_to_choose_no_layer_is_refused() -> None:
    with pytest.raises(UserError, match="no linear layer of the model was selected"):
        convert_linears(family_model("llama"), lambda name, _: False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")
@pytest.mark.parametrize("b_rows", [1, 128])
def test_the_kernel_is_the_emulation_but_for_the_bits_it_drops(b_rows: int) -> None:
    a = quantise(torch.randn(256, 512, device="cuda"))
    b = quantise(torch.randn(384, 512, device="cuda"), b_rows)
    if not has_kernel(a, b):
        pytest.skip("needs compute capability 9.0 and CUDA 12.9")
    exact = emulated_matmul(a, b)
    assert (scaled_matmul(a, b) - exact).norm() < 1e-2 * exact.norm()
