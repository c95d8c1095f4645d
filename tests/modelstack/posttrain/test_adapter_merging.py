"""Base and adapter as one model in files: what is written computes what base and adapter do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.architecture.gguf.export import export_gguf
from modelstack.architecture.gguf.load import load_gguf
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.adapters import add_lora
from modelstack.posttrain.lora.files import save_adapter
from modelstack.posttrain.lora.merge import Merged, merge_adapter, write_merged_folder, write_merged_gguf
from tests.modelstack.architecture.gguf_models import toy_config as toy_model_config
from tests.modelstack.architecture.gguf_models import toy_model, toy_tokenizer
from tests.modelstack.architecture.parity import random_ids
from tests.modelstack.posttrain.lora_models import stir, toy_config

IDS = random_ids(vocab_size=260)
KINDS = {"lora": toy_config(), "dora": toy_config(dora=True)}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy llama in q8_0."""
    path = tmp_path_factory.mktemp("base") / "toy.gguf"
    model = toy_model(toy_model_config("llama"))
    tokenizer = toy_tokenizer() | {"tokenizer.ggml.pre": "gpt-2"}
    export_gguf(model.config, model.state_dict(), tokenizer, path, type_name="q8_0")
    return path


def _trained(gguf: Path, kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Base:
    """Return a base with an adapter that is also written into a folder."""
    base = load_base(gguf, dtype=dtype)
    add_lora(base.model, KINDS[kind])
    stir(base.model)
    save_adapter(base.model, KINDS[kind], folder, base_sha256=base.sha256)
    return base


@torch.no_grad()
def _logits(model: torch.nn.Module) -> torch.Tensor:
    return model(IDS).logits_BTV


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_folder_computes_what_base_and_adapter_do(kind: str, gguf: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    base = _trained(gguf, kind, tmp_path / "adapter")
    merged = merge_adapter(gguf, tmp_path / "adapter")
    write_merged_folder(merged, tmp_path / "merged", dtype=torch.float32)
    wanted = _logits(base.model)
    torch.testing.assert_close(_logits(load_checkpoint(tmp_path / "merged")), wanted, atol=1e-5, rtol=1e-5)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, wanted, atol=1e-5, rtol=1e-4)
    assert load_base(tmp_path / "merged").tokenizer.encode("the thing") == base.tokenizer.encode("the thing")


def test_an_adapter_trained_beside_bf16_is_merged_into_the_exact_base(gguf: Path, tmp_path: Path) -> None:
    _trained(gguf, "lora", tmp_path / "adapter", torch.bfloat16)
    exact = _trained(gguf, "lora", tmp_path / "other")
    merged = merge_adapter(gguf, tmp_path / "adapter")
    assert {parameter.dtype for parameter in merged.model.parameters()} == {torch.float32}
    torch.testing.assert_close(_logits(merged.model), _logits(exact.model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("type_name", "apart"), [("f32", 1e-5), ("q8_0", 0.05), ("q4_1", 0.5)])
def test_the_merged_file_computes_the_same_within_its_number_type(
    type_name: str, apart: float, gguf: Path, tmp_path: Path
) -> None:
    base = _trained(gguf, "dora", tmp_path / "adapter")
    merged = merge_adapter(gguf, tmp_path / "adapter")
    exported = write_merged_gguf(merged, tmp_path / "merged.gguf", type_name=type_name)
    wanted, before = _logits(base.model), _logits(load_base(gguf).model)
    found = _logits(load_gguf(exported.path).model)
    assert (found - wanted).abs().max() < apart
    assert (found - wanted).abs().mean() < 0.5 * (before - wanted).abs().mean()


def test_an_adapter_is_not_merged_into_another_base(gguf: Path, tmp_path: Path) -> None:
    _trained(gguf, "lora", tmp_path / "adapter")
    other = Merged(load_base(gguf).model, load_base(gguf).tokenizer)
    write_merged_gguf(other, tmp_path / "other.gguf", type_name="f16")
    with pytest.raises(UserError, match=r": an adapter only fits the weights"):
        merge_adapter(tmp_path / "other.gguf", tmp_path / "adapter")
