"""Writes the current adapter in the form that llama.cpp multiplies fastest, for a temporary file.

`sft.gguf_adapter` writes the adapter for serving: small, in 16 bits. Here the speed of every sampled reply
depends on the product. ggml multiplies F32 rows in steps of 64 numbers and the rest of a row one by one (F16: a
row of 16 entirely one by one). Ranks are therefore padded with zeros to a multiple of 64, and factors stay
exact. If the base was split (`q4_1_split`), its missing part takes the first ranks.

Letters: O outputs, I inputs, r rank, K blocks per row, R rank in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.registry import family_of
from modelstack.errors import UserError
from modelstack.posttrain.lora.adapters import lora_layers
from modelstack.reasoning.sampling.llama.q4_1_split import block_sums

RANK_STEP = 64
"""`GGML_F32_STEP` with AVX-512, a multiple of the step on every other machine."""

Array = NDArray[np.float32]


def write_rollout_adapter(model: CausalLM, missing: Mapping[str, Array], path: Path) -> None:
    """Write a model's adapter together with the missing part of its base's file.

    Args:
        model: Model with adapters; without any, some matrices must have a missing part.
        missing: Missing part C [O, K] by the stored name of the weight.
        path: Path of the file to write.

    Raises:
        UserError: llama.cpp does not support an adapter on a layer.
    """
    from gguf.gguf_writer import GGUFWriter

    trained = dict(_trained(model))
    with closing(GGUFWriter(path, family_of(model.config.model_type).arch)) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 0.0)  # disables the scaling of the factors
        for name in sorted(trained.keys() | missing.keys()):
            a_RI, b_OR = _filled_up(missing.get(name), trained.get(name))
            writer.add_tensor(f"{name}.lora_a", a_RI)
            writer.add_tensor(f"{name}.lora_b", b_OR)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _trained(model: CausalLM) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Yield A [r, I] and s B [O, r], in the stored row order, by the stored name of the weight."""
    rules = {rule.name: rule for rule in family_of(model.config.model_type).rules(model.config)}
    for layer_name, layer in lora_layers(model):
        rule = rules.get(f"{layer_name}.weight")
        if rule is None or len(rule.stored) != 1:
            raise UserError(
                f"llama.cpp has no separate weight for {layer_name}: leave it out of lora.targets, or sample "
                f"with the model itself"
            )
        a, b = (factor.detach().float().cpu().numpy() for factor in (layer.lora_A, layer.lora_B))
        yield rule.stored[0], (a, rule.split(b * np.float32(layer.scale))[0])


def _filled_up(missing_OK: Array | None, factors: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Return A [R, I] and B [O, R]: the missing part, the trained part, zero padding."""
    parts = [] if missing_OK is None else [(block_sums(missing_OK.shape[1]), missing_OK)]
    parts += [] if factors is None else [factors]
    n_ranks = sum(len(a) for a, _ in parts)
    size = -(-n_ranks // RANK_STEP) * RANK_STEP
    a_RI = np.zeros((size, parts[0][0].shape[1]), dtype=np.float32)
    b_OR = np.zeros((len(parts[0][1]), size), dtype=np.float32)
    start = 0
    for a, b in parts:
        a_RI[start : start + len(a)], b_OR[:, start : start + len(a)] = a, b
        start += len(a)
    return a_RI, b_OR
