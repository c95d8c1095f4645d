"""A Q4_1 model as a Q4_0 one and a low-rank part: the same numbers, and llama.cpp computes batches twice as fast.

A block of 32 numbers is d q + m in Q4_1 and d (q - 8) in Q4_0, with the same q in the same nibbles. So a Q4_1
matrix is the Q4_0 one of its d and q plus C S: S [I/32, I] sums up each block of the input, C [O, I/32] holds each
block's m + 8 d. llama.cpp has kernels for batches of Q4_0 (weights rearranged at load, 8 rows at a time) and none
for Q4_1, and C S is just what a LoRA adapter is: it rides on the one that is trained (`rollout_adapter`). Only
matrices to which llama.cpp applies adapters in every family are split; others stay as they are.

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
"""Numbers of a block."""
_BYTES = 20
"""Of a Q4_1 block: d and m as F16, 32 nibbles."""
_ZERO = 8
"""What Q4_0 subtracts from q."""
SPLIT = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Matrices of a block that are multiplied with nothing between them and their adapter."""


def has_q4_1(path: Path) -> bool:
    """Say whether `write_split` would split anything.

    Raises:
        UserError: The file is no GGUF or damaged.
    """
    with open_gguf(path) as file:
        return any(_is_split(tensor) for tensor in file.tensors.values())


def write_split(path: Path, target: Path) -> dict[str, NDArray[np.float32]]:
    """Write a GGUF model with its Q4_1 matrices as Q4_0; return what is missing of each, C [O, K], by its name.

    The tokenizer is left out, which takes longer to read than the weights.

    Args:
        path: A model.
        target: The file to write.

    Raises:
        UserError: The file is no GGUF or damaged.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.gguf_writer import GGUFWriter

    missing: dict[str, NDArray[np.float32]] = {}
    with open_gguf(path) as file, closing(GGUFWriter(target, file.fields["general.architecture"])) as writer:
        _copy_fields(file, writer)
        for name, tensor in file.tensors.items():
            # The writer takes bytes for what they are, and a shape in bytes with them.
            data, kind = file.raw(name).reshape(*tensor.shape[:-1], -1), tensor.ggml_type
            if _is_split(tensor):
                (data, missing[name]), kind = split_blocks(data), Q4_0
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType(kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return missing


def split_blocks(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a Q4_1 matrix's rows of bytes as those of Q4_0, and what is to be added for each block, [O, K]."""
    blocks_OKb = rows.reshape(len(rows), -1, _BYTES)
    scales_OK2 = np.ascontiguousarray(blocks_OKb[..., :4]).view(np.float16).astype(np.float32)
    q4_0 = np.concatenate([blocks_OKb[..., :2], blocks_OKb[..., 4:]], axis=-1)
    return q4_0.reshape(len(rows), -1), scales_OK2[..., 1] + _ZERO * scales_OK2[..., 0]


def block_sums(n_blocks: int) -> NDArray[np.float32]:
    """Return S [K, I]: 1 where an input is of a block."""
    return np.repeat(np.eye(n_blocks, dtype=np.float32), BLOCK, axis=1)


def _is_split(tensor: StoredTensor) -> bool:
    name = tensor.name.split(".")
    is_of_block = len(name) == 4 and name[0] == "blk" and name[2] in SPLIT and name[3] == "weight"
    return is_of_block and tensor.ggml_type == Q4_1 and len(tensor.shape) == 2


def _copy_fields(file: GGUFFile, writer: Any) -> None:
    """Copy what is said of the model, with a vocabulary that is a number of tokens only."""
    from gguf.constants import GGUFValueType as Type

    kinds = {bool: Type.BOOL, int: Type.UINT32, float: Type.FLOAT32, str: Type.STRING}
    architecture = file.fields["general.architecture"]
    fields = {key: value for key, value in file.fields.items() if not key.startswith("tokenizer.")}
    fields["tokenizer.ggml.model"] = "none"
    fields[f"{architecture}.vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    del fields["general.architecture"]  # the writer has put it there
    for key, value in fields.items():
        if not isinstance(value, list):
            writer.add_key_value(key, value, kinds[type(value)])
        elif value:
            kind = Type.INT32 if type(value[0]) is int else kinds[type(value[0])]
            writer.add_key_value(key, value, Type.ARRAY, sub_type=kind)
