"""Checks of GGUF files before llama.cpp opens them, because some damaged files end the whole process.

llama.cpp answers most damaged files with an error. Other values it only asserts (`GGML_ASSERT` calls `abort`), and
a matrix in a number type without a kernel ends in a segmentation fault; Python can catch neither. `gguf_file`
reads the header within limits, and this module checks its values. The rules were found by loading damaged files in
child processes, with the llama.cpp of llama-cpp-python 0.3.36.

Only the header is read. Files that llama.cpp refuses itself are left to it, unless its message would not help.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite, prod
from pathlib import Path
from typing import Any, NoReturn

from modelstack.errors import UserError
from modelstack.gguf_file import (
    ARRAY,
    F32,
    FLOAT32,
    I32,
    INT32,
    STRING,
    GGUFFile,
    StoredTensor,
    open_gguf,
)
from modelstack.inference.engine import EngineError

MAX_LAYERS, MAX_EXPERTS = 512, 512
"""LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS of llama-hparams.h."""
MAX_CONTEXT = 2**31 - 1
"""Maximum context length: llama.cpp's C API returns it as an int32."""
MAX_TENSOR_NAME_BYTES = 63
"""Maximum length of a tensor's name in bytes: GGML_MAX_NAME of ggml.h less the final zero byte."""
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
NO_VOCABULARY = ("none", "no_vocab")
"""Values of `tokenizer.ggml.model` in a file without tokens."""
WITHOUT_KERNELS = ("Q8_1", "Q8_K", "I8", "I16", "I64", "F64")
"""Number types that llama.cpp stores, or uses for intermediate results, but cannot multiply a matrix of."""
UNCHECKED = ("tokenizer.ggml.merges",)
"""Arrays that are not read: llama.cpp accepts any text as a merge, and there are as many as tokens."""
HEAD_MATRICES = (".attn_k_b.weight", ".attn_v_b.weight")
"""Endings of tensors with a matrix for each head."""
WHOLE_NUMBERS = ".ffn_gate_tid2eid.weight"
"""Ending of the only tensor of whole numbers (I32): the experts of each token, in DeepSeek-V4."""

EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon")
"""Keys, after the architecture, of the term that norms add below the root."""

_ARCHITECTURE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_MAX_SHOWN_CHARS = 80


def check_model_file(path: Path) -> dict[str, StoredTensor]:
    """Check a model file, or all files of a split one, for errors that would end the process; return its tensors.

    Raises:
        EngineError: the file is missing or damaged; the message names field, value and rule.
    """
    with _opened(path, "model") as file:
        tensors = dict(file.tensors)
        for other in _other_files(file):
            with _opened(other, "model") as part:
                _check_tensors(part)
                tensors.update(part.tensors)
        _check_tensors(file)
        architecture = _architecture(file)
        _check_layers(file, architecture, tensors)
        _check_sizes(file, architecture)
        _check_vocabulary(file, tensors)
    return tensors


def has_quantised_stacks(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether there is a quantised matrix for each head, as in multi-head latent attention (DeepSeek-V3)."""
    stacks = (tensor.type_name for name, tensor in tensors.items() if name.endswith(HEAD_MATRICES))
    return any(kind not in ("F32", "F16", "BF16") for kind in stacks)


def check_adapter_file(path: Path) -> None:
    """Check a LoRA adapter for errors that would end the process.

    Raises:
        EngineError: the file is missing or damaged; the message names field, value and rule.
    """
    with _opened(path, "adapter") as file:
        _check_tensors(file)
        _architecture(file)
        for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
            if file.fields.get(key) != expected:
                _fail(file, key, file.fields.get(key), f"a LoRA adapter has {expected!r}")
        alpha = file.fields.get("adapter.lora.alpha")
        if file.kinds.get("adapter.lora.alpha", FLOAT32) != FLOAT32 or (alpha is not None and not isfinite(alpha)):
            _fail(file, "adapter.lora.alpha", alpha, "it must be a finite number of type FLOAT32")
        _check_pairs(file)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[GGUFFile]:
    if not path.is_file():
        raise EngineError(f"no {what} file at {path}; `agentkit models pull NAME` fetches a known model")
    try:
        with open_gguf(path, without=UNCHECKED) as file:
            yield file
    except UserError as error:
        raise EngineError(str(error)) from error


def _fail(file: GGUFFile, field: str, value: object, rule: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= _MAX_SHOWN_CHARS else f"{shown[:_MAX_SHOWN_CHARS]}..."
    raise EngineError(f"{file.path}: {field} is {shown}; {rule}. Fetch the file again, or export it again.")


def _text(file: GGUFFile, key: str) -> str:
    value = file.fields.get(key)
    if not isinstance(value, str):
        _fail(file, key, value, "it must be a text")
    return value


def _architecture(file: GGUFFile) -> str:
    """Return the prefix of other keys, checked because messages quote keys unchanged."""
    architecture = _text(file, "general.architecture")
    if not _ARCHITECTURE.fullmatch(architecture):
        _fail(file, "general.architecture", architecture, "it must be 1 to 64 letters, digits, '.', '_' and '-'")
    return architecture


def _number(file: GGUFFile, key: str, default: int | None, least: int, most: int) -> int:
    value = file.fields.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        _fail(file, key, value, f"it must be a whole number from {least} to {most}")
    return value


def _other_files(file: GGUFFile) -> Iterable[Path]:
    """Return the files of a split model after the first, by llama.cpp's naming scheme."""
    n_files = _number(file, "split.count", 1, 0, 2**16 - 1)
    if n_files <= 1:
        return ()
    match = _SPLIT_NAME.fullmatch(file.path.name)
    if match is None or (int(match[2]), int(match[3])) != (1, n_files):
        rule = f"the first file of a model in {n_files} parts is named NAME-00001-of-{n_files:05}.gguf"
        _fail(file, "the file's name", file.path.name, rule)
    return [file.path.with_name(f"{match[1]}-{n:05}-of-{n_files:05}.gguf") for n in range(2, n_files + 1)]


def _check_tensors(file: GGUFFile) -> None:
    for name, tensor in file.tensors.items():
        if len(name.encode()) > MAX_TENSOR_NAME_BYTES:
            _fail(file, "a tensor's name", name, f"at most {MAX_TENSOR_NAME_BYTES} bytes are allowed")
        where = f"the number type of tensor {name!r}"
        if tensor.type_name in WITHOUT_KERNELS:
            _fail(file, where, tensor.type_name, "llama.cpp cannot compute with it")
        if (tensor.ggml_type == I32) != name.endswith(WHOLE_NUMBERS):
            _fail(file, where, tensor.type_name, f"only tensors *{WHOLE_NUMBERS} hold whole numbers, of type I32")
        is_vector = name.endswith((".bias", "norm.weight")) and prod(tensor.shape) == tensor.shape[-1]
        if is_vector and tensor.ggml_type != F32:
            _fail(file, where, tensor.type_name, "norms and biases are of type F32")


def _check_layers(file: GGUFFile, architecture: str, tensors: Mapping[str, StoredTensor]) -> None:
    key = f"{architecture}.block_count"
    n_layers = _number(file, key, None, 1, MAX_LAYERS)
    # Layers that predict tokens further ahead count, but the file may lack them.
    n_optional = _number(file, f"{architecture}.nextn_predict_layers", 0, 0, n_layers - 1)
    layers = {int(match[1]) for name in tensors if (match := _LAYER.match(name))}
    if not layers and any(name.startswith(("enc.", "dec.")) for name in tensors):
        return  # encoder-decoder models name their layers otherwise
    if layers - set(range(n_layers)):
        rule = f"the file has tensors of layer {max(layers)}, counted from 0"
        _fail(file, key, n_layers, rule)
    if missing := set(range(n_layers - n_optional)) - layers:
        _fail(file, key, n_layers, f"the file has no tensors of layer {min(missing)}, counted from 0")


def _check_sizes(file: GGUFFile, architecture: str) -> None:
    _number(file, f"{architecture}.context_length", None, 1, MAX_CONTEXT)
    key = f"{architecture}.expert_count"
    n_experts = _number(file, key, 0, 0, MAX_EXPERTS)
    used_key = f"{architecture}.expert_used_count"
    for n_used in _each(file.fields.get(used_key, 0)):
        if isinstance(n_used, bool) or not isinstance(n_used, int) or not 0 <= n_used <= n_experts:
            _fail(file, used_key, n_used, f"it must be a whole number from 0 to {key}, {n_experts}")
    if n_experts and not any(_each(file.fields.get(used_key, 0))):
        _fail(file, used_key, file.fields.get(used_key), f"with {key} {n_experts}, at least 1 must be used")
    _check_expert_groups(file, architecture, n_experts)
    for name in EPSILONS:
        epsilon = file.fields.get(f"{architecture}.{name}", 0.0)
        if not isinstance(epsilon, float) or not epsilon >= 0:
            _fail(file, f"{architecture}.{name}", epsilon, "it must be a number from 0 up")
    key = f"{architecture}.rope.scaling.type"
    scaling = file.fields.get(key, "none")
    if scaling not in ROPE_SCALINGS:
        _fail(file, key, scaling, f"known are {', '.join(ROPE_SCALINGS)}")


def _check_expert_groups(file: GGUFFile, architecture: str, n_experts: int) -> None:
    """Check that groups of experts are equal, and that some but not all are used."""
    key = f"{architecture}.expert_group_count"
    n_groups = _number(file, key, 0, 0, max(n_experts - 1, 0))
    if n_groups <= 1:
        return
    if n_experts % n_groups:
        _fail(file, key, n_groups, f"it must divide {architecture}.expert_count, {n_experts}")
    _number(file, f"{architecture}.expert_group_used_count", 0, 1, n_groups - 1)


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_vocabulary(file: GGUFFile, tensors: Mapping[str, StoredTensor]) -> None:
    model = _text(file, "tokenizer.ggml.model")
    if model in NO_VOCABULARY:
        return
    key = "tokenizer.ggml.tokens"
    tokens = _list(file, key, STRING)
    if not tokens:
        _fail(file, key, tokens, "a model needs at least one token")
    embedding = tensors.get("token_embd.weight")
    if embedding is not None and prod(embedding.shape[:-1]) != len(tokens):
        rule = f"token_embd.weight has {prod(embedding.shape[:-1])} rows, one for each token"
        _fail(file, f"the length of {key}", len(tokens), rule)
    _check_different(file, key, tokens)
    for name, kind in (("token_type", INT32), ("scores", FLOAT32)):
        other = f"tokenizer.ggml.{name}"
        if other in file.fields and len(values := _list(file, other, kind)) != len(tokens):
            _fail(file, f"the length of {other}", len(values), f"{key} has {len(tokens)}, one value for each")
    if model == "llama" and not any(map(_BYTE_TOKEN.fullmatch, tokens)):
        _fail(file, "tokenizer.ggml.model", model, "it needs tokens for bytes, <0x00> to <0xFF>, and has none")


def _check_different(file: GGUFFile, key: str, tokens: list[str]) -> None:
    """Check that all tokens differ for llama.cpp, which ends a text at a zero byte and numbers empty ones."""
    if "\0" in "".join(tokens):
        tokens = [token.partition("\0")[0] for token in tokens]
    if "" in tokens:
        tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]
    if len(set(tokens)) == len(tokens):
        return
    first: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if first.setdefault(token, number) != number:
            _fail(file, f"{key}[{number}]", token, f"token {first[token]} is the same; all must be different")


def _list(file: GGUFFile, key: str, kind: int) -> list[Any]:
    value = file.fields.get(key)
    if file.kinds.get(key) != (ARRAY, kind):
        names = {STRING: "STRING", INT32: "INT32", FLOAT32: "FLOAT32"}
        _fail(file, key, value, f"it must be an array of type {names[kind]}")
    assert isinstance(value, list)
    return value


def _check_pairs(file: GGUFFile) -> None:
    """Check that each lora_a has its lora_b, and that their ranks agree."""
    for name, tensor in file.tensors.items():
        stem, _, factor = name.rpartition(".")
        if factor not in ("lora_a", "lora_b"):
            continue
        if len(tensor.shape) != 2:
            _fail(file, f"the shape of tensor {name!r}", tensor.shape, "a factor of LoRA has two dimensions")
        pair = file.tensors.get(f"{stem}.{'lora_b' if factor == 'lora_a' else 'lora_a'}")
        if pair is None:
            _fail(file, f"tensor {name!r}", tensor.shape, "lora_a and lora_b come in pairs; the other is missing")
        # The embedding's factors are stored transposed.
        is_turned = stem.endswith("token_embd.weight")
        if factor == "lora_a" and not is_turned and tensor.shape[0] != pair.shape[-1]:
            _fail(file, f"the rank of tensor {name!r}", tensor.shape[0], f"that of lora_b is {pair.shape[-1]}")
