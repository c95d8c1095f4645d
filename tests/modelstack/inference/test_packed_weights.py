"""Packed weights give the logits of the plain ones, for any number of rows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from modelstack.inference.torch.engine import TorchEngine
from modelstack.inference.torch.packing import PackedLinear, can_pack, pack_linear_layers
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
    packed = PackedLinear(plain)
    with torch.no_grad():
        for n_rows in (0, 1, 2, 8, 33):
            x = torch.randn(1, n_rows, 24, dtype=dtype)
            torch.testing.assert_close(packed(x), plain(x), atol=tolerance, rtol=tolerance)


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
