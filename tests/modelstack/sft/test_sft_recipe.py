"""A fine-tuning's recipe: mistakes are told before anything is loaded, shares make an epoch, a base is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelstack.data.examples import Example, write_examples
from modelstack.errors import UserError
from modelstack.posttrain.recipe import TuningSchedule
from modelstack.posttrain.starting_point import starting_point
from modelstack.recipe_file import checked_recipe, read_recipe
from modelstack.sft.recipe import SftData, SftGuard, SftRecipe
from modelstack.sft.training_data import read_training_data
from modelstack.stability.guard import Guard, Verdict
from modelstack.train.schedules import schedule
from tests.modelstack.posttrain.toy_stages import sha256, toy_stage
from tests.modelstack.sft.toy_sft import toy_example, toy_values, write_base, write_data

TWO = {"training": ["a", {"path": "b", "share": 0.25}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bace": "x"}, "'bace' is not known; nearest: 'base'"),
        ({"lora": {"ranc": 3}}, "nearest: 'lora.rank'"),
        ({"data": {"training": [{"path": "a", "shar": 1}]}}, "nearest: 'data.training.share'"),
        ({"data": {"training": []}}, "data.training"),
        ({"train": "full"}, "leave the table lora out"),
        ({"optimizer": {"name": "muon"}}, "is for train = 'full'"),
        ({"epochs": 2}, "epochs and steps both set the length"),
        ({"evaluation": {"exact_replies": 5}, "data": {"training": ["a"]}}, "needs data.validation"),
        ({"rows": 5}, "rows = 5 is not a multiple of micro_batches = 2"),
        ({"data": TWO}, r"\[None, 0.25\]: give every file one, adding up to 1, or none"),
        ({"data": {"training": ["a"], "validation": ["a"]}}, "'a' is named twice"),
    ],
)
def test_what_does_not_go_together_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_recipe(SftRecipe, toy_values(Path("toy.gguf"), Path(), **changes))


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(
        'name = "toy"\nbase = "x.gguf"\n'
        '[data]\ntraining = [{path = "a", share = 0.5}, {path = "b", share = 0.5}]\n'
    )
    recipe = read_recipe(SftRecipe, file, ["lora.rank=8", "optimizer.lr=3e-4", "minutes=20"])
    assert recipe.lora is not None and recipe.lora.rank == 8
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.minutes) == ("adamw", 3e-4, 20)
    assert [(each.path, each.share) for each in recipe.data.training] == [("a", 0.5), ("b", 0.5)]


def test_a_schedule_is_in_shares_of_the_run() -> None:
    factor = schedule(TuningSchedule(warmup=0.1, final_factor=0.2).over(50))
    assert [factor(0), factor(4), factor(50)] == pytest.approx([0.2, 1.0, 0.2])
    decaying = schedule(TuningSchedule(kind="wsd", warmup=0, decay=0.5, final_factor=0).over(10))
    assert [decaying(4), decaying(5), decaying(9)] == pytest.approx([1.0, 1.0, 0.2])
    assert schedule(TuningSchedule().over(1))(0) == 1.0


def test_each_epoch_has_a_variant_of_its_own_up_to_a_few() -> None:
    def variants(**changes: Any) -> int:
        return SftRecipe.model_validate(
            {"name": "a", "base": "b", "data": {"training": ["c"]}} | changes
        ).n_variants

    assert [variants(epochs=epochs) for epochs in (0.5, 1.5, 9)] == [1, 2, 4]
    assert variants(steps=100) == 1
    still = {"shuffle_tools": False, "shuffle_parameters": False, "mask_names": 0, "drop_optional": 0}
    nothing = {"training": ["c"], "augment": still | {"swap_values": 0}, "variants": 3}
    assert variants(data=nothing) == 1
    assert variants(data={"training": ["c"], "variants": 7}) == 7


def test_what_was_read_is_written_down(tmp_path: Path) -> None:
    write_data(tmp_path)
    report = {"decontamination": {"benchmarks": ["toy"], "dropped": 7}, "other": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(report))
    data = SftData.model_validate(
        {
            "training": [{"path": str(tmp_path / "train.jsonl")}],
            "validation": [str(tmp_path / "validation.jsonl")],
        }
    )
    read = read_training_data(data)
    training, validation = read.manifest.files
    assert (training.name, training.role, training.n_examples) == ("train.jsonl", "training", 12)
    assert training.kinds == {"call": 8, "irrelevant": 4}
    assert training.licences == {"CC0-1.0": 12} and training.sources == {"toy": 12}
    assert (validation.role, validation.n_examples) == ("validation", len(read.validation))
    assert list(read.manifest.reports.values()) == [report["decontamination"]]


def test_an_example_on_both_sides_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    both: list[Example] = [toy_example(5)]
    write_examples(tmp_path / "validation.jsonl", both)
    data = SftData.model_validate(
        {"training": [str(tmp_path / "train.jsonl")], "validation": [str(tmp_path / "validation.jsonl")]}
    )
    with pytest.raises(
        UserError, match="1 examples are in training and in validation files, the first is 'toy-0-5'"
    ):
        read_training_data(data)


def test_a_base_is_a_file_a_folder_or_a_stage(tmp_path: Path) -> None:
    file = write_base(tmp_path / "base")
    of_file = starting_point(file)
    assert (of_file.parent.kind, of_file.parent.name, of_file.stage) == ("base", "toy.gguf", None)
    of_folder = starting_point(tmp_path / "base" / "checkpoint")
    assert of_folder.parent.sha256 == of_folder.sha256 != of_file.sha256

    stage = toy_stage(tmp_path / "one", "one", base_sha256=of_file.sha256)
    of_stage = starting_point(tmp_path / "one", file)
    assert (of_stage.weights, of_stage.parent, of_stage.stage) == (file, stage.origin, stage)
    (tmp_path / "one" / "recipe.json").write_text(json.dumps({"resolved": {"weights": str(file)}}))
    assert starting_point(tmp_path / "one").weights == file


def test_an_adapter_is_never_put_on_another_base(tmp_path: Path) -> None:
    file = write_base(tmp_path / "base")
    toy_stage(tmp_path / "one", "one", base_sha256=sha256("another base"))
    with pytest.raises(UserError, match="only fits the weights it was trained on"):
        starting_point(tmp_path / "one", file)
    with pytest.raises(UserError, match="does not record the path of its base"):
        starting_point(tmp_path / "one")
    with pytest.raises(UserError, match="weights = .* is only for a base that is a stage"):
        starting_point(file, file)


def test_a_damaged_stage_is_no_base(tmp_path: Path) -> None:
    toy_stage(tmp_path / "one", "one")
    shutil.rmtree(tmp_path / "one" / "adapter")
    with pytest.raises(UserError, match="one differs from its record: adapter/adapter_config.json is missing"):
        starting_point(tmp_path / "one")


def test_the_guard_takes_batches_of_a_rare_kind_and_rejects_noise() -> None:
    guard = Guard(SftGuard())
    for step in range(100):
        guard.judge(0.01 + 0.001 * (step % 7), 0.1 + 0.01 * (step % 5))
    assert guard.judge(1.6, 1.7).verdict is Verdict.GO
    assert "loss 8.3 is above" in guard.judge(8.3, 1.7).reason
    assert "gradient norm 40 is above" in guard.judge(1.6, 40.0).reason
