"""`modelstack prefer`: each method comes to prefer what was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelstack.errors import UserError
from modelstack.posttrain.stages.stage import Stage, open_stage
from modelstack.preferences.recipe import PreferenceRecipe
from modelstack.preferences.run import REFERENCE_FILE, prefer
from modelstack.preferences.scores import ACCURACY, CHOSEN, LIKELIER, MARGIN
from modelstack.recipe_file import checked_recipe
from modelstack.train.metrics import read_metrics
from tests.modelstack.posttrain.toy_trainings import World, tables, write_pairs
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [pytest.mark.xdist_group("preference_run"), pytest.mark.usefixtures("pictures_drawn_once")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("preferences"))
    write_base(made.folder / "base")
    write_pairs(made.folder / "pairs" / "train.jsonl", 0, 24)
    write_pairs(made.folder / "pairs" / "validation.jsonl", 100, 8)
    return made


def values(world: World, **changes: Any) -> dict[str, Any]:
    ours = {"steps": 10, "rows": 8, "checkpoints": {"every": 3, "keep": 2}}
    return tables(world.files("pairs") | {"row_tokens": 128}, base=str(world.base), **ours) | changes


def run(world: World, folder: Path, **changes: Any) -> Stage:
    recipe = checked_recipe(PreferenceRecipe, values(world, **changes))
    stage = prefer(recipe, folder, Console(quiet=True))
    assert stage is not None
    return stage


def figures(stage: Stage) -> tuple[dict[str, float], dict[str, float]]:
    evaluation = stage.record.evaluation
    before, after = ({each.name: each.value for each in side} for side in (evaluation.before, evaluation.after))
    return before, after


METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"name": "direct"},
    "ipo": {"name": "direct", "loss": {"losses": [{"name": "ipo"}], "beta": 0.5}},
    "wpo": {"name": "direct", "wpo": True, "ld_alpha": 0.5},
    "simpo": {"name": "simpo"},
    "cpo": {"name": "cpo"},
    "orpo": {"name": "orpo", "ratio_coefficient": 1.0},
    "kto": {"name": "kto"},
    "apo_zero": {"name": "apo_zero_unpaired"},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_comes_to_prefer_what_was_chosen(world: World, tmp_path: Path, name: str) -> None:
    stage = run(world, tmp_path / "run", method=METHODS[name])
    before, after = figures(stage)
    assert stage.record.kind == "preference" and METHODS[name]["name"] in stage.record.what
    assert after[ACCURACY] == 1.0 and after[MARGIN] > 0.02
    assert after[LIKELIER] >= before[LIKELIER]
    steps = [json.loads(line) for line in (tmp_path / "run/rewards.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(10))
    assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"]
    assert (tmp_path / "run" / REFERENCE_FILE).exists() == (name not in ("simpo", "cpo", "orpo"))
    if name in ("cpo", "orpo"):  # what has cross-entropy in it
        assert after[CHOSEN] > before[CHOSEN]


def test_the_loss_of_dpo_begins_at_log_two(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", steps=1, precision="bf16")
    (first,) = read_metrics(tmp_path / "run/metrics.jsonl").steps
    # The policy is its own reference: all margins are 0, in bf16 too, as both are computed alike.
    assert first.losses["total"] == pytest.approx(0.6931, abs=2e-3)


def test_a_resumed_run_does_not_ask_the_reference_again(world: World, tmp_path: Path) -> None:
    stage = run(world, tmp_path / "run", steps=1)
    reference = (stage.path / REFERENCE_FILE).stat().st_mtime_ns
    (stage.path / "stage.json").unlink()
    run(world, tmp_path / "run", steps=1)
    assert (stage.path / REFERENCE_FILE).stat().st_mtime_ns == reference


def test_all_weights_of_a_checkpoint_are_trained(world: World, tmp_path: Path) -> None:
    checkpoint = world.base.parent / "checkpoint"
    stage = run(world, tmp_path / "run", base=str(checkpoint), train="full", lora=None, optimizer={"lr": 2e-3})
    assert figures(stage)[1][ACCURACY] == 1.0
    assert (stage.path / "model" / "config.json").exists()


def test_an_adapter_of_preferences_is_gone_on_with(world: World, tmp_path: Path) -> None:
    first = run(world, tmp_path / "first")
    second = run(world, tmp_path / "second", base=str(first.path), lora=None, method={"name": "orpo"})
    assert second.record.parents[0].sha256 == first.record.fingerprint
    before, after = figures(second)
    assert before == {name: pytest.approx(figures(first)[1][name], abs=1e-4) for name in before}
    assert open_stage(second.path).record.kind == "preference" and after[ACCURACY] == 1.0


def test_conversations_on_both_sides_are_refused(world: World, tmp_path: Path) -> None:
    data = values(world)["data"] | {"validation": [str(tmp_path / "copy.jsonl")]}
    write_pairs(tmp_path / "copy.jsonl", 23, 4)
    with pytest.raises(UserError, match="1 conversations are in training and in validation files"):
        run(world, tmp_path / "run", data=data)


def test_pairs_are_no_use_where_only_thumbs_are_given(world: World, tmp_path: Path) -> None:
    thumbs = [{"prompt": f"is it {i}?", "completion": "yes", "label": i % 2 == 0} for i in range(8)]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in thumbs), encoding="utf-8")
    data = {"training": [str(tmp_path / "thumbs.jsonl")], "row_tokens": 128}
    with pytest.raises(UserError, match="none of 8 preferences has the form 'pairs'"):
        run(world, tmp_path / "pairs", data=data)
    assert run(world, tmp_path / "kto", data=data, method={"name": "kto"}).record.kind == "preference"
