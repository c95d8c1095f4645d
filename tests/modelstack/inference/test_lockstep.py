"""Rows of one prompt after another in one cache; their logits are checked in `reasoning/sampling`."""

from __future__ import annotations

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.inference.torch.lockstep import LockstepBatch
from tests.modelstack.architecture.gguf_models import toy_config, toy_model


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return toy_model(toy_config("deepseek_v4")).eval()


def test_a_row_joins_while_nothing_but_the_prompt_was_read(model: CausalLM) -> None:
    batch = LockstepBatch(model)
    first = batch.submit([1, 2, 3], ())
    assert batch.step().streams == [first]
    batch.extend(first, [4])
    second = batch.submit([1, 2, 3], [5, 6])
    assert len(batch) == 2
    assert batch.step().streams == [first]  # the second has one token more to read
    with pytest.raises(ValueError, match="begins with the others of its prompt"):
        batch.submit([1, 2, 3], [7])
    batch.remove(first)
    assert batch.step().streams == [second]


def test_another_prompt_begins_when_all_rows_have_ended(model: CausalLM) -> None:
    batch = LockstepBatch(model)
    first = batch.submit([1, 2, 3], ())
    with pytest.raises(ValueError, match="or after their end"):
        batch.submit([1, 2], ())
    batch.step()
    batch.remove(first)
    assert not len(batch)
    second = batch.submit([4], [5])
    ready = batch.step()
    with torch.no_grad():
        expected = model(torch.tensor([[4, 5]])).logits_BTV[0, -1].float()
    assert ready.streams == [second]
    torch.testing.assert_close(torch.from_numpy(ready.logits_RV[0]), expected)
