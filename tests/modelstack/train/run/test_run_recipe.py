"""A recipe says what a run is made of; a plan and a recipe never contradict each other; a run keeps its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelstack.decide.plan_file import PlanRequest
from modelstack.decide.planner import plan
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe, read_recipe
from modelstack.run_folder import RunFolder, claim
from modelstack.train.run.recipe import FREE, LAYOUT, Resolved, RunRecipe, resolve

LEAST: dict[str, Any] = {"name": "toy", "steps": 40, "rows": 8, "model": {"preset": "nano-9m"}}


def resolved(**changes: Any) -> Resolved:
    return resolve(checked_recipe(RunRecipe, LEAST | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "steps must be set, or a plan"),
        ({"rows": 0}, "'rows'"),
        ({"name": "a/b"}, "'name'"),
        ({"modle": {}}, "'modle' is not known; nearest: 'model'"),
        ({"model": {"preset": "nano-9m", "confg": {}}}, "nearest: 'model.config'"),
        ({"parallel": {"layout": {"shart": 2}}}, "nearest: 'parallel.layout.shard'"),
        ({"optimizer": {"lr": -1}}, "'optimizer.lr'"),
        ({"tokenizer": {"path": "x", "megabytes": 2}}, "names an existing tokenizer"),
        ({"plan": "plan.json"}, "a plan decides steps, rows, model"),
    ],
)
def test_a_mistake_in_a_recipe_names_the_key_and_what_to_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_recipe(RunRecipe, {k: v for k, v in (LEAST | changes).items() if v is not None})


def test_rows_that_do_not_divide_among_the_passes_are_refused_before_any_work() -> None:
    assert resolved(micro_batches=4).rows_per_batch == 2
    with pytest.raises(UserError, match="rows = 8 is not a multiple of 1 data ranks x 3 micro_batches"):
        resolved(micro_batches=3)
    with pytest.raises(UserError, match="rows = 8 is not a multiple of 3 data ranks"):
        resolved(parallel={"layout": {"shard": 3}})


def test_a_schedule_that_does_not_fit_into_the_steps_is_refused() -> None:
    with pytest.raises(UserError, match="schedule over 40 steps"):
        resolved(schedule={"warmup_steps": 30, "decay_steps": 20})
    assert resolved(schedule={"warmup_steps": 4, "decay_steps": 20}).schedule.total_steps == 40


def test_keys_of_the_model_are_changed_over_its_preset() -> None:
    config = resolved(model={"preset": "nano-9m", "config": {"z_loss_coef": 1e-4}}).model
    assert (config.z_loss_coef, config.hidden_size) == (1e-4, 256)
    with pytest.raises(UserError, match="'hidden_siez' is not known; nearest: 'hidden_size'"):
        resolved(model={"preset": "nano-9m", "config": {"hidden_siez": 1}})


def test_another_depth_has_layers_of_the_presets_one_kind() -> None:
    config = resolved(model={"preset": "nano-9m", "config": {"num_hidden_layers": 2}}).model
    assert (config.layer_types, config.mlp_layer_types) == (("full_attention",) * 2, ("dense",) * 2)
    with pytest.raises(UserError, match="layer_types has several kinds"):
        resolved(model={"preset": "gemma3-1b", "config": {"num_hidden_layers": 2}})


def test_a_plan_decides_what_the_recipe_leaves_open() -> None:
    decided = plan(PlanRequest(budget_flops=1e13, vocab_size=1024, context=128, precision="fp32"))
    recipe = checked_recipe(RunRecipe, {"name": "planned", "plan": "plan.json"})
    obeyed = resolve(recipe, decided)
    assert obeyed.steps * obeyed.rows * obeyed.row_tokens == decided.n_tokens
    assert obeyed.model == decided.model.config
    assert obeyed.optimizer.lr == decided.learning_rate.value
    assert obeyed.schedule.warmup_steps == decided.schedule.warmup_steps
    assert (obeyed.precision, obeyed.layout, obeyed.tokenizer.vocab_size) == ("fp32", decided.layout, 1024)
    other = checked_recipe(
        RunRecipe, {"name": "planned", "plan": "plan.json", "tokenizer": {"learn": {"vocab_size": 2048}}}
    )
    with pytest.raises(UserError, match="vocab_size is 2048, but the plan assumes 1024"):
        resolve(other, decided)


def test_overrides_reach_into_nested_tables(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('name = "toy"\nsteps = 40\nrows = 8\n[model]\npreset = "nano-9m"\n')
    recipe = read_recipe(RunRecipe, tmp_path / "r.toml", ["model.config.z_loss_coef=1e-4", "data.row_tokens=64"])
    assert recipe.model is not None
    assert recipe.model.config == {"z_loss_coef": 1e-4}
    assert resolve(recipe).row_tokens == 64


def test_a_run_keeps_what_moves_its_weights_and_may_change_the_rest(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    def claimed(**changes: Any) -> tuple[str, ...]:
        now = resolved(**changes)
        return claim(folder.recipe, now, now.fingerprint, free=FREE, layout=LAYOUT)

    assert claimed() == ()
    assert claimed(evaluation={"every": 3}) == ()
    assert claimed(micro_batches=2) == ("recipe.micro_batches",)
    with pytest.raises(UserError, match=r"steps = 40, the recipe says 50; a run keeps it"):
        claimed(steps=50)
    assert claimed(micro_batches=2) == ()
