"""Adapters as peft's folders: peft loads ours, we load peft's, and what neither is here is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from modelstack.errors import UserError
from modelstack.posttrain.lora.adapters import add_lora, lora_state
from modelstack.posttrain.lora.files import put_adapter, read_adapter, save_adapter
from tests.modelstack.architecture.parity import ours, random_ids, reference
from tests.modelstack.posttrain.lora_models import adapted_model, logits_of, peft_pair, toy_base, toy_config

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"dropout": 0.25},
    "rslora": {"scaling": "rslora"},
    "dora": {"dora": True},
    "two targets": {"targets": ("q_proj", "down_proj")},
}
SHA256 = "ab" * 32


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_our_folder_without_a_warning_and_computes_the_same(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = toy_config(**KINDS[kind])
    model = adapted_model(config)
    folder = save_adapter(model, config, tmp_path / "adapter", base_sha256=SHA256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # peft 0.21 asks transformers 5 for a property by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        peer = peft.PeftModel.from_pretrained(reference("llama"), folder).eval()
    saved = peft.get_peft_model_state_dict(peer)
    assert saved.keys() == lora_state(model).keys()
    assert all(torch.equal(tensor, lora_state(model)[name]) for name, tensor in saved.items())
    ids = random_ids()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits_BTV, logits_of(peer, ids), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_peft_has_saved_is_read_strictly(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = toy_config(**KINDS[kind])
    expected, peer = peft_pair(config)
    peer.save_pretrained(tmp_path / "peft")  # pyright: ignore
    adapter = read_adapter(tmp_path / "peft")
    assert adapter.config.model_dump(exclude={"targets"}) == config.model_dump(exclude={"targets"})
    put_adapter(model := toy_base(), adapter, base_sha256=SHA256)
    assert lora_state(model).keys() == lora_state(expected).keys()
    ids = random_ids()
    with torch.no_grad():
        assert torch.equal(model(ids).logits_BTV, expected(ids).logits_BTV)


def test_what_is_written_is_read_back_with_the_base_that_it_is_for(tmp_path: Path) -> None:
    config = toy_config(scaling="rslora", alpha=7.5, targets=("v_proj", "0.mlp.up_proj"))
    model = adapted_model(config)
    save_adapter(model, config, tmp_path / "adapter", base_sha256=SHA256, base_name="some/base")
    adapter = read_adapter(tmp_path / "adapter")
    assert adapter.config == config.model_copy(update={"targets": ("0.mlp.up_proj", "v_proj")})
    assert (adapter.base_sha256, adapter.base_name) == (SHA256, "some/base")
    assert adapter.state.keys() == lora_state(model).keys()
    assert all(torch.equal(tensor, lora_state(model)[name]) for name, tensor in adapter.state.items())
    put_adapter(again := toy_base(), adapter, base_sha256=SHA256)
    assert lora_state(again).keys() == lora_state(model).keys()


def test_an_adapter_is_not_put_on_another_base(tmp_path: Path) -> None:
    config = toy_config()
    save_adapter(adapted_model(config), config, tmp_path / "adapter", base_sha256=SHA256)
    with pytest.raises(UserError, match=rf"{'0' * 16}.*the expected one is {SHA256[:16]}"):
        put_adapter(toy_base(), read_adapter(tmp_path / "adapter"), base_sha256="0" * 64)
    with pytest.raises(UserError, match=r"shape \[4, 64\] and must have \[4, 96\]"):
        put_adapter(ours(reference("llama", hidden_size=96)), read_adapter(tmp_path / "adapter"))


def test_a_model_without_adapters_has_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapters to save"):
        save_adapter(toy_base(), toy_config(), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only 'LORA'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"q_proj": 8}}, r"rank_pattern is .*merge the adapter in peft"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, r"'pissa', which changes the weights of the base"),
        ({"r": 0}, r"does not describe an adapter: rank: .*greater than or equal to 1"),
        ({"target_modules": None}, "does not describe an adapter: targets"),
        ({"from_the_future": 3}, "from_the_future is 3"),
    ],
)
def test_adapters_of_other_kinds_are_refused_by_their_key(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    config = toy_config()
    folder = save_adapter(adapted_model(config), config, tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=told):
        read_adapter(folder)


def test_a_missing_or_broken_file_names_its_path(tmp_path: Path) -> None:
    config = toy_config()
    folder = save_adapter(adapted_model(config), config, tmp_path / "adapter")
    for name, told in (
        ("adapter_model.safetensors", "is not a valid safetensors file"),
        ("adapter_config.json", "is not JSON"),
    ):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        (copy / name).write_bytes(b"{ not sound")
        with pytest.raises(UserError, match=f"{name} {told}"):
            read_adapter(copy)
        (copy / name).unlink()
        with pytest.raises(UserError, match=f"{name} is missing"):
            read_adapter(copy)


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = toy_config()
    folder = save_adapter(adapted_model(config), config, tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    gone = next(iter(tensors))
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != gone}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match=rf"1 tensors missing \({gone}\)"):
        put_adapter(toy_base(), read_adapter(folder))


def test_an_adapter_takes_up_where_it_was_left(tmp_path: Path) -> None:
    config = toy_config()
    model = adapted_model(config)
    save_adapter(model, config, tmp_path / "adapter")
    put_adapter(other := toy_base(), read_adapter(tmp_path / "adapter"))
    with pytest.raises(UserError, match="already has adapters"):
        add_lora(other, config)
