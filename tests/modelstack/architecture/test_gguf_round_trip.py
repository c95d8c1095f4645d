"""What is written is read again: configs, weights and tokenizers, in every number type; published sizes fit."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_models import LLAMA3, MODELS, VOCAB_SIZE, toy_config, toy_file, toy_model, toy_tokenizer
from llama_child import needs_llama_cpp
from numpy.typing import NDArray
from torch import Tensor

from modelstack.architecture.config import ModelConfig, RopeParameters
from modelstack.architecture.gguf.expected import expected_shapes
from modelstack.architecture.gguf.export import export_gguf
from modelstack.architecture.gguf.family import NOT_IN_GGUF, Stored, metadata, read_config
from modelstack.architecture.gguf.fields import lost_in_32_bits
from modelstack.architecture.gguf.llama_quantize import quantize_in_child
from modelstack.architecture.gguf.load import load_gguf
from modelstack.architecture.gguf.numbers import NUMBER_TYPES
from modelstack.architecture.gguf.registry import family_in_file, family_of
from modelstack.architecture.gguf.rope_fields import band_factors, read_bands
from modelstack.architecture.presets.registry import published, published_sizes
from modelstack.errors import UserError
from modelstack.gguf_file import open_gguf

SIZES = sorted(published_sizes())
BLOCKS_OF_32 = ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
K_QUANT_ERROR = {"q6_k": 0.025, "q5_k": 0.05, "q4_k": 0.1, "q3_k": 0.2, "q2_k": 0.4}
"""Of a matrix, relative to its norm."""
WORST_ERROR = {"f16": 5e-4, "bf16": 4e-3, "q8_0": 0.01, "q5_1": 0.05, "q5_0": 0.08, "q4_1": 0.08, "q4_0": 0.15}
"""Of a block's largest number."""


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_f32_comes_back_exactly(tmp_path: Path, name: str) -> None:
    model = toy_model(toy_config(name))
    path = toy_file(model, tmp_path / "m.gguf").path
    loaded = load_gguf(path)
    assert loaded.name == "toy"
    assert _decisions(loaded.config) == _decisions(model.config)
    assert loaded.config.eos_token_id == toy_tokenizer()["tokenizer.ggml.eos_token_id"]
    expected = model.state_dict()
    assert loaded.state_dict.keys() == expected.keys()
    for key, tensor in loaded.state_dict.items():
        assert tensor.dtype == expected[key].dtype
        if name == "gemma3" and "norm" in key:  # 1 + weight is rounded to 32 bits
            assert (tensor - expected[key]).abs().max() < 1.2e-7, key
        else:
            assert torch.equal(tensor, expected[key]), key


def test_a_file_read_and_written_again_holds_the_same_bytes(tmp_path: Path) -> None:
    """Norms of 1 + weight, whose first way out rounds, among them."""
    model = toy_model(toy_config("gemma3"))
    first = toy_file(model, tmp_path / "1.gguf").path
    loaded = load_gguf(first)
    second = tmp_path / "2.gguf"
    export_gguf(loaded.config, loaded.state_dict, loaded.tokenizer, second, type_name="f32", name=loaded.name)
    assert first.read_bytes() == second.read_bytes()


def test_ggufs_own_reader_finds_the_same_keys_and_tensors(tmp_path: Path) -> None:
    model = toy_model(toy_config("gpt_oss, YaRN"))
    path = toy_file(model, tmp_path / "m.gguf").path
    theirs = gguf.GGUFReader(path)
    with open_gguf(path) as ours:
        fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
        assert fields == ours.fields
        assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
        for tensor in theirs.tensors:
            assert tuple(reversed(tensor.shape.tolist())) == ours.tensors[tensor.name].shape
            assert np.array_equal(tensor.data.ravel().view(np.uint8), ours.raw(tensor.name))


@pytest.mark.parametrize("type_name", BLOCKS_OF_32)
def test_matrices_are_written_in_the_number_type_and_read_again(tmp_path: Path, type_name: str) -> None:
    model = toy_model(toy_config("qwen3_moe"))
    path = toy_file(model, tmp_path / "m.gguf", type_name).path
    with open_gguf(path) as file:
        assert file.fields["general.file_type"] == NUMBER_TYPES[type_name].file_type
        kinds = {name: tensor.ggml_type for name, tensor in file.tensors.items()}
    wanted = NUMBER_TYPES[type_name].ggml_type
    matrices = ("token_embd", "blk.0.ffn_down_exps", "blk.1.attn_q", "output")
    in_full = ("blk.0.attn_norm", "blk.0.ffn_gate_inp", "blk.1.attn_q_norm", "output_norm")
    assert {kinds[f"{name}.weight"] for name in matrices} == {wanted}
    assert {kinds[f"{name}.weight"] for name in in_full} == {0}
    again = load_gguf(path).state_dict
    for name, tensor in model.state_dict().items():
        error = (again[name] - tensor).abs().max() / tensor.abs().max()
        assert error <= WORST_ERROR[type_name], name
        assert error > 0 or tensor.ndim == 1 or "gate.weight" in name, f"{name} was not rounded"


def test_choices_and_scales_of_deepseek_v4_stay_in_full(tmp_path: Path) -> None:
    model = toy_model(toy_config("deepseek_v4"))
    path = toy_file(model, tmp_path / "m.gguf", "q8_0").path
    with open_gguf(path) as file:
        quantised = {name.split(".", 2)[-1] for name, tensor in file.tensors.items() if tensor.ggml_type == 8}
    words = ("compressor", "indexer", "hc_", "_inp")
    assert not [name for name in quantised if any(word in name for word in words)]
    assert {"attn_q_a.weight", "ffn_down_exps.weight", "ffn_up_shexp.weight"} <= quantised


@needs_llama_cpp
@pytest.mark.parametrize("type_name", K_QUANT_ERROR)
def test_k_quants_are_made_by_llama_cpp(tmp_path: Path, type_name: str) -> None:
    changes = {"hidden_size": 256, "moe_intermediate_size": 256, "head_dim": 64}
    model = toy_model(toy_config("qwen3_moe", **changes))
    path = toy_file(model, tmp_path / "m.gguf", type_name).path
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    with open_gguf(path) as file:
        assert file.fields["general.file_type"] == NUMBER_TYPES[type_name].file_type
        kinds = {name: tensor.ggml_type for name, tensor in file.tensors.items()}
    assert kinds["blk.0.attn_q.weight"] == NUMBER_TYPES[type_name].ggml_type
    assert kinds["blk.0.ffn_gate_inp.weight"] == kinds["blk.0.attn_norm.weight"] == 0
    again = load_gguf(path).state_dict
    for name, tensor in model.state_dict().items():
        assert _relative_error(again[name], tensor) < K_QUANT_ERROR[type_name], name
    assert _relative_error(again["model.embed_tokens.weight"], model.model.embed_tokens.weight) > 0.01


DEQUANTISED_BY = {12: "q4_K", 14: "q6_K", 6: "q5_0", 8: "q8_0"}
"""ggml's names of the types in a file of Q4_K_M whose rows blocks of 256 do not all fill, by `enum ggml_type`."""


@needs_llama_cpp
def test_a_mixture_with_rows_that_fill_no_block_of_256_is_read_as_ggml_reads_it(tmp_path: Path) -> None:
    """The official files of Qwen2.5-Coder-0.5B, 896 wide, are such: Q5_0 and Q8_0 stand in for Q4_K and Q6_K."""
    model = toy_model(toy_config("qwen2", hidden_size=96, intermediate_size=256))
    path = tmp_path / "m.gguf"
    quantize_in_child(toy_file(model, tmp_path / "f32.gguf").path, path, NUMBER_TYPES["q4_k"].file_type, [])
    loaded = load_gguf(path)
    ours = {rule.stored[0]: loaded.state_dict[rule.name] for rule in family_of("qwen2").rules(loaded.config)}
    seen = set()
    with open_gguf(path) as file:
        for name, tensor in file.tensors.items():
            if tensor.ggml_type:
                seen.add(tensor.ggml_type)
                theirs = _by_ggml(file.raw(name), DEQUANTISED_BY[tensor.ggml_type], tensor.shape)
                torch.testing.assert_close(ours[name], theirs, rtol=1e-6, atol=1e-7, msg=name)
    assert seen == set(DEQUANTISED_BY)


def _by_ggml(raw: NDArray[np.uint8], type_name: str, shape: tuple[int, ...]) -> Tensor:
    """Return what ggml's C code makes of a tensor's bytes."""
    import llama_cpp

    base = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    dequantised = torch.empty(shape)
    raw = np.ascontiguousarray(raw)
    count = ctypes.c_int64(dequantised.numel())
    base[f"dequantize_row_{type_name}"](
        ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(dequantised.data_ptr()), count
    )
    return dequantised


@needs_llama_cpp
def test_choices_and_scales_of_deepseek_v4_stay_in_full_in_k_quants(tmp_path: Path) -> None:
    """The sizes of nano-v4, made for these blocks."""
    model = toy_model(published("nano-v4").with_(vocab_size=VOCAB_SIZE))
    again = load_gguf(toy_file(model, tmp_path / "m.gguf", "q4_k").path).state_dict
    exact = {name for name, tensor in model.state_dict().items() if torch.equal(again[name], tensor)}
    words = ("compressor", "_hc.", "hc_head", ".mlp.gate.", "norm", "sinks")
    assert {name for name in again if any(word in name for word in words)} <= exact
    assert not [name for name in exact if "experts" in name or "_proj.weight" in name and "compressor" not in name]


def test_tokens_are_filled_up_to_the_rows_of_the_embedding(tmp_path: Path) -> None:
    model = toy_model(toy_config("qwen3"))
    tokenizer = toy_tokenizer()
    again = load_gguf(toy_file(model, tmp_path / "m.gguf").path).tokenizer
    n = len(tokenizer["tokenizer.ggml.tokens"])
    assert n < VOCAB_SIZE == len(again["tokenizer.ggml.tokens"]) == len(set(again["tokenizer.ggml.tokens"]))
    assert again["tokenizer.ggml.token_type"][n:] == [5] * (VOCAB_SIZE - n)
    rows = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    assert {key: again[key][:n] for key in rows} == {key: tokenizer[key] for key in rows}
    assert again | dict.fromkeys(rows) == tokenizer | dict.fromkeys(rows)


@pytest.mark.parametrize(
    ("arch", "pattern", "slides"),
    [("gemma3", None, "sssssfs"), ("gpt-oss", None, "sfsfsf"), ("gemma3", 3, "ssfssf"), ("olmo2", [1, 0], "sf")],
)
def test_windows_of_others_files_follow_a_pattern_a_period_or_the_familys_own(
    arch: str, pattern: int | list[int] | None, slides: str
) -> None:
    n = len(slides)
    family = family_in_file(arch)
    model = next(name for name, (model_type, _) in MODELS.items() if model_type == family.model_type)
    key = f"{arch}.attention.sliding_window_pattern"
    values = metadata(family, toy_config(model)) | {f"{arch}.block_count": n, key: pattern}
    if pattern is None:
        del values[key]
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCAB_SIZE, 64)}
    shapes |= {"output.weight": (VOCAB_SIZE, 64), "blk.0.attn_q.bias": (64,)}
    config = read_config(family, values, Stored(shapes))
    kinds = {"s": "sliding_attention", "f": "full_attention"}
    assert config.layer_types == tuple(kinds[slide] for slide in slides)


@pytest.mark.parametrize("name", SIZES)
def test_every_published_size_has_its_place_in_gguf(name: str) -> None:
    config = published(name)
    family = family_of(config.model_type)
    fields = metadata(family, config)
    assert fields[f"{family.arch}.embedding_length"] == config.hidden_size
    expected = expected_shapes(config)
    rules = {rule.name: rule for rule in family.rules(config)}
    assert rules.keys() <= expected.keys()
    assert all(name.startswith("mtp.") for name in expected.keys() - rules.keys())
    stored = [shape for key, rule in rules.items() for shape in rule.stored_shapes(expected[key])]
    assert sum(map(_n, stored)) == sum(_n(expected[key]) for key in rules)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_bands_are_found_again_from_their_tensor(factor: float) -> None:
    """Files of others hold nothing but the tensor."""
    rope = RopeParameters(
        **LLAMA3 | {"rope_theta": 500_000.0, "factor": factor, "original_max_position_embeddings": 8192}
    )
    found = RopeParameters(**read_bands(band_factors(rope, 128), rope.rope_theta, None))
    assert not lost_in_32_bits(rope.model_dump(), found.model_dump())


def test_a_tensor_of_factors_that_are_not_llama_3s_is_refused() -> None:
    factors = np.linspace(1, 8, 64, dtype=np.float32)
    with pytest.raises(UserError, match="rope_freqs"):
        read_bands(factors, 500_000.0, None)


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def _decisions(config: ModelConfig) -> dict[str, object]:
    """Return what a file holds; numbers to the digits that pass through 32 bits and a division."""
    decided = config.model_dump(exclude=set(NOT_IN_GGUF) - {"num_nextn_predict_layers"})
    return {key: _rounded(value) for key, value in decided.items()}


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _n(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=object))
