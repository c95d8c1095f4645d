"""Adapters as GGUF files: llama.cpp computes with them what torch does, and they are read back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.posttrain.lora.adapters import add_lora, lora_state
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import put_adapter
from modelstack.posttrain.lora.gguf import read_gguf_adapter, write_gguf_adapter
from tests.modelstack.architecture.gguf_models import toy_config as toy_model_config
from tests.modelstack.architecture.gguf_models import toy_file, toy_model
from tests.modelstack.architecture.llama_child import Task, needs_llama_cpp, run_in_llama_cpp
from tests.modelstack.architecture.parity import random_ids
from tests.modelstack.posttrain.lora_models import stir, toy_base, toy_config

FAMILIES = ("llama", "llama tied, biases", "qwen2", "qwen3", "gemma3", "smollm3", "olmo3", "qwen3_moe", "gpt_oss")
SHA256 = "cd" * 32
IDS = random_ids(batch=1, n_tokens=24, vocab_size=260)


def _adapted(name: str, config: LoraConfig) -> tuple[CausalLM, CausalLM]:
    """Return a toy model that llama.cpp runs, and the same with an adapter that shows."""
    base = toy_model(toy_model_config(name))
    model = toy_model(toy_model_config(name))
    add_lora(model, config)
    stir(model)
    return base, model


def _logits(model: CausalLM) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits_BTV[0]


@needs_llama_cpp
def test_llama_cpp_computes_with_an_adapter_what_torch_does(tmp_path: Path) -> None:
    tasks, wanted = [], {}
    for name in FAMILIES:
        for config in (toy_config(), toy_config(scaling="rslora", rank=8, targets=("q_proj", "k_proj"))):
            base, model = _adapted(name, config)
            key = f"{name} {config.scaling}"
            folder = tmp_path / key.replace(" ", "_")
            folder.mkdir()
            toy_file(base, folder / "base.gguf")
            lora = write_gguf_adapter(model, config, folder / "lora.gguf", type_name="f32")
            tasks.append(Task(key, folder / "base.gguf", IDS[0].tolist(), lora=lora))
            wanted[key] = (_logits(base), _logits(model))
    found = run_in_llama_cpp(tasks, tmp_path)
    for key, (without, with_adapter) in wanted.items():
        theirs = torch.from_numpy(found[key]["logits"])
        moved = (with_adapter - without).abs().max()
        apart = (theirs - with_adapter).abs().max()
        print(f"{key}: the adapter moves logits by {moved:.3f}, llama.cpp is {apart:.5f} apart")
        assert moved > 0.02, key
        assert apart < 0.02 * moved, key


@pytest.mark.parametrize(("type_name", "apart"), [("f32", 0.0), ("f16", 1e-3), ("bf16", 1e-2)])
def test_an_adapter_is_read_back_as_it_was(type_name: str, apart: float, tmp_path: Path) -> None:
    config = toy_config(targets=("k_proj", "q_proj", "up_proj"))
    _, model = _adapted("llama", config)
    path = write_gguf_adapter(model, config, tmp_path / "lora.gguf", type_name=type_name, base_sha256=SHA256)
    adapter = read_gguf_adapter(path, model.config)
    assert adapter.config == config
    assert adapter.base_sha256 == SHA256
    state = lora_state(model)
    assert adapter.state.keys() == state.keys()
    for name, tensor in adapter.state.items():
        torch.testing.assert_close(tensor, state[name], atol=apart, rtol=apart, msg=name)


def test_rslora_comes_back_as_a_larger_alpha_that_computes_the_same(tmp_path: Path) -> None:
    config = toy_config(scaling="rslora", rank=16, alpha=8.0)
    base, model = _adapted("llama", config)
    path = write_gguf_adapter(model, config, tmp_path / "lora.gguf", type_name="f32")
    adapter = read_gguf_adapter(path, model.config)
    assert (adapter.config.scaling, adapter.config.alpha) == ("lora", 8.0 * 4)
    put_adapter(base, adapter)
    torch.testing.assert_close(_logits(base), _logits(model), atol=1e-5, rtol=1e-5)


def test_the_file_says_what_llama_cpp_asks_for(tmp_path: Path) -> None:
    from gguf import GGUFReader

    config = toy_config(targets=("q_proj",))
    _, model = _adapted("llama", config)
    reader = GGUFReader(write_gguf_adapter(model, config, tmp_path / "lora.gguf", name="toy"))
    told = {key: field.contents() for key, field in reader.fields.items()}
    assert told["general.architecture"] == "llama"
    assert told["general.type"] == "adapter"
    assert told["adapter.type"] == "lora"
    assert told["adapter.lora.alpha"] == pytest.approx(6.0)
    assert told["general.name"] == "toy"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert set(tensors) == {f"blk.{n}.attn_q.weight.lora_{part}" for n in (0, 1) for part in "ab"}
    assert {tensor.tensor_type.name for tensor in tensors.values()} == {"F16"}


def test_dora_is_refused_with_the_way_out(tmp_path: Path) -> None:
    config = toy_config(dora=True)
    _, model = _adapted("llama", config)
    with pytest.raises(UserError, match=r"uses DoRA.*merge it into the base.*dora = false"):
        write_gguf_adapter(model, config, tmp_path / "lora.gguf")
    assert not list(tmp_path.iterdir())


def test_a_layer_that_llama_cpp_keeps_in_parts_is_refused(tmp_path: Path) -> None:
    base = toy_base()
    add_lora(base, toy_config())
    with pytest.raises(UserError, match="number type 'q8_0' is not for adapters"):
        write_gguf_adapter(base, toy_config(), tmp_path / "lora.gguf", type_name="q8_0")
    with pytest.raises(UserError, match="no adapters to write"):
        write_gguf_adapter(toy_base(), toy_config(), tmp_path / "lora.gguf")


def test_a_number_beyond_f16_is_refused(tmp_path: Path) -> None:
    config = toy_config(targets=("q_proj",))
    _, model = _adapted("llama", config)
    with torch.no_grad():
        next(iter(lora_state(model).values()))[0, 0] = 1e6
    with pytest.raises(UserError, match=r"lora_a contains 1000000\.0, beyond F16's maximum 65504"):
        write_gguf_adapter(model, config, tmp_path / "lora.gguf")
    assert not list(tmp_path.iterdir())


def _written(path: Path, tensors: dict[str, tuple[int, ...]], **fields: Any) -> Path:
    """Write an adapter by hand."""
    from gguf.gguf_writer import GGUFWriter

    writer = GGUFWriter(path, fields.get("arch", "llama"))
    writer.add_type(fields.get("type", "adapter"))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("tensors", "fields", "told"),
    [
        ({"blk.0.attn_q.weight.lora_a": (4, 64)}, {}, "two tensors for each weight"),
        ({}, {}, "two tensors for each weight"),
        (
            {"blk.0.attn_q.weight.lora_a": (4, 64), "blk.0.attn_q.weight.lora_b": (64, 5)},
            {},
            r"lora_a \[4, 64\] and lora_b \[64, 5\]",
        ),
        (
            {"blk.0.attn_x.weight.lora_a": (4, 64), "blk.0.attn_x.weight.lora_b": (64, 4)},
            {},
            "attn_x.weight is no",
        ),
        (
            {
                "blk.0.attn_q.weight.lora_a": (4, 64),
                "blk.0.attn_q.weight.lora_b": (64, 4),
                "blk.1.attn_q.weight.lora_a": (8, 64),
                "blk.1.attn_q.weight.lora_b": (64, 8),
            },
            {},
            r"ranks \[4, 8\]",
        ),
        ({"output.weight": (4, 4)}, {"type": "model"}, "is not a LoRA adapter"),
        ({"output.weight": (4, 4)}, {"arch": "qwen3"}, "for 'qwen3'; the base is 'llama'"),
    ],
)
def test_a_file_that_is_no_adapter_of_this_base_is_refused(
    tensors: dict[str, tuple[int, ...]], fields: dict[str, str], told: str, tmp_path: Path
) -> None:
    path = _written(tmp_path / "lora.gguf", tensors, **fields)
    with pytest.raises(UserError, match=told):
        read_gguf_adapter(path, toy_base().config)
