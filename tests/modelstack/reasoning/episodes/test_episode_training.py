"""Learning from episodes: the sampler and the training pass agree, tools' tokens teach nothing, rewards rise."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.errors import UserError
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.reasoning.episodes.episode import EffectWorlds, EpisodePlan
from modelstack.reasoning.episodes.sampler import EpisodeSampler
from modelstack.reasoning.losses.algorithms import ALGORITHMS
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.passes import PolicyPasses
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
from modelstack.reasoning.policy.rollout_loader import RolloutLoader, SamplingPlan
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.sampled import Asked, Sampled, Sampler
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.deeds import Episode
from modelstack.reasoning.verifiers.outcome_probes import OUTCOME_PROBES
from modelstack.reasoning.verifiers.outcomes import OutcomeVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from tests.modelstack.reasoning.policy.toy_policy import House, house_task, inclined, toy_encoder, toy_policy

TEMPERATURE = 5.0
PLAN = EpisodePlan(max_turns=2, turn_tokens=125, result_tokens=48, max_tokens=330)
TASK = house_task(("lamp", {"room": "hall", "on": True}))
OPENS_CALL = toy_encoder().vocabulary.encode("[")[0]
ENDS = toy_encoder().assistant_suffix_ids[0]


def caller() -> CausalLM:
    """Return a toy that calls a tool now and then, and does not talk for long."""
    return inclined(toy_policy(), TASK.prompt_ids(toy_encoder()), {OPENS_CALL: 22, ENDS: 45})


def sampler_of(model: CausalLM, *, with_grammar: bool = True, temperature: float = TEMPERATURE) -> EpisodeSampler:
    policy = TorchPolicy(model)
    return EpisodeSampler(policy, toy_encoder(), EffectWorlds(), PLAN, temperature, with_grammar=with_grammar)


def asked(task: PolicyTask = TASK, seed: int = 3) -> Asked:
    return Asked(task, tuple(task.prompt_ids(toy_encoder())), seed)


@cache
def group(with_grammar: bool = True) -> tuple[Sampled, ...]:
    return tuple(sampler_of(caller(), with_grammar=with_grammar).sample([asked()], 16)[0])


class Busy:
    """Pays for calls that ran, and more for a lamp that is on at the end: what a toy finds out in a few steps."""

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        assert isinstance(completion.outcome, Episode)
        is_lit = any(json.loads(completion.outcome.end).values())
        return Reward(0.5 * bool(completion.outcome.calls) + 0.5 * is_lit)


def loader_of(sampler: Sampler, n_replies: int = 12) -> RolloutLoader:
    reward = GuardedReward(Busy(), probes=[("outcome", OutcomeVerifier(), probe) for probe in OUTCOME_PROBES])
    plan = SamplingPlan(group=n_replies, max_tokens=PLAN.max_tokens, temperature=TEMPERATURE)
    return RolloutLoader(sampler, [TASK], toy_encoder(), reward, ALGORITHMS["dapo"], plan, seed=1)


def passes_of(model: CausalLM) -> PolicyPasses:
    config = ALGORITHMS["dapo"].model_copy(update={"max_completion_tokens": PLAN.max_tokens})
    return PolicyPasses(PolicyLogProbs(model, TEMPERATURE, None), config)


def backward(model: CausalLM, batch: RolloutBatch) -> dict[str, float]:
    model.zero_grad()
    passes = passes_of(model)
    passes.backward([batch], float((batch.labels_BT != IGNORED).sum()))
    return passes.metrics


@pytest.mark.parametrize("with_grammar", [True, False])
def test_the_sampler_and_the_training_pass_agree_on_every_chosen_token(with_grammar: bool) -> None:
    model = caller()
    loader = loader_of(_Given(group(with_grammar)), len(group(with_grammar)))
    found = backward(model, next(loader))
    assert found["sampler_gap/max"] < 1e-5
    if with_grammar:
        assert {each.outcome.n_turns for each in group()} >= {1, 2}


def test_rows_of_different_lengths_are_as_if_each_had_been_alone() -> None:
    encoder = toy_encoder()
    model = caller()
    assert len({len(each.ids) for each in group()}) > 3
    for each in group():
        prompt = asked().prompt_ids
        with torch.no_grad():
            logits_TV = model(torch.tensor([[*prompt, *each.ids]])).logits_BTV[0, len(prompt) - 1 : -1].float()
        assert each.is_chosen is not None and each.legal is not None
        for place, (token, is_chosen, legal) in enumerate(zip(each.ids, each.is_chosen, each.legal, strict=True)):
            if is_chosen and legal is not None:
                values = logits_TV[place, torch.from_numpy(legal.to_ids())] / TEMPERATURE
                wanted = float(logits_TV[place, token] / TEMPERATURE - values.logsumexp(-1))
                assert each.log_probs[place] == pytest.approx(wanted, abs=1e-5)
        assert len(encoder.vocabulary) > max(each.ids)


def test_each_episode_has_a_world_of_its_own() -> None:
    ends = {(each.outcome.end, len(each.outcome.calls)) for each in group()}
    assert len(ends) > 2
    for each in group():
        lamps = House()
        for call in each.outcome.calls:
            lamps.call(call.name, json.loads(call.arguments))
        assert json.loads(each.outcome.end) == lamps.state()


class _Given:
    """Gives the same episodes each time."""

    def __init__(self, replies: Sequence[Sampled]) -> None:
        self.replies = list(replies)

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        return [self.replies[:n_replies] for _ in asked]


def test_tokens_of_tools_and_templates_get_no_gradient() -> None:
    """Whatever is said of them: a poisoned label, log-probability or set changes nothing."""
    model = caller()
    nonsense = LegalTokens.from_ids(np.array([0, 1]))

    def poisoned(each: Sampled) -> Sampled:
        assert each.is_chosen is not None and each.legal is not None
        log_probs = [p if yes else -77.0 for p, yes in zip(each.log_probs, each.is_chosen, strict=True)]
        legal = [s if yes else nonsense for s, yes in zip(each.legal, each.is_chosen, strict=True)]
        return replace(each, log_probs=tuple(log_probs), legal=tuple(legal))

    def learning_all(each: Sampled) -> Sampled:
        return replace(each, is_chosen=None)

    def gradients(change: Any) -> list[torch.Tensor]:
        batch = next(loader_of(_Given([change(each) for each in group()]), len(group())))
        backward(model, batch)
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    honest = gradients(lambda each: each)
    assert all(torch.equal(a, b) for a, b in zip(honest, gradients(poisoned), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(honest, gradients(learning_all), strict=True))


def test_labels_are_the_policys_tokens_and_no_others() -> None:
    batch = next(loader_of(_Given(group()), len(group())))
    n_prompt = len(asked().prompt_ids)
    for labels_T, each in zip(batch.labels_BT, group(), strict=True):
        assert each.is_chosen is not None
        behind = labels_T[n_prompt - 1 : n_prompt - 1 + len(each.ids)]
        assert (behind != IGNORED).tolist() == list(each.is_chosen)
    text = toy_encoder().vocabulary.decode(batch.labels_BT[batch.labels_BT != IGNORED].tolist())
    assert "done" not in text and "<|im_start|>" not in text


def trained(n_steps: int, stop_at: int | None = None) -> tuple[CausalLM, list[float]]:
    """Train; where asked to, throw everything but a saved state away in between."""
    model = caller()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    loader = loader_of(sampler_of(model))
    rewards: list[float] = []
    for step in range(n_steps):
        if step == stop_at:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), loader.state_dict()))
            model = caller()
            optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
            loader = loader_of(sampler_of(model))
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            loader.load_state_dict(json.loads(json.dumps(saved[2])))
        batch = next(loader)
        rewards.append(backward(model, batch)["reward"])
        optimizer.step()
    return model, rewards


def test_rewards_rise() -> None:
    rewards = trained(9)[1]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2, rewards


def test_a_run_that_goes_on_acts_the_same_again() -> None:
    (whole, rewards), (resumed, again) = trained(3), trained(3, stop_at=2)
    assert rewards == again
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_worlds_are_left_whatever_happens() -> None:
    opened: list[str] = []

    class Worlds(EffectWorlds):
        def open(self, task: PolicyTask) -> Any:
            if len(opened) == 2:
                raise UserError("no more worlds")
            return _Counted(opened)

    with pytest.raises(UserError, match="no more worlds"):
        EpisodeSampler(TorchPolicy(caller()), toy_encoder(), Worlds(), PLAN).sample([asked()], 3)
    assert opened == ["left", "left"]


class _Counted:
    def __init__(self, opened: list[str]) -> None:
        self._opened, self._place = opened, len(opened)
        opened.append("open")

    def __enter__(self) -> Any:
        return House()

    def __exit__(self, *error: object) -> None:
        self._opened[self._place] = "left"


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        (replace(TASK, tools=()), "has no tools"),
        (replace(TASK, item=Item("a", "42")), "has no world: its gold is str"),
    ],
    ids=["tools", "world"],
)
def test_tasks_that_no_episode_can_be_of_are_refused(task: PolicyTask, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        sampler_of(toy_policy()).sample([asked(task)], 2)
