"""Damaged and hostile GGUF files end in a `UserError` or in a model that fits its config, and in nothing else."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_models import toy_config, toy_file, toy_model

from modelstack.architecture.gguf.load import load_gguf
from modelstack.errors import UserError
from modelstack.gguf_file import open_gguf

HUGE = (2**63, 2**64 - 1, 2**32, 2**31 - 1, 0)
N_HEADER_FLIPS, N_DATA_FLIPS, N_CUTS = 120, 10, 40
MODELS = ("llama, Llama 3 scaling", "deepseek_v4")
SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 32}


@pytest.fixture(scope="module", params=MODELS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound small file."""
    model = toy_model(toy_config(request.param, **SMALL))
    return toy_file(model, tmp_path_factory.mktemp("gguf") / "sound.gguf").path.read_bytes()


def test_flipped_bits_end_in_an_error_or_a_sound_model(sound: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    header = _n_header_bytes(sound, tmp_path)
    outcomes = []
    for end, n in ((header, N_HEADER_FLIPS), (len(sound), N_DATA_FLIPS)):
        for position in rng.integers(0, end, n):
            damaged = bytearray(sound)
            damaged[position] ^= 1 << int(rng.integers(0, 8))
            outcomes.append(_outcome(bytes(damaged), tmp_path))
    assert set(outcomes) == {"error", "model"}


def test_files_that_are_cut_off_are_refused(sound: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    end = _end_of_data(sound, tmp_path)  # behind it is padding
    for cut in (0, 3, 4, 23, 24, _n_header_bytes(sound, tmp_path), end - 1, *rng.integers(0, end, N_CUTS)):
        assert _outcome(sound[:cut], tmp_path) == "error", cut


def test_numbers_beyond_all_measure_allocate_nothing(sound: bytes, tmp_path: Path) -> None:
    """Every eighth byte of the header in turn begins a number that no file can mean."""
    header = _n_header_bytes(sound, tmp_path)
    positions = [8, 16, *range(24, header - 8, max(header // 40, 1))]
    tracemalloc.start()
    try:
        for n, position in enumerate(positions):
            damaged = bytearray(sound)
            struct.pack_into("<Q", damaged, position, HUGE[n % len(HUGE)])
            _outcome(bytes(damaged), tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(sound)


def test_a_sound_file_loads(sound: bytes, tmp_path: Path) -> None:
    assert _outcome(sound, tmp_path) == "model"


REWRITES: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "a key of more layers": (
        "llama",
        lambda f, t: f.update({"llama.block_count": 3}),
        "missing: blk.2.",
    ),
    "more layers than llama.cpp": ("llama", lambda f, t: f.update({"llama.block_count": 4000}), "at most 512"),
    "no layers": ("llama", lambda f, t: f.update({"llama.block_count": 0}), "block_count is '0'.*positive"),
    "another number of heads": (
        "llama",
        lambda f, t: f.update({"llama.attention.head_count": 8}),
        "attn_q.weight has shape .*must have",
    ),
    "heads that KV heads do not divide": (
        "llama",
        lambda f, t: f.update({"llama.attention.head_count_kv": 3}),
        "must be a multiple of num_key_value_heads 3",
    ),
    "a text for a number": ("llama", lambda f, t: f.update({"llama.block_count": "two"}), "is 'two'.*integer"),
    "a truth value for a number": (
        "llama",
        lambda f, t: f.update({"llama.block_count": True}),
        "positive integer",
    ),
    "an endless base": (
        "llama",
        lambda f, t: f.update({"llama.rope.freq_base": float("inf")}),
        "freq_base is 'inf'.*a number",
    ),
    "a scaling beyond 32 bits": (
        "llama, Llama 3 scaling",
        lambda f, t: f.update({"llama.rope.scaling.llama3": [1e30, 1.0, 4.0, 64.0]}),
        "scaling are invalid",
    ),
    "another scaling than the tensor's": (
        "llama, Llama 3 scaling",
        lambda f, t: f.update({"llama.rope.scaling.llama3": [8.0, 1.0, 3.0, 64.0]}),
        "not of Llama 3's form",
    ),
    "another base in windows": (
        "olmo3",
        lambda f, t: f.update({"olmo2.rope.freq_base_swa": 10000.0}),
        "llama.cpp uses rope.freq_base, 500000.0",
    ),
    "a key of another model": (
        "llama",
        lambda f, t: f.update({"llama.logit_scale": 0.5}),
        "not known: llama.logit_scale",
    ),
    "a key missing": ("llama", lambda f, t: f.pop("llama.embedding_length"), "embedding_length is missing"),
    "an unknown family": (
        "llama",
        lambda f, t: f.update({"general.architecture": "gpt5"}),
        "is 'gpt5'",
    ),
    "no family": ("llama", lambda f, t: f.update({"general.architecture": 7}), "architecture is '7'"),
    "half the rotation": ("llama", lambda f, t: f.update({"llama.rope.dimension_count": 8}), "the whole head, 16"),
    "another scaling": (
        "llama",
        lambda f, t: f.update({"llama.rope.scaling.type": "longrope"}),
        "scaling.type 'longrope' is not known",
    ),
    "a tensor too many": (
        "llama",
        lambda f, t: t.update({"blk.0.extra.weight": np.ones(4, np.float32)}),
        "not known: blk.0.extra.weight",
    ),
    "a tensor missing": ("llama", lambda f, t: t.pop("output_norm.weight"), "missing: output_norm.weight"),
    "a tensor turned": (
        "llama",
        lambda f, t: t.update({"blk.0.ffn_up.weight": np.ones((64, 128), np.float32)}),
        "ffn_up.weight has shape",
    ),
    "no embedding": ("llama", lambda f, t: t.pop("token_embd.weight"), "token_embd.weight is missing"),
    "fewer tokens than rows": (
        "llama",
        lambda f, t: f.update({"tokenizer.ggml.tokens": ["a", "b"]}),
        "has 2 tokens, but the embedding has 288",
    ),
    "factors of no scaling": (
        "llama",
        lambda f, t: t.update({"rope_freqs.weight": np.array([1, 9, 2, 7, 1, 1, 3, 1], np.float32)}),
        "rope_freqs.weight",
    ),
    "experts beyond the last": (
        "deepseek_v4",
        lambda f, t: t.update({"blk.0.ffn_gate_tid2eid.weight": np.full((288, 2), 8, np.int32)}),
        "expert numbers outside 0",
    ),
    "weights for a table of experts": (
        "deepseek_v4",
        lambda f, t: t.update({"blk.0.ffn_gate_tid2eid.weight": np.ones((288, 2), np.float32)}),
        "of the wrong type",
    ),
    "whole numbers for weights": (
        "llama",
        lambda f, t: t.update({"output_norm.weight": np.ones(64, np.int32)}),
        "of the wrong type",
    ),
    "numbers of 64 bits": (
        "llama",
        lambda f, t: t.update({"output_norm.weight": np.ones(64, np.float64)}),
        "F64 cannot be read",
    ),
    "compression by 7": (
        "deepseek_v4",
        lambda f, t: f.update({"deepseek4.attention.compress_ratios": [0, 7, 7, 7]}),
        "invalid for DeepSeek-V4",
    ),
    "more rotated than there is": (
        "deepseek_v3",
        lambda f, t: f.update({"deepseek2.attention.key_length_mla": 8}),
        "must exceed the 8 rotated",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_a_file_that_contradicts_itself_is_refused_and_says_where(tmp_path: Path, name: str) -> None:
    model, change, message = REWRITES[name]
    with open_gguf(toy_file(toy_model(toy_config(model)), tmp_path / "sound.gguf").path) as file:
        fields = dict(file.fields)
        tensors = {
            tensor.name: file.raw(tensor.name).view(np.int32 if tensor.ggml_type == 26 else np.float32)
            for tensor in file.tensors.values()
        }
        tensors = {key: array.reshape(file.tensors[key].shape) for key, array in tensors.items()}
    change(fields, tensors)
    with pytest.raises(UserError, match=message):
        load_gguf(_written(tmp_path / "damaged.gguf", fields, tensors))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with"),
        (b"GGML" + bytes(40), "does not begin with"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not known"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "a big-endian file"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "declares 1,099,511,627,776 tensors"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**50),
            "declares 1,125,899,906,842,624 bytes",
        ),
    ],
)
def test_what_is_no_gguf_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_gguf(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.gguf does not exist"):
        load_gguf(tmp_path / "nowhere.gguf")


def test_tensors_that_share_bytes_are_refused(sound: bytes, tmp_path: Path) -> None:
    """Else a small file could ask for any amount of memory."""
    with open_gguf(_put(sound, tmp_path)) as file:
        first, second = sorted(file.tensors.values(), key=lambda tensor: tensor.start)[:2]
        base = first.start
    name = second.name.encode()
    entry = sound.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4 + 8 * len(second.shape) + 4
    damaged = bytearray(sound)
    assert struct.unpack_from("<Q", damaged, entry)[0] == second.start - base
    struct.pack_into("<Q", damaged, entry, 0)
    with pytest.raises(UserError, match="overlaps another"):
        load_gguf(_put(bytes(damaged), tmp_path))


def _outcome(content: bytes, tmp_path: Path) -> str:
    try:
        load_gguf(_put(content, tmp_path))
    except UserError as error:
        assert str(error)
        return "error"
    return "model"


def _put(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    return path


def _n_header_bytes(sound: bytes, tmp_path: Path) -> int:
    with open_gguf(_put(sound, tmp_path)) as file:
        return min(tensor.start for tensor in file.tensors.values())


def _end_of_data(sound: bytes, tmp_path: Path) -> int:
    with open_gguf(_put(sound, tmp_path)) as file:
        return max(tensor.start + tensor.n_bytes for tensor in file.tensors.values())


def _written(path: Path, fields: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """Write fields and tensors as they are, by PyPI gguf alone."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in fields.items():
        kind = gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if type(value) is int else kind)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
