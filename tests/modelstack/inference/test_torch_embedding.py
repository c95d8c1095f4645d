"""Embeddings of the torch engine for every kind of model that it runs, in any chunks, beside other requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.modelstack.inference.torch_engines import FAMILIES, OTHERS, engine_of, model_of, prompt_of, request

TEXTS = [prompt_of(number, length) for number, length in enumerate([3, 40, 1, 9, 7, 100])]


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_vectors_are_those_of_whole_passes(name: str) -> None:
    """Short texts share a row, long ones are read in chunks, while a reply is written."""
    expected = list[np.ndarray]()
    for ids in TEXTS:
        with torch.no_grad():
            mean = model_of(name)(torch.tensor([ids])).hidden_BTD[0].numpy().mean(axis=0)
        expected.append(mean / np.linalg.norm(mean))
    with engine_of(name, max_step_tokens=16, max_rows=4) as engine:
        alone = engine.generate(request(TEXTS[1])).ids
        running = engine.submit(request(TEXTS[1], conversation="other"))
        engine.step()
        n_cached = engine.status.n_cached_blocks
        assert engine.embed(TEXTS) == pytest.approx(np.stack(expected), abs=1e-5)
        assert engine.status.n_cached_blocks == n_cached
        while not running.is_done:
            engine.step()
            engine.check_integrity()
        assert running.result().ids == alone
