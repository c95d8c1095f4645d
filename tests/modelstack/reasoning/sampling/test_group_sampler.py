"""Replies of groups: as if each had been written alone, with the log-probabilities that training computes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.reasoning.sampling import continuing
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler, sample_groups
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item
from tests.modelstack.architecture.gguf_models import toy_config, toy_model

PROMPT = [5, 9, 3, 7]


@pytest.fixture(scope="module")
def model() -> CausalLM:
    made = toy_model(toy_config("llama", max_position_embeddings=64))
    with torch.no_grad():
        made.lm_head.weight.mul_(10)
    return made


def sample_group(model: CausalLM, prompt: list[int], n_replies: int, *, seed: int, **limits: Any) -> list[Sampled]:
    (group,) = sample_groups(TorchPolicy(model), [prompt], n_replies, seeds=[seed], **limits)
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


ENDS = frozenset({2, 3})
TASK = PolicyTask(Item("1", None), ())


def asked(*prompts: tuple[int, ...]) -> list[Asked]:
    return [Asked(TASK, prompt, seed) for seed, prompt in enumerate(prompts, 11)]


@pytest.fixture(scope="module")
def plain() -> CausalLM:
    return toy_model(toy_config("llama"))


def test_greedy_replies_are_those_of_one_prompt_at_a_time(plain: CausalLM) -> None:
    prompts = [(5, 6, 7), (8, 9), (7, 6, 5), (9,)]
    found = GroupSampler(TorchPolicy(plain), ENDS, 8, 0.0).sample(asked(*prompts), 1)
    for prompt, (reply,) in zip(prompts, found, strict=True):
        limits = {"max_tokens": 8, "temperature": 0.0, "end_ids": ENDS}
        ((alone,),) = sample_groups(TorchPolicy(plain), [prompt], 1, seeds=[0], **limits)
        assert (reply.ids, reply.is_truncated) == (alone.ids, alone.is_truncated)
        assert reply.log_probs == pytest.approx(alone.log_probs, abs=1e-4)


def test_a_prompts_replies_do_not_depend_on_the_others(plain: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = asked((5, 6, 7), (8, 9, 4), (7, 6))
    sampler = GroupSampler(TorchPolicy(plain), ENDS, 6)
    together = sampler.sample(prompts, 3)
    alone = [sampler.sample([each], 3)[0] for each in prompts]
    monkeypatch.setattr(continuing, "MAX_ROWS", 2)
    small = sampler.sample(prompts, 3)
    for ours in (alone, small):
        assert [[reply.ids for reply in replies] for replies in ours] == [
            [reply.ids for reply in replies] for replies in together
        ]
    assert len({reply.ids for replies in together for reply in replies}) > 3


def test_tokens_are_drawn_as_often_as_they_are_probable(plain: CausalLM) -> None:
    sampler = GroupSampler(TorchPolicy(plain), ENDS, 1, temperature=0.7)
    (replies,) = sampler.sample(asked((5, 6, 7)), 4000)
    with torch.no_grad():
        logits = plain(torch.tensor([[5, 6, 7]])).logits_BTV[0, -1] / 0.7
    expected = torch.softmax(logits, -1)
    counts = Counter(reply.ids[0] for reply in replies)
    found = torch.tensor([counts[token] for token in range(len(expected))])
    squares = ((found - 4000 * expected) ** 2 / (4000 * expected)).sum()
    n = len(expected) - 1  # of a chi-square distribution: its mean; its variance is twice that
    assert abs(float(squares) - n) < 5 * (2 * n) ** 0.5
    first = replies[0]
    assert first.log_probs[0] == pytest.approx(float(torch.log_softmax(logits, -1)[first.ids[0]]), abs=1e-4)


def test_the_models_mode_and_torchs_random_numbers_stay(plain: CausalLM) -> None:
    plain.train()
    before = torch.random.get_rng_state()
    GroupSampler(TorchPolicy(plain), ENDS, 3).sample(asked((5,)), 2)
    assert plain.training and bool((torch.random.get_rng_state() == before).all())
    plain.eval()


def test_what_cannot_be_is_refused(plain: CausalLM) -> None:
    room = plain.config.max_position_embeddings
    with pytest.raises(UserError, match=f"a prompt of 2 tokens and {room} more exceed the context of {room}"):
        GroupSampler(TorchPolicy(plain), ENDS, room).sample(asked((1, 2)), 1)
    with pytest.raises(UserError, match="temperature is -1"):
        GroupSampler(TorchPolicy(plain), ENDS, 3, -1.0).sample(asked((1, 2)), 1)
    assert GroupSampler(TorchPolicy(plain), ENDS, 3).sample([], 1) == []
