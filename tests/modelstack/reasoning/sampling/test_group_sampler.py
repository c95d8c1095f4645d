"""Replies of a group: as if each had been written alone, with the log-probabilities that training computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.reasoning.sampling.group_sampler import sample_groups
from modelstack.reasoning.sampling.sampled import Sampled
from tests.modelstack.architecture.gguf_models import toy_config, toy_model

PROMPT = [5, 9, 3, 7]


@pytest.fixture(scope="module")
def model() -> CausalLM:
    made = toy_model(toy_config("llama", max_position_embeddings=64))
    with torch.no_grad():
        made.lm_head.weight.mul_(10)
    return made


def sample_group(model: CausalLM, prompt: list[int], n_replies: int, *, seed: int, **limits: Any) -> list[Sampled]:
    (group,) = sample_groups(model, [prompt], n_replies, seeds=[seed], **limits)
    return group


def log_probs(model: CausalLM, ids: list[int], temperature: float) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *ids]])).logits_BTV[0, len(PROMPT) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, -1)[range(len(ids)), ids].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_whole_sequence(model: CausalLM, temperature: float) -> None:
    group = sample_group(model, PROMPT, 4, max_tokens=12, temperature=temperature, end_ids=frozenset({1}), seed=3)
    assert len({each.ids for each in group}) > 1
    for each in group:
        assert each.log_probs == pytest.approx(log_probs(model, list(each.ids), temperature), abs=1e-4)
        assert each.is_truncated == (1 not in each.ids) and (
            each.is_truncated or each.ids.index(1) == len(each.ids) - 1
        )


def test_an_end_ends_its_reply_alone(model: CausalLM) -> None:
    ends = frozenset(range(0, model.config.vocab_size, 3))
    group = sample_group(model, PROMPT, 16, max_tokens=20, end_ids=ends, seed=1)
    lengths = {len(each.ids) for each in group if not each.is_truncated}
    assert len(lengths) > 1
    for each in group:
        assert not any(token in ends for token in each.ids[:-1])
        assert each.log_probs == pytest.approx(log_probs(model, list(each.ids), 1.0), abs=1e-4)


def test_the_same_seed_gives_the_same_replies_and_touches_no_random_numbers(model: CausalLM) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (
        sample_group(model, PROMPT, 3, max_tokens=8, end_ids=frozenset(), seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_follow_the_distribution(model: CausalLM) -> None:
    group = sample_group(model, PROMPT, 4000, max_tokens=1, end_ids=frozenset(), seed=5)
    counts = torch.bincount(torch.tensor([each.ids[0] for each in group]), minlength=model.config.vocab_size)
    with torch.no_grad():
        p = model(torch.tensor([PROMPT])).logits_BTV[0, -1].float().softmax(-1)
    expected = 4000 * p
    usual = expected > 5
    chi2 = ((counts[usual] - expected[usual]) ** 2 / expected[usual]).sum()
    n = int(usual.sum()) - 1
    assert chi2 < n + 4 * (2 * n) ** 0.5  # four standard deviations above the mean of chi squared


def test_greedy_is_the_most_probable_token(model: CausalLM) -> None:
    (one, other) = sample_group(model, PROMPT, 2, max_tokens=5, temperature=0.0, end_ids=frozenset(), seed=0)
    assert one.ids == other.ids
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *one.ids]])).logits_BTV[0, len(PROMPT) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(one.ids)


def test_what_does_not_fit_the_context_is_refused(model: CausalLM) -> None:
    with pytest.raises(UserError, match="exceed the context of 64"):
        sample_group(model, PROMPT, 2, max_tokens=61, end_ids=frozenset(), seed=0)
