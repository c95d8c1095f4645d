"""Quantised weights in GGUF files: not rounded again, and computed with by llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modelstack.architecture.gguf.export import export_gguf
from modelstack.architecture.gguf.load import load_gguf
from modelstack.architecture.gguf.numbers import F32, NUMBER_TYPES
from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.errors import UserError
from modelstack.gguf_file import open_gguf
from modelstack.inference.quantise.rounded_model import METHODS, quantise
from tests.modelstack.architecture.gguf_models import toy_tokenizer
from tests.modelstack.architecture.llama_child import Task, needs_llama_cpp, run_in_llama_cpp
from tests.modelstack.inference.quantise.quantised_toys import INT4, INT5, INT8, ROWS8, rows, toy

TYPES = {"q4_0": INT4, "q5_0": INT5, "q8_0": INT8}


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("type_name", TYPES)
def test_a_file_holds_the_very_numbers(type_name: str, family: str, tmp_path: Path) -> None:
    model = toy(family, **({"norm_topk_prob": True} if family == "qwen3_moe" else {}))
    result = quantise(model, lambda _, __: TYPES[type_name], METHODS["rtn"], scale_type=torch.float16)
    path = tmp_path / "m.gguf"
    export_gguf(model.config, model.state_dict(), toy_tokenizer(), path, type_name="f32", rounded=result.weights)
    read = load_gguf(path).state_dict
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items() if name in read)
    with open_gguf(path) as file:
        kinds = {tensor.ggml_type for tensor in file.tensors.values()}
        assert file.fields["general.file_type"] == NUMBER_TYPES[type_name].file_type
    assert kinds == {F32, NUMBER_TYPES[type_name].ggml_type}


@needs_llama_cpp
def test_llama_cpp_computes_what_the_quantised_model_does(tmp_path: Path) -> None:
    model = toy()
    result = quantise(model, lambda _, __: INT8, METHODS["gptq"], rows(), scale_type=torch.float16)
    path, ids = tmp_path / "m.gguf", rows()[0][0].tolist()
    export_gguf(model.config, model.state_dict(), toy_tokenizer(), path, type_name="f32", rounded=result.weights)
    theirs = run_in_llama_cpp([Task("toy", path, ids)], tmp_path)["toy"]["logits"]
    ours = model(torch.tensor([ids])).logits_BTV[0].numpy()
    # llama.cpp rounds activations to 8 bits, 127 steps per block of 32.
    assert np.abs(theirs - ours).max() < 0.05 * np.abs(ours).max()
    assert (theirs.argmax(-1) == ours.argmax(-1)).mean() > 0.9


def test_formats_without_a_type_are_refused(tmp_path: Path) -> None:
    for number_format in (ROWS8, NumberFormat("int", 4, "group", 64), NumberFormat("float", 8, "channel")):
        model = toy()
        result = quantise(model, lambda _, __, f=number_format: f, METHODS["rtn"], scale_type=torch.float16)
        with pytest.raises(UserError, match="have no type in GGUF files"):
            export_gguf(
                model.config,
                model.state_dict(),
                toy_tokenizer(),
                tmp_path / "m.gguf",
                type_name="f32",
                rounded=result.weights,
            )
    model = toy()
    result = quantise(model, lambda _, __: INT4, METHODS["rtn"], scale_type=torch.float32)
    with pytest.raises(UserError, match="are not exact in fp16"):
        export_gguf(model.config, model.state_dict(), toy_tokenizer(), tmp_path / "m.gguf", rounded=result.weights)
    with pytest.raises(UserError, match="cannot be stored beside q4_k"):
        export_gguf(
            model.config,
            model.state_dict(),
            toy_tokenizer(),
            tmp_path / "m.gguf",
            type_name="q4_k",
            rounded=result.weights,
        )
    assert not list(tmp_path.iterdir())
