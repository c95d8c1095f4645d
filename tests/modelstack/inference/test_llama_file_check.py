"""Files on which llama.cpp would end the process are refused before it opens them, each with a reason."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelstack.gguf_file import ARRAY, BOOL, INT32, NUMBER_TYPES, STRING, UINT32
from modelstack.inference.engine import EngineError
from modelstack.inference.llama.file_check import MAX_LAYERS, check_adapter_file, check_model_file
from tests.modelstack.inference.raw_gguf import Info, RawGGUF
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf, write_tiny_lora

TOKENS = "tokenizer.ggml.tokens"
N_TOKENS = 512
N_MUTATIONS = 400
HUGE = (2**63, 2**64 - 1, 2**32, 2**31 - 1, 0, 513)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model of two layers."""
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "sound.gguf")


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound adapter."""
    return write_tiny_lora(tmp_path_factory.mktemp("adapter") / "sound.gguf")


def tokens_with(file: RawGGUF, number: int, token: str) -> None:
    file.fields[TOKENS][1][number] = token


def without_layer(file: RawGGUF, layer: int) -> None:
    file.tensors = {name: info for name, info in file.tensors.items() if not name.startswith(f"blk.{layer}.")}


MODEL_FAULTS: dict[str, tuple[Callable[[RawGGUF], object], str]] = {
    # the five that were found first
    "more layers than there are": (
        lambda f: f.set("llama.block_count", 3),
        r"llama\.block_count is 3; the file has no tensors of layer 2",
    ),
    "fewer layers than there are": (
        lambda f: f.set("llama.block_count", 1),
        r"llama\.block_count is 1; the file has tensors of layer 1",
    ),
    "no layers": (lambda f: f.set("llama.block_count", 0), "is 0; it must be a whole number from 1 to 512"),
    "more layers than llama.cpp takes": (
        lambda f: f.set("llama.block_count", MAX_LAYERS + 1),
        "is 513; it must be a whole number from 1 to 512",
    ),
    "two equal tokens": (
        lambda f: tokens_with(f, 300, f.fields[TOKENS][1][299]),
        r"tokens\[300\] is .*; token 299 is the same",
    ),
    "tokens that are equal up to a zero byte": (
        lambda f: (tokens_with(f, 300, "abcxyz\0a"), tokens_with(f, 301, "abcxyz\0b")),
        r"tokens\[301\] is 'abcxyz'; token 300 is the same",
    ),
    "a token called as an empty one": (
        lambda f: (tokens_with(f, 300, ""), tokens_with(f, 301, "[EMPTY_300]")),
        r"tokens\[301\] is '\[EMPTY_300\]'; token 300 is the same",
    ),
    "an empty list of tokens": (lambda f: f.set(TOKENS, []), "needs at least one token"),
    "no list of tokens": (lambda f: f.fields.pop(TOKENS), r"tokens is None; it must be an array of type STRING"),
    "a length beyond the file": (
        lambda f: f.tensors.update(
            {"output_norm.weight": Info((2**40,), 0, f.tensors["output_norm.weight"].offset)}
        ),
        "it is cut off: its tensors end at byte|overlaps another",
    ),
    # others of the same kind
    "tokens that are numbers": (lambda f: f.set(TOKENS, [1, 2], (ARRAY, INT32)), "array of type STRING"),
    "fewer tokens than rows": (lambda f: f.set(TOKENS, ["a", "b"]), "length of .*tokens is 2; .* has 512 rows"),
    "types for some tokens only": (
        lambda f: f.set("tokenizer.ggml.token_type", [1, 1]),
        r"length of tokenizer\.ggml\.token_type is 2; .*tokens has 512",
    ),
    "types in bytes": (
        lambda f: f.set("tokenizer.ggml.token_type", [1] * N_TOKENS, (ARRAY, 0)),
        "token_type is .* array of type INT32",
    ),
    "a SentencePiece model without bytes": (
        lambda f: f.set("tokenizer.ggml.model", "llama"),
        "tokenizer.ggml.model is 'llama'; it needs tokens for bytes",
    ),
    "no kind of tokenizer": (lambda f: f.fields.pop("tokenizer.ggml.model"), "is None; it must be a text"),
    "a gap between the layers": (
        lambda f: (f.set("llama.block_count", 2), without_layer(f, 0)),
        "is 2; the file has no tensors of layer 0",
    ),
    "a truth value for a number": (lambda f: f.set("llama.block_count", True, BOOL), "is True; .* whole number"),
    "no architecture": (
        lambda f: f.set("general.architecture", 3, UINT32),
        "architecture is 3; it must be a text",
    ),
    "no context": (lambda f: f.set("llama.context_length", 0), "is 0; .* from 1 to 2147483647"),
    "a context beyond an int32": (
        lambda f: f.set("llama.context_length", 2**32 - 1),
        "is 4294967295; .* from 1 to 2147483647",
    ),
    "too many experts": (lambda f: f.set("llama.expert_count", 513, UINT32), "is 513; .* from 0 to 512"),
    "experts of which none is used": (
        lambda f: f.set("llama.expert_count", 4, UINT32),
        "expert_used_count is None; with llama.expert_count 4",
    ),
    "more experts used than there are": (
        lambda f: f.set("llama.expert_used_count", 9, UINT32),
        "expert_used_count is 9; .* from 0 to llama.expert_count, 0",
    ),
    "an unknown scaling": (
        lambda f: f.set("llama.rope.scaling.type", "longer", STRING),
        "rope.scaling.type is 'longer'; known are none, linear, yarn, longrope",
    ),
    "a matrix in 64 bits": (
        lambda f: f.tensors.update(
            {"blk.0.attn_q.weight": Info((32, 64), 28, f.tensors["blk.0.attn_q.weight"].offset)}
        ),
        "number type of tensor 'blk.0.attn_q.weight' is 'F64'; llama.cpp cannot compute",
    ),
    "whole numbers for weights": (
        lambda f: setattr(f.tensors["token_embd.weight"], "kind", 26),
        "tensor 'token_embd.weight' is 'I32'; only tensors",
    ),
    "weights for a table of experts": (
        lambda f: f.tensors.update({"blk.0.ffn_gate_tid2eid.weight": f.tensors.pop("blk.0.ffn_up.weight")}),
        "tid2eid.weight' is 'F32'; only tensors",
    ),
    "a norm in 16 bits": (
        lambda f: setattr(f.tensors["output_norm.weight"], "kind", 1),
        "'output_norm.weight' is 'F16'; norms and biases",
    ),
    "a number type that is not known": (
        lambda f: setattr(f.tensors["output_norm.weight"], "kind", 4),
        "in the tensors: tensor 'output_norm.weight' has number type 4; known: F32",
    ),
    "a name that is too long": (
        lambda f: f.tensors.update({"x" * 64: f.tensors.pop("output.weight")}),
        "a tensor's name is .*; at most 63 bytes",
    ),
    "an alignment that is none": (
        lambda f: f.set("general.alignment", 24, UINT32),
        "alignment 24 is not a power of two",
    ),
    "an offset between two": (
        lambda f: setattr(f.tensors["output_norm.weight"], "offset", 3),
        "'output_norm.weight' does not start at a multiple of 32",
    ),
    "a file of several": (
        lambda f: f.set("split.count", 2, 2),
        "file's name is 'broken.gguf'; .* named NAME-00001-of-00002.gguf",
    ),
}


@pytest.mark.parametrize("name", MODEL_FAULTS)
def test_a_model_that_would_end_the_process_is_refused(model_file: Path, tmp_path: Path, name: str) -> None:
    change, message = MODEL_FAULTS[name]
    file = RawGGUF.read(model_file)
    change(file)
    path = file.write(tmp_path / "broken.gguf")
    with pytest.raises(EngineError, match=message) as caught:
        check_model_file(path)
    assert str(path) in str(caught.value)


ADAPTER_FAULTS: dict[str, tuple[Callable[[RawGGUF], object], str]] = {
    "a number for its type": (lambda f: f.set("general.type", 3, UINT32), "general.type is 3; a LoRA adapter has"),
    "a model": (lambda f: f.set("general.type", "model"), "general.type is 'model'; a LoRA adapter has 'adapter'"),
    "another kind": (lambda f: f.set("adapter.type", "ia3"), "adapter.type is 'ia3'; a LoRA adapter has 'lora'"),
    "no architecture": (lambda f: f.fields.pop("general.architecture"), "architecture is None"),
    "alpha in 64 bits": (lambda f: f.set("adapter.lora.alpha", 8.0, 12), "alpha is 8.0; .* type FLOAT32"),
    "an endless alpha": (lambda f: f.set("adapter.lora.alpha", float("inf")), "alpha is inf; .* finite"),
    "a factor without the other": (
        lambda f: f.tensors.pop("blk.0.attn_q.weight.lora_b"),
        "'blk.0.attn_q.weight.lora_a' is .*; lora_a and lora_b come in pairs",
    ),
    "other ranks": (
        lambda f: setattr(f.tensors["blk.0.attn_q.weight.lora_a"], "shape", (64, 2)),
        "rank of tensor 'blk.0.attn_q.weight.lora_a' is 2; that of lora_b is 4",
    ),
    "a factor that is no matrix": (
        lambda f: setattr(f.tensors["blk.0.attn_q.weight.lora_a"], "shape", (256,)),
        "is .256,.; a factor of LoRA has two dimensions",
    ),
}


@pytest.mark.parametrize("name", ADAPTER_FAULTS)
def test_an_adapter_that_would_end_the_process_is_refused(adapter_file: Path, tmp_path: Path, name: str) -> None:
    change, message = ADAPTER_FAULTS[name]
    file = RawGGUF.read(adapter_file)
    change(file)
    with pytest.raises(EngineError, match=message):
        check_adapter_file(file.write(tmp_path / "broken.gguf"))


def test_sound_files_pass(model_file: Path, adapter_file: Path, tmp_path: Path) -> None:
    check_model_file(model_file)
    check_adapter_file(adapter_file)
    file = RawGGUF.read(model_file)
    tokens_with(file, 300, "")
    tokens_with(file, 301, "")  # llama.cpp numbers them
    check_model_file(file.write(tmp_path / "empty-tokens.gguf"))


def test_a_model_in_parts_is_read_whole(model_file: Path, tmp_path: Path) -> None:
    whole = RawGGUF.read(model_file)
    whole.set("split.count", 2, 2)
    first = RawGGUF(whole.fields, dict(whole.tensors), whole.data)
    second = RawGGUF({"split.no": (2, 1)}, {}, whole.data)
    for name in [name for name in whole.tensors if name.startswith("blk.1.")]:
        second.tensors[name] = first.tensors.pop(name)
    path = first.write(tmp_path / "model-00001-of-00002.gguf")
    with pytest.raises(EngineError, match=r"no model file at .*-00002-of-00002\.gguf"):
        check_model_file(path)
    part = second.write(tmp_path / "model-00002-of-00002.gguf")
    check_model_file(path)
    second.tensors["blk.1.attn_q.weight"].kind = 28
    second.write(part)
    with pytest.raises(EngineError, match=r"-00002-of-00002\.gguf"):
        check_model_file(path)


def test_layers_that_predict_further_tokens_may_be_left_out(model_file: Path, tmp_path: Path) -> None:
    file = RawGGUF.read(model_file)
    file.set("llama.block_count", 3)
    file.set("llama.nextn_predict_layers", 1, UINT32)
    check_model_file(file.write(tmp_path / "next.gguf"))


def test_only_the_header_is_read(model_file: Path, tmp_path: Path) -> None:
    """The output matrix has 16 GiB of zeros, which take no room on the disk."""
    file = RawGGUF.read(model_file)
    rows = 2**32 // 64
    end = -(-len(file.data) // 32) * 32
    file.tensors["output.weight"] = Info((64, rows), 0, end)
    path = file.write(tmp_path / "large.gguf")
    os.truncate(path, len(file.header()) + end + rows * 64 * 4)
    tracemalloc.start()
    try:
        check_model_file(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_of_hundreds_of_broken_headers_each_passes_or_is_refused(
    kind: str, model_file: Path, adapter_file: Path, tmp_path: Path
) -> None:
    """Flipped bits, cut ends, numbers beyond all measure: no other exception, no memory for mere claims."""
    check, sound = (check_model_file, model_file) if kind == "model" else (check_adapter_file, adapter_file)
    file = RawGGUF.read(sound)
    n_header = len(file.header())
    content, path, rng = file.header() + file.data, tmp_path / "mutated.gguf", np.random.default_rng(20)
    outcomes = {"passed": 0, "refused": 0}
    tracemalloc.start()
    try:
        for number in range(N_MUTATIONS):
            mutated = bytearray(content)
            position = int(rng.integers(0, n_header - 8))
            if number % 4 == 0:
                struct.pack_into("<Q", mutated, position, HUGE[int(rng.integers(0, len(HUGE)))])
            elif number % 4 == 1:
                del mutated[int(rng.integers(0, n_header)) :]
            elif number % 4 == 2:
                other = int(rng.integers(0, n_header - 64))
                mutated[position : position + 32] = mutated[other : other + 32]
            else:
                for _ in range(int(rng.integers(1, 4))):
                    mutated[int(rng.integers(0, n_header))] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(mutated)
            try:
                check(path)
                outcomes["passed"] += 1
            except EngineError as error:
                assert str(path) in str(error)
                outcomes["refused"] += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert min(outcomes.values()) > 0
    assert peak < 8 * len(content) + (4 << 20)  # a block that is read is 1 MiB


def test_a_file_that_becomes_shorter_meanwhile_is_an_error(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = model_file.read_bytes()
    path = tmp_path / "shrinking.gguf"
    path.write_bytes(content[:2_000])
    real = os.fstat
    monkeypatch.setattr(
        "modelstack.gguf_file.os.fstat", lambda fd: os.stat_result((*real(fd)[:6], len(content), *real(fd)[7:10]))
    )
    with pytest.raises(EngineError, match="it was truncated meanwhile"):
        check_model_file(path)


def test_number_types_are_ggmls() -> None:
    gguf = pytest.importorskip("gguf.constants", reason="needs gguf (extra `train`)")
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    wrong_there = {9}  # gguf-py has 40 bytes for Q8_1, ggml 36: its block holds two 16-bit floats
    for kind, (name, numbers, n_bytes) in NUMBER_TYPES.items():
        if kind in sizes and kind not in wrong_there:
            assert (gguf.GGMLQuantizationType(kind).name, sizes[kind]) == (name, (numbers, n_bytes))
    assert sizes.keys() <= NUMBER_TYPES.keys()


def test_number_types_are_llama_cpps() -> None:
    import ctypes

    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    from modelstack.inference.llama.library import library_files

    base = [path for path in library_files() if path.name.startswith(("libggml-base", "ggml-base"))]
    lib = ctypes.CDLL(str(base[0]))  # the others are the same under other names
    lib.ggml_type_name.restype = ctypes.c_char_p
    lib.ggml_blck_size.restype, lib.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
    for kind, (name, numbers, n_bytes) in NUMBER_TYPES.items():
        assert lib.ggml_type_name(kind).decode().upper() == name
        assert (lib.ggml_blck_size(kind), lib.ggml_type_size(kind)) == (numbers, n_bytes)
