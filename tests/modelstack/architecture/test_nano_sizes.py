"""Our own sizes are what their names say, and their rows fit the blocks of llama.cpp's quantised types."""

import pytest
import torch

from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.nano import SIZES
from modelstack.architecture.presets.registry import published

NAMED = {"nano-2m": 1.7e6, "nano-9m": 9e6, "nano-34m": 34e6, "nano-110m": 110e6, "nano-moe-24m": 24e6}


def test_each_size_is_named_for_its_parameters() -> None:
    assert NAMED.keys() == SIZES.keys()
    for name, n_parameters in NAMED.items():
        assert count_parameters(published(name)).total == pytest.approx(n_parameters, rel=0.06), name


@pytest.mark.parametrize("name", SIZES)
def test_rows_are_whole_blocks_of_a_quantised_type(name: str) -> None:
    block = 32 if name == "nano-2m" else 256
    with torch.device("meta"):
        model = CausalLM(published(name))
    assert all(p.shape[-1] % block == 0 for p in model.parameters() if p.ndim > 1)
