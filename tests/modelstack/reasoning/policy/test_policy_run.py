"""`modelstack reinforce`: rewards rise, rollouts are used several times, hacks end a run."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelstack.errors import UserError
from modelstack.posttrain.stages.stage import Stage
from modelstack.reasoning.policy import run as running
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.run import reinforce
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from modelstack.recipe_file import checked_recipe
from tests.modelstack.posttrain.toy_trainings import World, tables, write_tasks
from tests.modelstack.sft.toy_sft import write_base
from tests.modelstack.train.run.toy_run import write_toml
from tests.processes import modelstack

pytestmark = pytest.mark.usefixtures("pictures_drawn_once")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("policy"))
    write_base(made.folder / "base")
    write_tasks(made.folder / "tasks" / "train.jsonl", 0, 6)
    write_tasks(made.folder / "tasks" / "validation.jsonl", 50, 4)
    return made


def values(world: World, **changes: Any) -> dict[str, Any]:
    ours = {"rows": 2, "sampling": {"group": 4, "max_tokens": 6}}
    return tables(world.files("tasks") | {"verifier": "math"}, base=str(world.base), **ours) | changes


def run(world: World, folder: Path, **changes: Any) -> Stage:
    stage = reinforce(checked_recipe(PolicyRecipe, values(world, **changes)), folder, Console(quiet=True))
    assert stage is not None
    return stage


class Small:
    """Pays for tokens whose numbers divide by three: something that a toy can learn in a few steps."""

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        ids = completion.token_ids
        return Reward(sum(token % 3 == 0 for token in ids) / len(ids))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of a test be rewarded by `Small`, which has no known hacks."""

    def guarded(verifier: Any, **options: Any) -> GuardedReward:
        probe_free = GuardedReward(Small(), probes=[("small", Small(), EMPTY)], on_alarm=lambda alarm: None)
        return probe_free

    monkeypatch.setattr(running, "GuardedReward", guarded)


class _Nothing:
    item = Item("nothing", "")
    why = "there is nothing to hack"

    def completion(self) -> Completion:
        return Completion("", (500,))


EMPTY: Any = _Nothing()


def rewards(folder: Path, name: str = "reward") -> list[float]:
    steps = [json.loads(line) for line in (folder / "rewards.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    return [step[name] for step in steps]


@pytest.mark.parametrize("algorithm", ["dapo", "grpo", "gspo", "rloo"])
def test_rewards_rise(world: World, tmp_path: Path, small: None, algorithm: str) -> None:
    sampling = {"group": 8, "max_tokens": 6}
    options = {"algorithm": algorithm, "sampling": sampling, "steps": 14, "optimizer": {"lr": 3e-3}}
    stage = run(world, tmp_path / "run", **options)
    found = rewards(tmp_path / "run")
    assert sum(found[-3:]) / 3 > sum(found[:3]) / 3 + 0.15
    (before,), (after,) = stage.record.evaluation.before, stage.record.evaluation.after
    assert after.value > before.value + 0.1
    assert stage.record.kind == "reasoning" and algorithm in stage.record.what
    assert {"adapter.gguf", "rewards.png", "replies-after.jsonl"} <= set(stage.record.files)
    # With a cache and without one, the same numbers to rounding.
    assert max(rewards(tmp_path / "run", "sampler_gap/max")) < 1e-3
    # One step on a rollout: no ratio is other than 1, and nothing is clipped.
    assert set(rewards(tmp_path / "run", "clip_ratio/region_mean")) == {0.0} or algorithm == "rloo"
    if algorithm == "grpo":  # its KL term begins at the reference and leaves it
        kl = rewards(tmp_path / "run", "kl")
        assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-4


LLAMA: dict[str, Any] = {"llama": {"threads": 1}, "correction": {"name": "token_truncate", "high": 2.0}}


def test_rewards_rise_with_replies_of_llama_cpp(world: World, tmp_path: Path, small: None) -> None:
    options = {"sampling": {"group": 8, "max_tokens": 6}, "steps": 14, "optimizer": {"lr": 3e-3}}
    run(world, tmp_path / "run", **options, **LLAMA)
    found = rewards(tmp_path / "run")
    assert sum(found[-3:]) / 3 > sum(found[:3]) / 3 + 0.15
    # Its cache is in half precision; the weights are the trainer's, adapter and all, at every step.
    assert max(rewards(tmp_path / "run", "sampler_gap/mean")) < 1e-2
    assert all(0.9 < mean < 1.1 for mean in rewards(tmp_path / "run", "correction/mean"))


IN_MEMORY = {"checkpoints": {"every": 100, "keep": 2, "memory_every": 2}}
REUSED = {"rollout": {"epochs": 2, "minibatches": 2}}


def test_a_killed_run_with_replies_of_llama_cpp_goes_on_from_memory_to_the_same_bits(
    world: World, tmp_path: Path
) -> None:
    options = LLAMA | IN_MEMORY
    whole = run(world, tmp_path / "whole", **options)
    recipe = write_toml(tmp_path / "r.toml", values(world, faults=[{"kind": "sigkill", "step": 3}], **options))
    killed = modelstack("reinforce", recipe, "--out", tmp_path / "run")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run(world, tmp_path / "run", **options)
    for name in ("adapter/adapter_model.safetensors", "rewards.jsonl", "replies-after.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.path / name).read_bytes()


def test_several_steps_on_a_rollout_teach_and_leave_the_policy_that_sampled(
    world: World, tmp_path: Path, small: None
) -> None:
    options = {"sampling": {"group": 8, "max_tokens": 6}, "steps": 16, "optimizer": {"lr": 3e-3}}
    stage = run(world, tmp_path / "run", **options, **REUSED)
    assert "4 steps on a rollout of 4 prompts" in stage.record.what
    found = rewards(tmp_path / "run")
    assert sum(found[-4:]) / 4 > sum(found[:4]) / 4 + 0.1
    first, later = [0, 4, 8, 12], [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15]
    kl, least, most = (rewards(tmp_path / "run", name) for name in ("approx_kl", "ratio/min", "ratio/max"))
    # At the first step on a rollout the policy is the old one; then it is not, and the clip holds some tokens.
    for step in first:
        assert (kl[step], least[step], most[step]) == (0.0, 1.0, 1.0)
    assert all(kl[step] > 1e-6 and least[step] < 0.999 < 1.001 < most[step] for step in later)
    clipped = rewards(tmp_path / "run", "clip_ratio/region_mean")
    assert not any(clipped[step] for step in first) and any(clipped[step] for step in later)
    # The gap is between two engines at the same weights: it does not grow while the policy moves.
    assert max(rewards(tmp_path / "run", "sampler_gap/max")) < 1e-3


def test_a_roll_back_begins_a_new_rollout(world: World, tmp_path: Path, small: None) -> None:
    nan = [{"kind": "loss", "step": step, "factor": float("nan")} for step in (1, 2)]
    guard = {"skips_in_a_row": 2, "patience": 1}
    options = {"steps": 5, "faults": nan, "guard": guard, "checkpoints": {"every": 1, "keep": 2}}
    run(world, tmp_path / "run", **options, **REUSED)
    assert "went back to the weights of step 1" in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    # The fourth step would be the last of the first rollout; the fifth is the second of the new one.
    kl = rewards(tmp_path / "run", "approx_kl")
    assert kl[0] == kl[3] == 0 < kl[1] and kl[4] > 0


def test_weights_that_are_left_out_at_random_have_no_ratio(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lora\.dropout is 0\.1 and a rollout has 4 steps"):
        run(world, tmp_path / "run", lora={"rank": 4, "alpha": 8, "dropout": 0.1}, **REUSED)


def test_a_verifier_that_pays_for_a_known_hack_ends_the_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hack: Any = _Hack()
    probe = ("small", Small(), hack)
    monkeypatch.setattr(running, "GuardedReward", lambda *_, **__: GuardedReward(Small(), probes=[probe]))
    with pytest.raises(UserError, match="further training would teach a hack: canary: small gave 1"):
        run(world, tmp_path / "run")


class _Hack(_Nothing):
    def completion(self) -> Completion:
        return Completion("", (6,))


def test_groups_that_teach_nothing_are_refilled(world: World, tmp_path: Path) -> None:
    # No toy says the right digit: every group is worth 0, and all tries are used up.
    run(world, tmp_path / "run", steps=2, seed=1, sampling={"group": 2, "max_tokens": 3, "refill": 2})
    assert rewards(tmp_path / "run", "groups/equal") == [1.0, 1.0]
    assert rewards(tmp_path / "run", "prompts/tried") == [3.0, 3.0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"micro_batches": 1}, "each prompt is a separate pass"),
        ({"algorithm": "ppo"}, "needs a critic"),
        ({"sampling": {"group": 1}}, "greater than or equal to 2"),
    ],
    ids=["passes", "critic", "group"],
)
def test_recipes_that_cannot_be_are_refused(world: World, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        checked_recipe(PolicyRecipe, values(world, **changes))


def test_golds_of_another_verifier_and_prompts_on_both_sides_are_refused(world: World, tmp_path: Path) -> None:
    data = values(world)["data"]
    with pytest.raises(UserError, match=r"train\.jsonl: task '0': gold is \"0\"; for json it is a JSON Schema"):
        run(world, tmp_path / "a", data=data | {"verifier": "json"})
    write_tasks(tmp_path / "copy.jsonl", 5, 2)
    with pytest.raises(UserError, match="1 prompts are in training and in validation"):
        run(world, tmp_path / "b", data=data | {"validation": [str(tmp_path / "copy.jsonl")]})


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("two_ray_workers")
@pytest.mark.parametrize("sampler", [{}, LLAMA], ids=["the model", "llama.cpp"])
def test_a_pool_of_samplers_gives_the_adapter_of_one(
    world: World, tmp_path: Path, small: None, sampler: dict[str, Any]
) -> None:
    # Without a pool, llama.cpp writes the replies of several prompts together, which rounds differently.
    alone = run(world, tmp_path / "alone", steps=2, pool=1 if sampler else None, **sampler)
    pooled = run(world, tmp_path / "pooled", steps=2, pool=2, **sampler)
    assert rewards(pooled.path) == rewards(alone.path)
    assert (pooled.path / "adapter.gguf").read_bytes() == (alone.path / "adapter.gguf").read_bytes()


def test_a_pool_plays_no_episodes(world: World) -> None:
    with pytest.raises(UserError, match="pool = 2 and episodes"):
        checked_recipe(
            PolicyRecipe,
            values(world, pool=2, episodes={}, data={"training": ["t.jsonl"], "verifier": "outcome"}),
        )
