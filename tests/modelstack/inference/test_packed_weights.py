"""Packed weights give the logits of the plain ones, for any number of rows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.inference.engine import EngineError
from modelstack.inference.quantise.rounded_model import METHODS, quantise
from modelstack.inference.torch.engine import TorchEngine
from modelstack.inference.torch.packing import (
    FloatProduct,
    Int8Product,
    PackedLinear,
    can_pack,
    pack_linear_layers,
)
from modelstack.inference.torch.stream_batch import token_bytes
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.adapters import add_lora
from modelstack.posttrain.lora.config import LoraConfig
from tests.modelstack.inference.torch_engines import FAMILIES, engine_of, greedy, model_of, prompt_of, request
from tests.modelstack.sft.toy_sft import write_base

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_plain_one_for_any_number_of_rows(
    dtype: torch.dtype, tolerance: float, bias: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias).to(dtype)
    packed = FloatProduct([plain])
    with torch.no_grad():
        for n_rows in (0, 1, 2, 8, 33):
            x = torch.randn(1, n_rows, 24, dtype=dtype)
            torch.testing.assert_close(packed(x), plain(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_products_are_exact_for_any_number_of_rows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(96, n, bias=has_bias).to(dtype) for n, has_bias in ((64, True), (32, False), (40, True))]
    product = Int8Product(layers)
    x = torch.randn(130, 96, dtype=dtype) * torch.logspace(-3, 3, 130)[:, None].to(dtype)
    x[7] = 0
    weight = torch.cat([layer.weight for layer in layers]).float()
    scale_N = weight.abs().amax(-1) / 127
    scale_M1 = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-30) / 127
    sums = (x / scale_M1).round().double() @ (weight / scale_N[:, None]).round().double().T
    bias = torch.cat([layer.bias if layer.bias is not None else torch.zeros(32, dtype=dtype) for layer in layers])
    expected = (sums.float() * scale_N * scale_M1 + bias.float()).to(dtype)
    with torch.no_grad():
        whole = product(x)
        torch.testing.assert_close(whole, expected, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)
        for n_rows in (0, 1, 2, 8, 33, 129):  # one row has another kernel
            assert torch.equal(product(x[:n_rows]), whole[:n_rows])
        error = (whole.float() - nn.functional.linear(x.float(), weight, bias.float())).norm()
        assert error < 0.02 * whole.float().norm()


@pytest.mark.parametrize(("name", "states"), [("llama", torch.float32), ("deepseek-v3", torch.bfloat16)])
def test_states_of_int8_are_fp32_where_only_vectors_keep_their_type(name: str, states: torch.dtype) -> None:
    model = copy.deepcopy(model_of(name)).bfloat16()
    n_bytes = token_bytes(model)
    pack_linear_layers(model, "int8")
    with torch.no_grad():
        output = model(torch.tensor([prompt_of(0, 9)]))
    assert (output.hidden_BTD.dtype, output.logits_BTV.dtype) == (states, torch.bfloat16)
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert token_bytes(model) == n_bytes  # of keys and values in bf16, as before


def test_layers_with_one_input_are_one_product() -> None:
    model = copy.deepcopy(model_of("qwen2"))  # with biases
    states = torch.randn(1, 5, model.config.hidden_size)
    attention, mlp = (model.model.layers[0].get_submodule(name) for name in ("self_attn", "mlp"))
    with torch.no_grad():
        before = [attention.get_submodule(f"{part}_proj")(states) for part in "qkv"]
        feed_forward = mlp(states)
        pack_linear_layers(model)
        layers = [attention.get_submodule(f"{part}_proj") for part in "qkv"]
        assert len({id(layer._product) for layer in layers}) == 1  # pyright: ignore[reportAttributeAccessIssue]
        torch.testing.assert_close(list(PackedLinear.together(states, layers)), before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close([layer(states) for layer in layers], before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mlp(states), feed_forward, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_replies_in_int8_are_the_same_alone_and_in_a_batch(name: str) -> None:
    prompts = [prompt_of(n, 21) for n in range(5)]

    def replies(together: bool) -> list[list[int]]:
        tokenizer = engine_of(name)._tokenizer
        with TorchEngine(
            copy.deepcopy(model_of(name)), tokenizer, owns_model=True, numbers="int8", seed=0
        ) as engine:
            if not together:
                return [engine.generate(request(prompt, 8)).ids for prompt in prompts]
            submissions = [engine.submit(request(prompt, 8)) for prompt in prompts]
            while not all(submission.is_done for submission in submissions):
                engine.step()
            return [submission.result().ids for submission in submissions]

    assert replies(together=True) == replies(together=False)


def test_int8_weights_of_a_folder_are_not_rounded_again(tmp_path: Path) -> None:
    write_base(tmp_path)
    base = load_base(tmp_path / "checkpoint")
    rows8 = NumberFormat("int", 8, "channel")
    result = quantise(base.model.requires_grad_(False), lambda _, __: rows8, METHODS["rtn"])
    save_checkpoint(base.model, tmp_path / "int8", tokenizer=tmp_path / "checkpoint", rounded=result.weights)
    name = "model.layers.0.self_attn.o_proj"
    with TorchEngine.load(tmp_path / "int8") as engine, TorchEngine.load(tmp_path / "checkpoint") as plain:
        product = engine._batch.model.get_submodule(name)._product  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(product, Int8Product)
        assert torch.equal(product._values_KN.t(), result.weights[f"{name}.weight"].values)
        assert isinstance(plain._batch.model.get_submodule(name)._product, FloatProduct)  # pyright: ignore
        assert engine.fingerprint != plain.fingerprint


def test_int8_of_a_model_that_is_not_the_engines_own_is_refused() -> None:
    with pytest.raises(EngineError, match="int8 requires a model that the engine owns"):
        engine_of(numbers="int8")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_model_writes_the_same(name: str) -> None:
    model = copy.deepcopy(model_of(name))
    assert can_pack(model)
    prompts = [prompt_of(n, 21) for n in range(3)]
    with engine_of(name) as plain, TorchEngine(model, plain._tokenizer, owns_model=True, seed=0) as engine:
        assert isinstance(model.lm_head, PackedLinear)
        assert engine.fingerprint == plain.fingerprint
        submissions = [engine.submit(request(prompt, 8)) for prompt in prompts]
        while not all(submission.is_done for submission in submissions):
            engine.step()
        assert [s.result().ids for s in submissions] == [greedy(name, prompt, 8) for prompt in prompts]


def test_loaded_models_are_packed_and_given_ones_are_left_as_they_are(tmp_path: Path) -> None:
    write_base(tmp_path)
    for source in (tmp_path / "toy.gguf", tmp_path / "checkpoint"):
        with TorchEngine.load(source) as engine:
            assert isinstance(engine._batch.model.lm_head, PackedLinear)
            assert len(engine.generate(request([5, 6, 7], 4)).ids) == 4
    with engine_of() as engine:
        assert type(engine._batch.model.lm_head) is nn.Linear


def test_layers_of_adapters_keep_their_class(tmp_path: Path) -> None:
    base = load_base(write_base(tmp_path))
    add_lora(base.model, LoraConfig(rank=2, alpha=4))
    adapted = [type(module) for module in base.model.modules()]
    pack_linear_layers(base.model)
    assert isinstance(base.model.lm_head, PackedLinear)
    assert [t for t in adapted if issubclass(t, nn.Linear) and t is not nn.Linear] == [
        type(module) for module in base.model.modules() if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        assert base.model(torch.tensor([[1, 2, 3]])).logits_BTV.isfinite().all()


def test_weights_of_other_types_are_not_packed() -> None:
    assert not can_pack(copy.deepcopy(model_of("llama")).to(torch.float16))
