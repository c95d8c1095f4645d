"""Quantised folders: read again exactly, by transformers with compressed-tensors too, and refused when damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelstack.architecture.checkpoint import load_checkpoint, load_config, save_checkpoint
from modelstack.architecture.compressed_tensors import pack, unpack
from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.errors import UserError
from modelstack.inference.quantise.rounded_model import METHODS, quantise
from tests.modelstack.inference.quantise.quantised_toys import FP8, INT4, INT5, INT8, ROWS8, rows, toy

FORMATS = {"int4": INT4, "int8 groups": INT8, "int8 rows": ROWS8} | {f"fp8 {name}": f for name, f in FP8.items()}


def write(folder: Path, number_format: NumberFormat, family: str = "llama", **keys: Any) -> dict[str, Tensor]:
    """Write a quantised toy model; return its state with dequantised weights."""
    model = toy(family, **keys)
    result = quantise(model, lambda _, __: number_format, METHODS["rtn"])
    save_checkpoint(model, folder, rounded=result.weights)
    return model.state_dict()


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    state = write(tmp_path / "m", FORMATS[name])
    read = load_checkpoint(tmp_path / "m").state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in read.items())
    assert read.keys() == state.keys()


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_all_families_keep_their_experts_and_small_layers(family: str, tmp_path: Path) -> None:
    keys = {"norm_topk_prob": True} if family == "qwen3_moe" else {}
    state = write(tmp_path / "m", INT4, family, **keys)
    read = load_checkpoint(tmp_path / "m").state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in read.items())
    stored = load_file(tmp_path / "m" / "model.safetensors")
    entry = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    packed = {name.removesuffix(".weight_packed") for name in stored if name.endswith(".weight_packed")}
    assert packed
    assert not packed & {*entry["ignore"]}
    assert any(".experts.1." in name for name in packed) == (family in ("qwen3_moe", "deepseek_v3"))


def test_several_formats_lie_in_one_folder_and_several_files(tmp_path: Path) -> None:
    model = toy()
    result = quantise(model, lambda name, _: ROWS8 if "down" in name else INT4, METHODS["rtn"])
    save_checkpoint(model, tmp_path / "m", rounded=result.weights, max_shard_bytes=20_000)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    entry = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    assert entry["format"] == "mixed-precision"
    assert {group["format"] for group in entry["config_groups"].values()} == {"pack-quantized", "int-quantized"}
    read, state = load_checkpoint(tmp_path / "m").state_dict(), model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in read.items())


def test_a_pattern_covers_the_layers_whose_names_begin_so(tmp_path: Path) -> None:
    state = write(tmp_path / "m", INT4)
    _entry(config_groups={"g": GROUP | {"targets": [r"re:model\.layers\.\d+\..*_proj"]}})(tmp_path / "m")
    read = load_checkpoint(tmp_path / "m").state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in read.items())


@pytest.mark.parametrize("entry", [[1], "awq", 7])
def test_an_entry_that_is_no_object_is_named(entry: Any, tmp_path: Path) -> None:
    write(tmp_path / "m", INT4)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"quantization_config": entry}))
    with pytest.raises(UserError, match="weights are quantised"):
        load_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(("bits", "n"), [(4, 64), (4, 61), (8, 30), (4, 1)])
def test_packed_numbers_are_those_of_compressed_tensors(bits: int, n: int) -> None:
    reference = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, n)).to(torch.int8)
    assert torch.equal(pack(values, bits), reference.pack_to_int32(values, bits))
    assert torch.equal(unpack(pack(values, bits), bits, n), values)


@pytest.mark.parametrize("name", ["int4", "int8 groups"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_computes_the_same_from_a_folder(name: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    write(tmp_path / "m", FORMATS[name])
    ids = rows()[0]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)(ids).logits
    torch.testing.assert_close(load_checkpoint(tmp_path / "m")(ids).logits_BTV, theirs, atol=1e-4, rtol=1e-4)


def test_plain_weights_are_asked_for_where_they_are_needed(tmp_path: Path) -> None:
    write(tmp_path / "m", INT4)
    with pytest.raises(UserError, match="weights are quantised; this needs a folder with plain weights"):
        load_config(tmp_path / "m")
    with pytest.raises(UserError, match="integers of 5 bits with one scale per group have no layout"):
        write(tmp_path / "five", INT5)
    assert not (tmp_path / "five").exists()


def _weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def _entry(**values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= values
        (folder / "config.json").write_text(json.dumps(config))

    return damage


LAYER = "model.layers.0.mlp.up_proj"
GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
}
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weight": (_weights(lambda t: t.pop(f"{LAYER}.weight_packed")), "its scale or weight is missing"),
    "no scale": (_weights(lambda t: t.pop(f"{LAYER}.weight_scale")), "does not match its config.json"),
    "a shape": (_weights(lambda t: t.update({f"{LAYER}.weight_shape": torch.tensor([7, 64])})), "its shape is"),
    "a huge shape": (
        _weights(lambda t: t.update({f"{LAYER}.weight_shape": torch.tensor([128, 2**40])})),
        "its shape is",
    ),
    "scales": (_weights(lambda t: t.update({f"{LAYER}.weight_scale": torch.ones(3)})), "has scales"),
    "zero points": (
        _weights(lambda t: t.update({f"{LAYER}.weight_zero_point": torch.zeros(1)})),
        "weight_zero_point, which cannot be read",
    ),
    "another method": (_entry(quant_method="awq"), r"quantised \(awq\)"),
    "no groups": (_entry(config_groups=None), "quantization_config is damaged"),
    "an asymmetric group": (
        _entry(config_groups={"g": GROUP | {"weights": GROUP["weights"] | {"symmetric": False}}}),  # pyright: ignore
        "asymmetric",
    ),
    "a group of nothing": (_entry(config_groups={"g": GROUP | {"targets": ["re:.*down"]}}), "no group of"),
    "a pattern that would take for ever": (
        _entry(config_groups={"g": GROUP | {"targets": ["re:(.*)*down"]}}),
        "no group of",
    ),
    "a pattern that looks around": (
        _entry(config_groups={"g": GROUP | {"targets": ["re:(?=a)b"]}}),
        "is damaged or not",
    ),
    "groups of no columns": (
        _entry(config_groups={"g": GROUP | {"weights": GROUP["weights"] | {"group_size": 0}}}),  # pyright: ignore
        "groups of 0 columns",
    ),
    "groups without a size": (
        _entry(config_groups={"g": GROUP | {"weights": GROUP["weights"] | {"group_size": None}}}),  # pyright: ignore
        "groups of None columns",
    ),
    "numbers of another type": (
        _weights(lambda t: t.update({f"{LAYER}.weight_packed": t[f"{LAYER}.weight_packed"].float()})),
        "the numbers must be torch.int32",
    ),
    "scales of another type": (
        _weights(lambda t: t.update({f"{LAYER}.weight_scale": t[f"{LAYER}.weight_scale"].int()})),
        "the scales floating-point",
    ),
    "bits": (
        _entry(config_groups={"g": GROUP | {"weights": GROUP["weights"] | {"num_bits": 3}}}),  # pyright: ignore
        "3-bit int",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("quantised") / "m"
    write(written, INT4)
    return written


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    shutil.copytree(folder, tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "m")
