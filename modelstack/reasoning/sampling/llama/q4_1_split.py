"""Splits a Q4_1 model into a Q4_0 model and a low-rank part, since llama.cpp runs batches of Q4_0 twice as fast.

A block of 32 numbers is d q + m in Q4_1 and d (q - 8) in Q4_0, with the same q in the same nibbles. A Q4_1
matrix is therefore the Q4_0 matrix of its d and q, plus C S: S [I/32, I] sums each block of the input, and C [O,
I/32] holds m + 8 d of each block. llama.cpp has batched kernels for Q4_0 (weights rearranged at load, 8 rows at
a time) but not for Q4_1. C S has the form of a LoRA adapter and is stored in the adapter in training
(`rollout_adapter`). Only matrices to which llama.cpp applies adapters in every model family are split.

Layouts: `block_q4_0` and `block_q4_1` of ggml-common.h.

Letters: O outputs, I inputs, K blocks of a row (I/32).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.gguf_file import GGUFFile, StoredTensor, open_gguf

Q4_0, Q4_1 = 2, 3
"""`enum ggml_type`."""
BLOCK = 32
"""Numbers per block."""
_BYTES = 20
"""Bytes of a Q4_1 block: d and m as F16, 32 nibbles."""
_ZERO = 8
"""Offset that Q4_0 subtracts from q."""
SPLIT = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Matrices of a layer to which llama.cpp applies adapters directly."""


def has_q4_1(path: Path) -> bool:
    """Return whether `write_split` would split any matrix.

    Raises:
        UserError: The file is not a GGUF file or is damaged.
    """
    with open_gguf(path) as file:
        return any(_is_split(tensor) for tensor in file.tensors.values())


def write_split(path: Path, target: Path) -> dict[str, NDArray[np.float32]]:
    """Write a GGUF model with Q4_1 matrices stored as Q4_0; return the missing part C [O, K] of each, by name.

    The tokenizer is left out, as it takes longer to read than the weights.

    Args:
        path: GGUF file of a model.
        target: Path of the file to write.

    Raises:
        UserError: The file is not a GGUF file or is damaged.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.gguf_writer import GGUFWriter

    missing: dict[str, NDArray[np.float32]] = {}
    with open_gguf(path) as file, closing(GGUFWriter(target, file.fields["general.architecture"])) as writer:
        _copy_fields(file, writer)
        for name, tensor in file.tensors.items():
            # The writer stores bytes unchanged, and expects the shape in bytes.
            data, kind = file.raw(name).reshape(*tensor.shape[:-1], -1), tensor.ggml_type
            if _is_split(tensor):
                (data, missing[name]), kind = split_blocks(data), Q4_0
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType(kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return missing


def split_blocks(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a Q4_1 matrix's rows of bytes as Q4_0, and the value to add for each block, [O, K]."""
    blocks_OKb = rows.reshape(len(rows), -1, _BYTES)
    scales_OK2 = np.ascontiguousarray(blocks_OKb[..., :4]).view(np.float16).astype(np.float32)
    q4_0 = np.concatenate([blocks_OKb[..., :2], blocks_OKb[..., 4:]], axis=-1)
    return q4_0.reshape(len(rows), -1), scales_OK2[..., 1] + _ZERO * scales_OK2[..., 0]


def block_sums(n_blocks: int) -> NDArray[np.float32]:
    """Return S [K, I]: 1 where an input belongs to a block."""
    return np.repeat(np.eye(n_blocks, dtype=np.float32), BLOCK, axis=1)


def _is_split(tensor: StoredTensor) -> bool:
    name = tensor.name.split(".")
    is_of_block = len(name) == 4 and name[0] == "blk" and name[2] in SPLIT and name[3] == "weight"
    return is_of_block and tensor.ggml_type == Q4_1 and len(tensor.shape) == 2


def _copy_fields(file: GGUFFile, writer: Any) -> None:
    """Copy the metadata of the model, with the vocabulary reduced to its size."""
    from gguf.constants import GGUFValueType as Type

    kinds = {bool: Type.BOOL, int: Type.UINT32, float: Type.FLOAT32, str: Type.STRING}
    architecture = file.fields["general.architecture"]
    fields = {key: value for key, value in file.fields.items() if not key.startswith("tokenizer.")}
    fields["tokenizer.ggml.model"] = "none"
    fields[f"{architecture}.vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    del fields["general.architecture"]  # already written by the constructor of the writer
    for key, value in fields.items():
        if not isinstance(value, list):
            writer.add_key_value(key, value, kinds[type(value)])
        elif value:
            kind = Type.INT32 if type(value[0]) is int else kinds[type(value[0])]
            writer.add_key_value(key, value, Type.ARRAY, sub_type=kind)
