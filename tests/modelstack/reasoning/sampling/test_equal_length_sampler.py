"""Replies to many prompts at once: those of one prompt at a time, whoever else is asked."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.reasoning.sampling.equal_length_sampler import EqualLengthSampler
from modelstack.reasoning.sampling.group_sampler import sample_groups
from modelstack.reasoning.sampling.sampled import Asked
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item
from tests.modelstack.architecture.gguf_models import toy_config, toy_model

ENDS = frozenset({2, 3})
TASK = PolicyTask(Item("1", None), ())


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return toy_model(toy_config("llama"))


def asked(*prompts: tuple[int, ...]) -> list[Asked]:
    return [Asked(TASK, prompt, seed) for seed, prompt in enumerate(prompts, 11)]


def test_greedy_replies_are_those_of_the_group_sampler(model: CausalLM) -> None:
    prompts = [(5, 6, 7), (8, 9), (7, 6, 5), (9,)]
    found = EqualLengthSampler(model, ENDS, 8, 0.0).sample(asked(*prompts), 1)
    for prompt, (reply,) in zip(prompts, found, strict=True):
        ((alone,),) = sample_groups(model, [prompt], 1, max_tokens=8, temperature=0.0, end_ids=ENDS, seeds=[0])
        assert (reply.ids, reply.is_truncated) == (alone.ids, alone.is_truncated)
        assert reply.log_probs == pytest.approx(alone.log_probs, abs=1e-4)


def test_a_prompts_replies_do_not_depend_on_the_others(model: CausalLM) -> None:
    prompts = asked((5, 6, 7), (8, 9, 4), (7, 6))
    sampler = EqualLengthSampler(model, ENDS, 6)
    together = sampler.sample(prompts, 3)
    alone = [sampler.sample([each], 3)[0] for each in prompts]
    small = EqualLengthSampler(model, ENDS, 6, max_rows=2).sample(prompts, 3)
    for ours in (alone, small):
        assert [[reply.ids for reply in replies] for replies in ours] == [
            [reply.ids for reply in replies] for replies in together
        ]
    assert len({reply.ids for replies in together for reply in replies}) > 3


def test_tokens_are_drawn_as_often_as_they_are_probable(model: CausalLM) -> None:
    sampler = EqualLengthSampler(model, ENDS, 1, temperature=0.7)
    (replies,) = sampler.sample(asked((5, 6, 7)), 4000)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]])).logits_BTV[0, -1] / 0.7
    expected = torch.softmax(logits, -1)
    counts = Counter(reply.ids[0] for reply in replies)
    found = torch.tensor([counts[token] for token in range(len(expected))])
    squares = ((found - 4000 * expected) ** 2 / (4000 * expected)).sum()
    n = len(expected) - 1  # of a chi-square distribution: its mean; its variance is twice that
    assert abs(float(squares) - n) < 5 * (2 * n) ** 0.5
    first = replies[0]
    assert first.log_probs[0] == pytest.approx(float(torch.log_softmax(logits, -1)[first.ids[0]]), abs=1e-4)


def test_the_models_mode_and_torchs_random_numbers_stay(model: CausalLM) -> None:
    model.train()
    before = torch.random.get_rng_state()
    EqualLengthSampler(model, ENDS, 3).sample(asked((5,)), 2)
    assert model.training and bool((torch.random.get_rng_state() == before).all())
    model.eval()


def test_what_cannot_be_is_refused(model: CausalLM) -> None:
    room = model.config.max_position_embeddings
    with pytest.raises(UserError, match=f"a prompt of 2 tokens and {room} more exceed the context of {room}"):
        EqualLengthSampler(model, ENDS, room).sample(asked((1, 2)), 1)
    with pytest.raises(UserError, match="temperature is -1"):
        EqualLengthSampler(model, ENDS, 3, -1.0).sample(asked((1, 2)), 1)
    assert EqualLengthSampler(model, ENDS, 3).sample([], 1) == []
