"""The adapter of the moment as llama.cpp multiplies it fastest, for a file that lives for one reading.

`sft.gguf_adapter` writes what is served: small, in 16 bits. Here every reply that is sampled waits for the
product: ggml multiplies F32 rows of 64 numbers at a time and the rest of a row one by one (F16: all of a row of 16
one by one), so ranks are filled up with zeros to a multiple of that, and factors stay exact. Where the base was
split (`q4_1_split`), what it lacks stands in the first ranks.

Letters: O outputs, I inputs, r rank, K blocks of a row, R rank in the file.
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
"""`GGML_F32_STEP` with AVX-512, a multiple of every other machine's."""

Array = NDArray[np.float32]


def write_rollout_adapter(model: CausalLM, missing: Mapping[str, Array], path: Path) -> None:
    """Write a model's adapter, and what its base's file lacks.

    Args:
        model: With adapters, or without where something is missing.
        missing: By the stored name of a weight, C [O, K].
        path: The file.

    Raises:
        UserError: llama.cpp cannot put an adapter on such a layer.
    """
    from gguf.gguf_writer import GGUFWriter

    trained = dict(_trained(model))
    with closing(GGUFWriter(path, family_of(model.config.model_type).arch)) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 0.0)  # factors are multiplied by nothing
        for name in sorted(trained.keys() | missing.keys()):
            a_RI, b_OR = _filled_up(missing.get(name), trained.get(name))
            writer.add_tensor(f"{name}.lora_a", a_RI)
            writer.add_tensor(f"{name}.lora_b", b_OR)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _trained(model: CausalLM) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Yield A [r, I] and s B [O, r], its rows as they are stored, by the stored name of the weight."""
    rules = {rule.name: rule for rule in family_of(model.config.model_type).rules(model.config)}
    for layer_name, layer in lora_layers(model):
        rule = rules.get(f"{layer_name}.weight")
        if rule is None or len(rule.stored) != 1:
            raise UserError(
                f"llama.cpp has no weight of its own for {layer_name}: leave it out of lora.targets, or sample "
                f"with the model itself"
            )
        a, b = (factor.detach().float().cpu().numpy() for factor in (layer.lora_A, layer.lora_B))
        yield rule.stored[0], (a, rule.split(b * np.float32(layer.scale))[0])


def _filled_up(missing_OK: Array | None, factors: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Return A [R, I] and B [O, R]: what is missing, what is trained, zeros."""
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
