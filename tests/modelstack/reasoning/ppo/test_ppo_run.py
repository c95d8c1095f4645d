"""`modelstack ppo`: rewards rise, and what is learnt from is what was sampled."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rich.console import Console

from modelstack.architecture.losses import IGNORED
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.stages.stage import Stage
from modelstack.preferences.reward.recipe import RewardRecipe
from modelstack.preferences.reward.run import train_reward_model
from modelstack.preferences.reward.value_model import ValueModel, draw_head
from modelstack.reasoning.ppo import run as running
from modelstack.reasoning.ppo.actor_critic import ActorCritic
from modelstack.reasoning.ppo.experience import experience_of, policy_log_probs
from modelstack.reasoning.ppo.loader import PpoLoader
from modelstack.reasoning.ppo.passes import PpoPasses
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.reasoning.ppo.run import optimise
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from modelstack.recipe_file import checked_recipe
from modelstack.train.metrics import read_metrics
from tests.modelstack.posttrain.toy_trainings import write_lines
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [pytest.mark.xdist_group("ppo_run"), pytest.mark.usefixtures("pictures_drawn_once")]


class World(NamedTuple):
    base: Path
    folder: Path
    reward: Path


def common(base: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(base),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "lora": {"rank": 4, "alpha": 8},
        "optimizer": {"lr": 1e-2},
        **changes,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A toy policy, prompts, and a reward model that likes the letter a better than the letter z."""
    folder = tmp_path_factory.mktemp("ppo")
    base = write_base(folder / "base")
    pairs = [
        {"prompt": f"ask {i}", "chosen": "aa" + "a" * (i % 3), "rejected": "zz" + "z" * (i % 2)} for i in range(12)
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    write_lines(folder / "train.jsonl", [{"id": str(i), "prompt": f"say {i}", "gold": None} for i in range(6)])
    write_lines(
        folder / "validation.jsonl", [{"id": str(i), "prompt": f"say {i}", "gold": None} for i in range(50, 53)]
    )
    data = {"training": [str(folder / "pairs.jsonl")], "row_tokens": 128}
    recipe = common(base, name="judge", steps=6, rows=6, micro_batches=1, data=data)
    stage = train_reward_model(checked_recipe(RewardRecipe, recipe), folder / "reward", Console(quiet=True))
    assert stage is not None
    return World(base, folder, stage.path)


def values(world: World, **changes: Any) -> dict[str, Any]:
    return common(
        world.base,
        **{
            "name": "toy",
            "steps": 8,
            "rows": 8,
            "micro_batches": 2,
            "passes": 2,
            "data": {
                "training": [str(world.folder / "train.jsonl")],
                "validation": [str(world.folder / "validation.jsonl")],
            },
            "reward": str(world.reward),
            "sampling": {"prompts": 4, "group": 4, "max_tokens": 5},
            "critic": {"lr": 1e-2},
            "checkpoints": {"every": 3, "keep": 2},
            **changes,
        },
    )


def run(world: World, folder: Path, **changes: Any) -> Stage:
    stage = optimise(checked_recipe(PpoRecipe, values(world, **changes)), folder, Console(quiet=True))
    assert stage is not None
    return stage


def told(folder: Path, name: str) -> list[float]:
    steps = [json.loads(line) for line in (folder / "rewards.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    return [step[name] for step in steps]


class Small:
    """Pays for tokens whose numbers divide by three: something that a toy can learn in a few steps."""

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        ids = completion.token_ids
        return Reward(sum(token % 3 == 0 for token in ids) / len(ids))


class _Nothing:
    item = Item("nothing", "")
    why = "there is nothing to hack"

    def completion(self) -> Completion:
        return Completion("", (500,))


def test_the_reward_models_rewards_rise(world: World, tmp_path: Path) -> None:
    sampling = {"prompts": 4, "group": 8, "max_tokens": 5}
    changes = {"steps": 32, "rows": 16, "sampling": sampling, "optimizer": {"lr": 3e-3}}
    stage = run(world, tmp_path / "run", kl={"coefficient": 0.01}, **changes)
    found = told(tmp_path / "run", "reward")
    assert found[-1] > found[0] + 0.6
    (before,), (after,) = stage.record.evaluation.before, stage.record.evaluation.after
    assert after.value > before.value
    assert stage.record.kind == "reasoning" and "PPO (reward model judge)" in stage.record.what
    assert [parent.name for parent in stage.record.parents] == ["toy.gguf", "judge"]
    assert {"adapter.gguf", "rewards.png", "replies-after.jsonl"} <= set(stage.record.files)
    # The first batch is the reference's own, and its first minibatch the sampler's.
    assert told(tmp_path / "run", "kl")[:4] == [0.0] * 4 and told(tmp_path / "run", "kl")[-1] > 0
    assert told(tmp_path / "run", "approx_kl")[0] == pytest.approx(0, abs=1e-6)
    assert max(told(tmp_path / "run", "approx_kl")) > 1e-4
    first, *_, last = read_metrics(tmp_path / "run/metrics.jsonl").steps
    assert set(first.losses) == {"policy", "critic", "total"} and last.step == 31


def test_the_critic_comes_to_know_the_rewards(world: World, tmp_path: Path) -> None:
    run(
        world,
        tmp_path / "run",
        steps=24,
        optimizer={"lr": 1e-9},
        critic={"lr": 1e-2, "start": "policy", "clip": 9.0},
    )
    errors = told(tmp_path / "run", "critic/error")
    assert sum(errors[-4:]) < 0.5 * sum(errors[:4])


def test_a_verifier_judges_in_place_of_a_reward_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe: Any = ("small", Small(), _Nothing())
    monkeypatch.setattr(running, "GuardedReward", lambda *_, **__: GuardedReward(Small(), probes=[probe]))
    tasks = [{"id": str(i), "prompt": f"say {i}", "gold": str(i)} for i in range(6)]
    write_lines(tmp_path / "tasks.jsonl", tasks)
    data = {"training": [str(tmp_path / "tasks.jsonl")], "verifier": "math"}
    changes = {"reward": None, "data": data, "steps": 24, "optimizer": {"lr": 3e-3}, "kl": {"coefficient": 0.0}}
    stage = run(world, tmp_path / "run", **changes)
    found = told(tmp_path / "run", "reward")
    assert found[-1] > found[0] + 0.15
    assert "PPO (math)" in stage.record.what and not stage.record.evaluation.after


CONTROLLED: dict[str, Any] = {"kl": {"coefficient": 0.1, "control": {"target": 0.5}}}


def last_state(folder: Path) -> bytes:
    """Return the tensors of the last checkpoint: critic, moments and the replies in use among them."""
    (file,) = (folder / "checkpoints").glob("*8/tensors.safetensors")
    return file.read_bytes()


def test_all_weights_in_bf16_go_on_within_a_batch_to_the_same_bits(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = CONTROLLED | {"train": "full", "lora": None, "optimizer": {"lr": 1e-3}, "precision": "bf16"}
    whole = run(world, tmp_path / "whole", **changes)
    n_before = iter(range(100))

    class Cut(PpoPasses):
        def settle(self, taken: bool) -> None:
            if next(n_before) == 6:
                raise InterruptedError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(running, "PpoPasses", Cut)
        with pytest.raises(InterruptedError):
            run(world, tmp_path / "run", **changes)
    again = run(world, tmp_path / "run", **changes)
    name = "model/model.safetensors"
    assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert last_state(again.path) == last_state(whole.path)
    assert len(set(told(whole.path, "kl/coefficient"))) == 2


class Parts(NamedTuple):
    base: Base
    model: ActorCritic
    reference: Reference
    recipe: PpoRecipe
    tasks: list[PolicyTask]
    sampler: GroupSampler


@pytest.fixture
def parts(world: World) -> Parts:
    recipe = checked_recipe(PpoRecipe, values(world, train="full", lora=None))
    base = load_base(world.base)
    critic = ValueModel(load_base(world.base).model)
    draw_head(critic, 1)
    model = ActorCritic(base.model, critic)
    sampler = GroupSampler(TorchPolicy(base.model), frozenset(base.encoder.end_ids), 5, 1.0)
    tasks = list(read_tasks(world.folder / "train.jsonl"))
    return Parts(base, model, Reference(base.model), recipe, tasks, sampler)


def replies_of(parts: Parts, n: int = 16) -> list[tuple[Asked, Sampled]]:
    asked = [Asked(task, tuple(task.prompt_ids(parts.base.encoder)), i) for i, task in enumerate(parts.tasks[:4])]
    sampled = parts.sampler.sample(asked, n // 4)
    return [(one, each) for one, group in zip(asked, sampled, strict=True) for each in group]


def test_experience_is_what_was_sampled(parts: Parts) -> None:
    replies = replies_of(parts)
    rewards = [Reward(float(n)) for n in range(16)]
    with torch.no_grad():  # so that the reference is another one
        parts.model.policy.lm_head.weight.mul_(1.01)
    found = experience_of(replies, rewards, parts.model, parts.reference, parts.recipe, 0.1)
    white: list[float] = []
    for n, (asked, sampled) in enumerate(replies):
        at = found.labels_NT[n] != IGNORED
        assert tuple(found.labels_NT[n][at].tolist()) == sampled.ids
        ids = torch.tensor([[*asked.prompt_ids, *sampled.ids]])
        first = len(asked.prompt_ids) - 1
        with torch.no_grad():
            own = policy_log_probs(parts.model.policy, ids[:, :-1], ids[:, 1:], 1.0).log_probs_BT[0, first:]
            with parts.reference.in_place():
                ref = policy_log_probs(parts.model.policy, ids[:, :-1], ids[:, 1:], 1.0).log_probs_BT[0, first:]
            said = parts.model.critic(ids[:, :-1])[0, first:]
        assert torch.allclose(found.old_log_probs_NT[n][at], own, atol=1e-4)
        assert torch.allclose(found.values_NT[n][at], said, atol=1e-4)
        # Advantages by their definition, a sum over the deltas that follow.
        paid = -0.1 * (own - ref)
        paid[-1] += n
        delta = paid + torch.cat((said[1:], torch.zeros(1))) - said
        T = len(delta)
        advantages = torch.stack([sum(0.95 ** (s - t) * delta[s] for s in range(t, T)) for t in range(T)])  # pyright: ignore
        assert torch.allclose(found.returns_NT[n][at], advantages + said, atol=1e-3)
        white += found.advantages_NT[n][at].tolist()
    mask = found.labels_NT != IGNORED
    assert not found.advantages_NT[~mask].any()
    assert sum(white) / len(white) == pytest.approx(0, abs=1e-4)
    assert torch.tensor(white).std().item() == pytest.approx(1, abs=1e-3)
    assert found.figures["reward"] == pytest.approx(7.5) and found.figures["kl"] != 0


def test_replies_that_cannot_be_judged_have_no_labels_and_cut_ones_pay(parts: Parts) -> None:
    replies = replies_of(parts)
    recipe = parts.recipe.model_copy(
        update={"sampling": parts.recipe.sampling.model_copy(update={"truncation_penalty": 2.0})}
    )
    rewards = [Reward(None if n == 3 else 1.0) for n in range(16)]
    found = experience_of(replies, rewards, parts.model, parts.reference, recipe, 0.1)
    assert not (found.labels_NT[3] != IGNORED).any() and (found.labels_NT[2] != IGNORED).any()
    n_cut = sum(sampled.is_truncated for n, (_, sampled) in enumerate(replies) if n != 3)
    assert n_cut > 0 and found.figures["reward"] == pytest.approx(1 - 2 * n_cut / 15)
    assert found.figures["completions/unscorable"] == pytest.approx(1 / 16)
    with pytest.raises(UserError, match="no reply of a batch can be judged"):
        experience_of(replies, [Reward(None)] * 16, parts.model, parts.reference, recipe, 0.1)


def test_tokens_that_tools_wrote_are_not_learnt(parts: Parts) -> None:
    ((asked, sampled), *others) = replies_of(parts)
    chosen = Sampled(
        sampled.ids, sampled.log_probs, False, is_chosen=(True, False) + (True,) * (len(sampled.ids) - 2)
    )
    found = experience_of(
        [(asked, chosen), *others], [Reward(1.0)] * 16, parts.model, parts.reference, parts.recipe, 0.1
    )
    at = len(asked.prompt_ids) - 1
    assert found.labels_NT[0, at] == sampled.ids[0] and found.labels_NT[0, at + 1] == IGNORED


class _Judge:
    """Pays the length."""

    def rewards(self, replies: Sequence[tuple[Asked, Sampled]]) -> list[Reward]:
        return [Reward(float(len(sampled.ids))) for _, sampled in replies]


def loader_of(parts: Parts) -> PpoLoader:
    arguments = (
        parts.sampler,
        parts.tasks,
        parts.base.encoder,
        _Judge(),
        parts.model,
        parts.reference,
        parts.recipe,
    )
    return PpoLoader(*arguments)


def test_each_pass_gives_every_reply_once_in_an_order_of_its_own(parts: Parts) -> None:
    loader = loader_of(parts)
    batches = [next(loader) for _ in range(8)]  # two passes over 16 replies, 4 rows each
    given = [
        [value for batch in half for value in batch.returns_BT.sum(-1).tolist()]
        for half in (batches[:4], batches[4:])
    ]
    assert sorted(given[0]) == pytest.approx(sorted(given[1])) and given[0] != given[1]
    assert [batch.position for batch in batches] == list(range(0, 32, 4))
    after = next(loader)
    assert after.figures is not batches[0].figures


def test_a_loader_goes_on_within_a_batch_with_the_replies_of_weights_that_are_gone(parts: Parts) -> None:
    loader = loader_of(parts)
    for _ in range(3):
        next(loader)
    state = loader.state_dict()
    expected = [next(loader) for _ in range(5)]
    with torch.no_grad():
        parts.model.policy.lm_head.weight.add_(0.1)
    other = loader_of(parts)
    other.load_state_dict(state)
    for one, again in zip(expected, (next(other) for _ in range(5)), strict=True):
        assert torch.equal(one.ids_BT, again.ids_BT) and torch.equal(one.advantages_BT, again.advantages_BT)


def test_the_first_gradient_is_the_plain_policy_gradient_and_the_critics_error(parts: Parts) -> None:
    batches = [next(loader) for loader in [loader_of(parts)] for _ in range(2)]
    passes = PpoPasses(parts.model, parts.recipe.policy_config, parts.recipe.critic, 1.0)
    n = sum(int((batch.labels_BT != IGNORED).sum()) for batch in batches)
    passes.backward(batches, n)
    found = {name: p.grad.clone() for name, p in parts.model.named_parameters() if p.grad is not None}
    parts.model.zero_grad()
    loss = torch.zeros(())
    for batch in batches:
        mask = batch.labels_BT != IGNORED
        l_BT = policy_log_probs(parts.model.policy, batch.ids_BT, batch.labels_BT, 1.0).log_probs_BT
        error_BT = (parts.model.critic(batch.ids_BT) - batch.returns_BT).square() * mask
        loss = loss - (batch.advantages_BT * l_BT).sum() / n + 0.05 * error_BT.sum() / n
    loss.backward()
    for name, parameter in parts.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-5), name


def test_a_large_error_of_the_critic_leaves_the_policys_gradient_alone(parts: Parts) -> None:
    passes = PpoPasses(parts.model, parts.recipe.policy_config, parts.recipe.critic, 1.0)
    for parameter, value in ((parts.model.policy.lm_head.weight, 1e-3), (parts.model.critic.score.weight, 1e3)):
        parameter.grad = torch.full_like(parameter, value)
    before = parts.model.policy.lm_head.weight.grad.clone()  # pyright: ignore
    norm = passes.clip(1.0)
    assert torch.equal(parts.model.policy.lm_head.weight.grad, before)  # pyright: ignore
    assert norm == pytest.approx(1e3 * math.sqrt(parts.model.critic.score.in_features), rel=1e-3)
    assert parts.model.critic.score.weight.grad.norm().item() == pytest.approx(1.0, rel=1e-4)  # pyright: ignore


def test_examples_are_imitated_beside_the_rewards_and_gone_on_with(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {"id": str(n), "source": "toy", "license": "CC0-1.0", "kind": "answer", "reply": "kept " * (1 + n % 3)}
        | {"messages": [{"role": "user", "content": f"say {n}"}]}
        for n in range(10)
    ]
    write_lines(tmp_path / "examples.jsonl", lines)
    mix = {"data": {"training": [str(tmp_path / "examples.jsonl")], "row_tokens": 64, "layout": "padded"}}
    changes = {"mix": mix | {"rows": 8, "coefficient": 2.0}, "steps": 8}
    whole = run(world, tmp_path / "whole", **changes)
    losses = [step.losses["mix"] for step in read_metrics(whole.path / "metrics.jsonl").steps]
    assert losses[0] is not None and losses[-1] is not None and losses[-1] < 0.8 * losses[0]
    assert [file.n_examples for file in whole.record.data.files] == [6, 3, 10]
    n_steps = iter(range(100))

    class Cut(PpoPasses):
        def settle(self, taken: bool) -> None:
            if next(n_steps) == 5:
                raise InterruptedError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(running, "PpoPasses", Cut)
        with pytest.raises(InterruptedError):
            run(world, tmp_path / "run", **changes)
    again = run(world, tmp_path / "run", **changes)
    assert last_state(again.path) == last_state(whole.path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reward": None}, "need exactly one judge"),
        ({"sampling": {"prompts": 3, "group": 3}}, "9 replies, not a multiple of rows = 8"),
        ({"policy": {"kl": {}}}, "the KL of PPO is in the reward"),
        ({"micro_batches": 3}, "not a multiple of micro_batches"),
    ],
    ids=["judge", "minibatches", "kl", "passes"],
)
def test_recipes_that_cannot_be_are_refused(world: World, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        checked_recipe(PpoRecipe, {k: v for k, v in values(world, **changes).items() if v is not None})


def test_a_critic_of_no_reward_model_is_refused(world: World) -> None:
    data = values(world)["data"] | {"verifier": "math"}
    recipe = values(world, data=data, critic={"start": "reward"})
    recipe.pop("reward")
    with pytest.raises(UserError, match="needs a reward model"):
        checked_recipe(PpoRecipe, recipe)


def test_dropout_a_stage_without_a_head_and_prompts_on_both_sides_are_refused(
    world: World, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="dropout makes the ratio of two policies noise"):
        run(world, tmp_path / "dropout", lora={"rank": 4, "dropout": 0.1})
    policy = run(world, tmp_path / "policy", steps=1)
    with pytest.raises(UserError, match="is not a reward model: it has no value_head"):
        run(world, tmp_path / "a", reward=str(policy.path))
    data = values(world)["data"] | {"validation": [str(world.folder / "copy.jsonl")]}
    write_lines(world.folder / "copy.jsonl", [{"id": "9", "prompt": "say 3", "gold": None}])
    with pytest.raises(UserError, match="1 prompts are in training and in validation"):
        run(world, tmp_path / "b", data=data)
