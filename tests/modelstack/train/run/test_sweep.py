"""A sweep takes each run once, with its own schedule, and fits a law to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelstack.decide.isoflop import read_runs
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe
from modelstack.train.run.sweep import SweepRecipe, planned_runs, sweep
from tests.modelstack.train.run.toy_run import toy_values, write_text, write_toml
from tests.processes import modelstack

SIZES = [
    {"hidden_size": D, "intermediate_size": 2 * D, "num_attention_heads": D // 16, "num_key_value_heads": D // 16}
    for D in (16, 32, 48)
]


def values(text: Path, **changes: Any) -> dict[str, Any]:
    run = toy_values(text)
    del run["schedule"]
    return {"budgets": [2e9, 4e9], "sizes": SIZES, "run": run, **changes}


def test_budgets_and_sizes_decide_steps_and_schedules(tmp_path: Path) -> None:
    text = write_text(tmp_path / "toy.jsonl", 60)
    runs = planned_runs(checked_recipe(SweepRecipe, values(text)), vocab_size=320)
    assert len(runs) == len({run.key for run in runs}) == 6
    for run in runs:
        assert 6 * run.n_parameters * run.n_tokens == pytest.approx(run.budget, rel=0.1)
        assert run.resolved.schedule.total_steps == run.resolved.steps
        assert run.resolved.schedule.decay_steps == round(0.4 * run.resolved.steps)
    with pytest.raises(UserError, match=r"size 0 .* has 19 steps .* the minimum is 20"):
        planned_runs(checked_recipe(SweepRecipe, values(text, budgets=[3e8])), vocab_size=320)


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_runs_that_are_missing_and_fits_a_law(tmp_path: Path) -> None:
    text = write_text(tmp_path / "toy.jsonl")
    tables = values(text, budgets=[2e9, 2.6e9])
    recipe = write_toml(tmp_path / "sweep.toml", tables)
    done = modelstack("train", "sweep", recipe, "--out", tmp_path / "law", "--bootstrap", 0)
    file = tmp_path / "law" / "runs.jsonl"
    if done.returncode:  # runs this short need not give a law, and the command says so
        assert "has no minimum; train smaller" in done.stderr or "train longer runs" in done.stderr, done.stderr
    runs = read_runs(file)
    assert len(runs) == 6
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    sweep(checked_recipe(SweepRecipe, tables), tmp_path / "law")
    again = [json.loads(line) for line in file.read_text().splitlines()]
    last = json.loads(lines[-1])
    assert {record["key"]: record["loss"] for record in again}[last["key"]] == last["loss"]
    assert [json.dumps(record) for record in again[:5]] == lines[:5]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("two_ray_workers")
def test_a_sweep_on_ray_measures_what_a_local_one_does(tmp_path: Path) -> None:
    text = write_text(tmp_path / "toy.jsonl")
    recipe = checked_recipe(SweepRecipe, values(text, budgets=[2e9], sizes=SIZES[1:], workers=2))
    found = {}
    for place in ("local", "ray"):
        lines = sweep(recipe, tmp_path / place, on=place).read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        found[place] = {record.pop("key"): record | {"seconds": 0} for record in records}
    assert found["ray"] == found["local"] and len(found["ray"]) == 2
