"""Rows behind many prompts: the same replies in batches and in lockstep, whatever each row reads at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.torch.stream_batch import is_paged
from modelstack.reasoning.sampling import continuing
from modelstack.reasoning.sampling.continuing import TorchPolicy, continue_together
from modelstack.reasoning.sampling.group_sampler import sample_groups
from tests.modelstack.architecture.gguf_models import toy_config, toy_model

PROMPTS = [[5, 9, 3], [7, 8, 9, 10, 11, 12, 13, 14], [4]]
CONTEXT = 96


def model_of(family: str) -> CausalLM:
    made = toy_model(toy_config(family, max_position_embeddings=CONTEXT))
    with torch.no_grad():
        made.lm_head.weight.mul_(10)
    return made


def whole_pass(model: CausalLM, ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits_BTV[0, -1].float()


class Reader:
    """A row that draws greedily, and reads a block of given tokens after each draw."""

    def __init__(self, model: CausalLM, prompt: Sequence[int], block: Sequence[int], n_draws: int) -> None:
        self.model, self.ids, self.block, self.n_draws = model, list(prompt), list(block), n_draws

    def next_ids(self, logits_V: np.ndarray) -> Sequence[int]:
        expected = whole_pass(self.model, self.ids)
        torch.testing.assert_close(torch.from_numpy(logits_V), expected, atol=1e-3, rtol=1e-3)
        self.n_draws -= 1
        if self.n_draws == 0:
            return ()
        new = [int(logits_V.argmax()), *self.block]
        self.ids += new
        return new


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v3", "deepseek_v4"])
def test_rows_read_blocks_of_any_lengths_and_get_the_logits_of_whole_passes(family: str) -> None:
    model = model_of(family)
    assert is_paged(model.config) == (family != "deepseek_v4")
    rows = [
        [Reader(model, prompt, range(20, 20 + n), n_draws) for n, n_draws in ((0, 6), (5, 4), (1, 5))]
        for prompt in PROMPTS
    ]
    continue_together(TorchPolicy(model), PROMPTS, rows, 40)
    assert all(row.n_draws == 0 for of_prompt in rows for row in of_prompt)


@pytest.mark.parametrize("family", ["llama", "deepseek_v4"])
def test_rows_are_asked_in_order_and_keep_mode_and_random_state(family: str) -> None:
    model = model_of(family).train()
    before = torch.random.get_rng_state()
    asked = list[list[int]]()

    def choose(numbers: Sequence[int], logits_RV: np.ndarray) -> list[Sequence[int]]:
        assert len(numbers) == len(logits_RV) and not model.training
        asked.append(list(numbers))
        return [[3] if len(asked) < 4 else () for _ in numbers]

    TorchPolicy(model).continue_rows(PROMPTS, [2, 1, 2], choose, 10)
    assert all(numbers == sorted(numbers) for numbers in asked)
    for group in ({0, 1}, {2}, {3, 4}):
        assert next(group.issubset(numbers) for numbers in asked if group & set(numbers)), (
            "rows of a prompt begin with the same logits"
        )
    assert {number for numbers in asked for number in numbers} == set(range(5))
    assert model.training and bool((torch.random.get_rng_state() == before).all())


@pytest.mark.parametrize("limits", [{"MAX_ROWS": 2}, {"MAX_CACHE_BYTES": 1}, {"MAX_STEP_TOKENS": 256}])
def test_bounds_of_a_batch_do_not_change_the_replies(
    limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama")
    keys: dict[str, Any] = {"max_tokens": 9, "end_ids": frozenset(range(0, 288, 9)), "seeds": [1, 2, 3]}

    def ids() -> list[list[tuple[int, ...]]]:
        return [[reply.ids for reply in group] for group in sample_groups(TorchPolicy(model), PROMPTS, 4, **keys)]

    expected = ids()
    for name, value in limits.items():
        monkeypatch.setattr(continuing, name, value)
    assert ids() == expected


def test_what_does_not_fit_the_context_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UserError, match="a prompt of 8 tokens and 89 more exceed the context of 96"):
        continue_together(TorchPolicy(model_of("llama")), PROMPTS, [[], [], []], 89)
