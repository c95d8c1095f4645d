"""Reinforcement on verifiable tasks as an experiment: it goes on where it was stopped, and reports figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evals.post_training.verifiable import experiment, measuring
from evals.post_training.verifiable.curves import PANELS, PICTURE, ends, mean_curve
from evals.post_training.verifiable.experiment import HELD_BACK, RUNS, TRAINING, Wanted, run
from evals.post_training.verifiable.kinds import KINDS
from evals.post_training.verifiable.measuring import Asking, kept_rates, rates
from evals.post_training.verifiable.report import REPORT, REPORT_JSON, write_report
from modelstack.errors import UserError
from modelstack.posttrain.stages.stage import ADAPTER_GGUF, open_stage
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.tasks.task import read_tasks
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from modelstack.recipe_file import read_recipe
from tests.modelstack.sft.toy_sft import write_base

TINY = (
    "steps=2",
    "rows=2",
    "micro_batches=2",
    "precision=fp32",
    "sampling.group=2",
    "sampling.max_tokens=4",
    "sampling.refill=0",
    "lora.rank=2",
    "lora.alpha=4",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("verifiable") / "base")


@pytest.mark.parametrize("name", KINDS)
def test_the_recipes_are_recipes_of_their_verifiers(name: str) -> None:
    recipe = read_recipe(PolicyRecipe, KINDS[name].recipe, [])
    assert recipe.data.verifier.name == KINDS[name].verifier
    assert recipe.name == f"rl-{name}" and recipe.steps and recipe.threads == 1


@pytest.mark.usefixtures("pictures_drawn_once")
def test_the_experiment_goes_on_takes_more_seeds_and_is_held_to_its_recipe(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "N_TRAINING", 12)
    wanted = Wanted(KINDS["json"], base, "toy", (3,), TINY, n_held_back=3, n_samples=2)
    out, console = tmp_path / "out", Console(quiet=True)
    first = run(wanted, out, console)
    assert first.before.greedy.n == 3 and first.before.sampled is not None
    asked = {side: {task.item.prompt for task in read_tasks(out / side)} for side in (TRAINING, HELD_BACK)}
    assert len(asked[TRAINING]) == 12 and not asked[TRAINING] & asked[HELD_BACK]

    calls: list[str] = []
    real = experiment.rates
    monkeypatch.setattr(experiment, "rates", lambda *a, **k: calls.append("measured") or real(*a, **k))
    more = run(replace(wanted, seeds=(3, 4)), out, console)
    assert more.before == first.before and more.seeds[0] == first.seeds[0]
    assert calls == ["measured"]  # of the new seed alone
    assert more.seeds[1].folder == out / RUNS / "seed-4"
    assert [open_stage(each.folder).record.seed for each in more.seeds] == [3, 4]

    report = write_report(more, out, "the command")
    assert "0 of the first are canaries" in report  # 2 % of 12
    assert "| before | 0.000" in report and "| after, seed 4 |" in report and "    the command" in report
    record = json.loads((out / REPORT_JSON).read_text(encoding="utf-8"))
    assert set(record["after"]) == {"3", "4"} and set(record["curves"]["3"]) == set(PANELS)
    assert [step for step, _ in record["curves"]["4"]["kl_to_start"]] == [0, 1]
    assert (out / PICTURE).stat().st_size > 1_000 and (out / REPORT).read_text(encoding="utf-8") == report

    with pytest.raises(UserError, match="holds another experiment, its recipe differs"):
        run(replace(wanted, overrides=(*TINY, "steps=3")), out, console)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("two_ray_workers")
def test_seeds_on_ray_are_those_of_this_process(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "N_TRAINING", 12)
    wanted = Wanted(KINDS["json"], base, "toy", (3, 4), TINY, n_held_back=3, n_samples=2)
    local = run(wanted, tmp_path / "local", Console(quiet=True))
    on_ray = run(wanted, tmp_path / "ray", Console(quiet=True), "ray")
    assert on_ray.before == local.before
    assert [(each.seed, each.after) for each in on_ray.seeds] == [(each.seed, each.after) for each in local.seeds]
    for one, other in zip(on_ray.seeds, local.seeds, strict=True):
        adapters = [(each.folder / ADAPTER_GGUF).read_bytes() for each in (one, other)]
        assert adapters[0] == adapters[1] and one.folder != other.folder


class _Even:
    """Pays by the reply's length: something that a toy's greedy and sampled replies differ in."""

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        return Reward(None if item.id == "odd" else float(len(completion.token_ids) % 2 == 0), "by length")


def test_shares_are_of_greedy_and_of_sampled_replies_and_the_same_each_time(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    lines = [{"id": f"t{n}", "prompt": f"say {n}", "gold": "1"} for n in range(3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tasks, asking = list(read_tasks(file)), Asking(max_tokens=3, temperature=5.0, n_samples=6)
    found, replies = rates(base, None, tasks, _Even(), asking)
    assert rates(base, None, tasks, _Even(), asking) == (found, replies)
    assert [reply["id"] for reply in replies] == ["t0", "t1", "t2"]
    assert found.sampled is not None and found.sampled.n == 3 and found.informative is not None
    none, _ = rates(base, None, tasks, _Even(), replace(asking, n_samples=0))
    assert none.greedy == found.greedy and none.sampled is None and none.informative is None
    assert kept_rates(tmp_path / "f" / "a.json", lambda: (found, replies)) == found
    assert kept_rates(tmp_path / "f" / "a.json", lambda: pytest.fail("measured again")) == found

    file.write_text(json.dumps(lines[0] | {"id": "odd"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="task 'odd' cannot be judged"):
        rates(base, None, list(read_tasks(file)), _Even(), asking)


def test_samples_of_a_task_differ_and_are_the_tasks_own() -> None:
    seeds = [measuring._seed(0, task, number) for task in ("a", "b") for number in range(3)]
    assert len(set(seeds)) == 6 and all(0 <= seed < 1 << 31 for seed in seeds)


def test_the_mean_is_over_the_steps_that_all_seeds_took() -> None:
    assert mean_curve([[(0, 1.0), (1, 2.0)], [(0, 3.0)]]) == [(0, 2.0)]
    assert ends([(n, float(n)) for n in range(10)]) == (2.0, 7.0)
