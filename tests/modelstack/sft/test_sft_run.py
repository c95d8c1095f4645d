"""`modelstack sft`: a fine-tuning learns, in all forms of weights, and its stage is served as it was trained."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.files import put_adapter, read_adapter, save_adapter
from modelstack.posttrain.lora.gguf import read_gguf_adapter
from modelstack.posttrain.stages.lineage import find_stages, lineage
from modelstack.posttrain.stages.merge import merge_stage
from modelstack.posttrain.stages.stage import Stage, open_stage
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import fine_tune
from modelstack.train.metrics import read_metrics
from tests.modelstack.architecture.llama_child import needs_llama_cpp
from tests.modelstack.sft.toy_sft import STILL, toy_recipe, toy_values, write_base, write_data
from tests.modelstack.train.run.toy_run import write_toml
from tests.processes import modelstack

pytestmark = [pytest.mark.xdist_group("sft_run"), pytest.mark.usefixtures("pictures_drawn_once")]


class World(NamedTuple):
    base: Path
    """A GGUF file; a checkpoint folder is beside it."""
    examples: Path
    whole: Path
    """The stage of a run that nothing happened to."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("sft")
    base = write_base(folder / "base")
    write_data(folder / "data")
    made = World(base, folder / "data", folder / "whole")
    assert run(toy_recipe(made.base, made.examples), made.whole)
    return made


def run(recipe: SftRecipe, folder: Path) -> Stage | None:
    return fine_tune(recipe, folder, Console(quiet=True))


def adapter(folder: Path) -> list[bytes]:
    """Return the files of an adapter."""
    names = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter.gguf")
    return [(folder / name).read_bytes() for name in names]


def figures(stage: Stage) -> tuple[float, float]:
    (before,), (after,) = stage.record.evaluation.before, stage.record.evaluation.after
    assert before.name == after.name == "validation loss"
    return before.value, after.value


def test_a_run_learns_and_ends_in_a_stage_with_its_adapter_in_both_forms(world: World) -> None:
    stage = open_stage(world.whole)
    before, after = figures(stage)
    assert after < before - 0.5
    record = stage.record
    assert (record.kind, record.parents[0].name) == ("sft", "toy.gguf")
    assert [file.role for file in record.data.files] == ["training", "validation"]
    assert {"adapter.gguf", "adapter/adapter_config.json", "curves.png", "metrics.jsonl"} <= set(record.files)
    of_peft = read_adapter(world.whole / "adapter")
    assert of_peft.base_sha256 == record.base_sha256
    config = load_checkpoint(world.base.parent / "checkpoint").config
    of_llama = read_gguf_adapter(world.whole / "adapter.gguf", config)
    for name, tensor in of_peft.state.items():
        torch.testing.assert_close(of_llama.state[name], tensor, atol=1e-3, rtol=1e-2)
    evaluations = read_metrics(world.whole / "metrics.jsonl").evaluations
    assert [each.step for each in evaluations] == [3, 7]
    assert evaluations[-1].loss == pytest.approx(after)


def test_an_adapter_is_written_the_same_each_time(world: World, tmp_path: Path) -> None:
    base, read = load_base(world.base), read_adapter(world.whole / "adapter")
    put_adapter(base.model, read)
    for n in range(8):
        save_adapter(base.model, read.config, tmp_path / str(n), base_sha256=base.sha256)
    file = "adapter_model.safetensors"
    assert {(tmp_path / str(n) / file).read_bytes() for n in range(8)} == {adapter(world.whole)[0]}


def test_another_seed_gives_another_adapter(world: World, tmp_path: Path) -> None:
    assert run(toy_recipe(world.base, world.examples, seed=1), tmp_path / "run")
    assert adapter(tmp_path / "run") != adapter(world.whole)


def test_checkpoints_hold_no_weight_of_the_base(world: World) -> None:
    (newest, *_) = sorted((world.whole / "checkpoints").glob("step-*"), reverse=True)
    tensors = load_file(newest / "tensors.safetensors")
    of_model = [name for name in tensors if "/model/" in name]
    assert of_model and all("lora_" in name for name in of_model)
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert n_bytes < world.base.stat().st_size


def test_an_adapter_is_gone_on_with_and_remembers_its_parent(world: World, tmp_path: Path) -> None:
    first = open_stage(world.whole)
    values = toy_values(world.whole, world.examples, steps=2)
    del values["lora"]
    second = run(SftRecipe.model_validate(values), tmp_path / "run")
    assert second is not None
    assert second.record.parents == (first.origin,)
    assert second.record.base_sha256 == first.record.base_sha256
    assert figures(second)[0] == pytest.approx(figures(first)[1])
    assert adapter(tmp_path / "run") != adapter(world.whole)
    with pytest.raises(UserError, match="leave the table out to continue this adapter"):
        run(toy_recipe(world.whole, world.examples, lora={"rank": 2}), tmp_path / "other")


def test_an_adapter_merged_into_its_base_is_a_stage_that_computes_the_same(world: World, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["stage", "merge", str(world.whole), str(tmp_path / "merged"), "--gguf", "q8_0"]
    )
    assert result.exit_code == 0, result.output
    merged = open_stage(tmp_path / "merged")
    assert (merged.record.kind, merged.record.parents) == ("merged", (open_stage(world.whole).origin,))
    assert "model.gguf" in merged.record.files
    adapted = load_base(world.base)
    put_adapter(adapted.model, read_adapter(world.whole / "adapter"))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        ours = load_checkpoint(merged.weights, dtype=torch.float32)(ids).logits_BTV
        theirs = adapted.model.eval()(ids).logits_BTV
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.999
    nodes = {node.name: node.kind for node in lineage(find_stages([world.whole, tmp_path])).values()}
    assert nodes == {"toy.gguf": "base", "toy": "sft", "toy-merged": "merged"}
    with pytest.raises(UserError, match="is not a stage with an adapter"):
        merge_stage(tmp_path / "merged", tmp_path / "again")


@pytest.mark.slow
def test_all_weights_of_a_checkpoint_are_trained_in_bf16_and_a_stop_changes_nothing(
    world: World, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"train": "full", "lora": None, "precision": "bf16", "optimizer": {"lr": 1e-3}}
    recipe = toy_recipe(world.base.parent / "checkpoint", world.examples, **changes)
    whole = run(recipe, tmp_path / "whole")
    assert whole is not None
    before, after = figures(whole)
    assert after < before - 0.5
    assert whole.weights == tmp_path / "whole" / "model"
    killed = recipe.model_copy(update={"faults": ({"kind": "sigkill", "step": 5},)})
    file = write_toml(tmp_path / "r.toml", killed.model_dump(mode="json", exclude_none=True, exclude_unset=True))
    assert modelstack("sft", file, "--out", tmp_path / "run").returncode == -signal.SIGKILL
    done = modelstack("sft", file, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert load_checkpoint(tmp_path / "run" / "model").lm_head.weight.dtype == torch.bfloat16


SERVED = [
    pytest.param("toy.gguf", {"lora": {"rank": 8, "alpha": 16}}, id="an adapter on the base's file"),
    pytest.param(
        "checkpoint",
        {"lora": {"rank": 8, "alpha": 16, "dora": True}},
        id="DoRA, merged into a checkpoint",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "checkpoint",
        {"lora": None, "train": "full", "optimizer": {"lr": 3e-3}},
        id="a model all of whose weights moved",
        marks=pytest.mark.slow,
    ),
]


@needs_llama_cpp
@pytest.mark.parametrize(("base", "changes"), SERVED)
def test_what_was_trained_is_decoded_by_llama_cpp_beside_what_it_was_trained_on(
    world: World, tmp_path: Path, base: str, changes: dict[str, Any]
) -> None:
    values = toy_values(world.base.parent / base, world.examples, steps=60, checkpoints={"every": 100}, **changes)
    values["data"]["augment"] = STILL
    values["evaluation"] = {"every": 100, "exact_replies": 4, "threads": 1}
    given = {key: value for key, value in values.items() if value is not None}
    stage = run(SftRecipe.model_validate(given), tmp_path / "run")
    assert stage is not None
    before, after = (
        {each.name: each for each in measured}
        for measured in (stage.record.evaluation.before, stage.record.evaluation.after)
    )
    assert before["exact replies"].n == after["exact replies"].n == 4
    replies = [
        {reply["id"]: reply for reply in map(json.loads, (tmp_path / "run" / file).read_text().splitlines())}
        for file in ("replies-before.jsonl", "replies-after.jsonl")
    ]
    assert [sum(reply["right"] for reply in of_one.values()) / 4 for of_one in replies] == [
        before["exact replies"].value,
        after["exact replies"].value,
    ]
    lamp = "toy-1-1"  # asks for what was learnt word for word
    assert [of_one[lamp]["right"] for of_one in replies] == [False, True]
    assert replies[1][lamp]["reply"] == '[{"name":"lamp","arguments":{"on":true}}]'
    assert not list((tmp_path / "run").glob(".served*"))
