"""Two processes with sharded weights train as one does: fine-tuning, preferences, policy gradients."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import load_file

from modelstack.errors import UserError
from modelstack.posttrain.stages.stage import open_stage
from modelstack.train.metrics import read_metrics
from tests.modelstack.posttrain.toy_trainings import METHODS, World, write_world
from tests.modelstack.train.parallel_cases import on_ranks
from tests.modelstack.train.pictures import without_pictures

pytestmark = [pytest.mark.xdist_group("several_processes"), pytest.mark.usefixtures("pictures_drawn_once")]
# AdamW divides a gradient by its own size: where that is rounding noise, eps keeps the noise from becoming a step.
OPTIMIZER = {"lr": 1e-2, "eps": 1e-4}
FULL = {"train": "full", "lora": None, "optimizer": {"lr": 1e-3, "eps": 1e-4}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("several"))


def run(world: World, name: str, folder: Path, changes: dict[str, Any], rank: int) -> str:
    """Run to the end, then again from the checkpoint before the last; return the sentence of the record."""
    console = Console(quiet=True)
    with without_pictures():
        stage = METHODS[name].run(world, folder, console, **changes)
        assert stage is not None
        dist.barrier()
        if rank == 0:
            shutil.copytree(folder, folder.with_name("first"))
            (folder / "stage.json").unlink()
            shutil.rmtree(folder / "checkpoints" / "step-00000006")
        dist.barrier()
        assert METHODS[name].run(world, folder, console, **changes) is not None
    return stage.record.what


def weights(folder: Path) -> dict[str, torch.Tensor]:
    adapter = folder / "adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "model" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sft", {"optimizer": OPTIMIZER, "micro_batches": 1}),
        ("sft", FULL | {"micro_batches": 1}),
        ("prefer", {"optimizer": OPTIMIZER}),
        ("reinforce", {"optimizer": {"lr": 1e-3, "eps": 1e-3}}),
        # At a rate of 0.1 each step multiplies the rounding of float32 sums, whose order differs by ranks, by ten.
        ("reinforce", FULL | {"algorithm": "grpo", "optimizer": {"lr": 1e-3, "eps": 1.0}}),
    ],
    ids=["sft", "sft, all weights", "dpo", "dapo", "grpo, all weights"],
)
def test_two_processes_equal_one_and_resume_to_the_same_bits(
    world: World, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    if changes.get("train") == "full":
        changes = changes | {"base": str(world.checkpoint)}
    with without_pictures():
        one = METHODS[name].run(world, tmp_path / "one", **changes)
    assert one is not None
    (tmp_path / "ranks").mkdir()
    said = on_ranks(2, tmp_path / "ranks", partial(run, world, name, tmp_path / "two", changes))
    assert said == [one.record.what] * 2
    two = open_stage(tmp_path / "two")
    assert two.record.data == one.record.data
    expected, found = weights(one.path), weights(two.path)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-6)
    first = weights(tmp_path / "first")
    assert all(torch.equal(first[key], found[key]) for key in found)
    assert moved(one.path, world) > 1e-4
    for a, b in zip(
        *(read_metrics(folder / "metrics.jsonl").steps for folder in (one.path, two.path)), strict=True
    ):
        assert a.losses == pytest.approx(b.losses, rel=1e-6, abs=1e-6)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4, abs=1e-6)
    figures = [{each.name: each.value for each in stage.record.evaluation.after} for stage in (one, two)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)


def moved(folder: Path, world: World) -> float:
    """Return the largest change of a weight that began at 0, or in the base."""
    if (folder / "model").exists():
        before = load_file(world.checkpoint / "model.safetensors")
        return max(float((tensor - before[key]).abs().max()) for key, tensor in weights(folder).items())
    return max(float(tensor.abs().max()) for key, tensor in weights(folder).items() if "lora_B" in key)


def refused(world: World, folder: Path, rank: int) -> list[str]:
    """Return the complaints about what two processes cannot do."""
    complaints: list[str] = []
    cases: list[tuple[str, dict[str, Any]]] = [
        ("distil", {}),
        ("sft", {"minutes": 1.0}),
        ("sft", {"rows": 3, "micro_batches": 1}),
    ]
    for number, (name, changes) in enumerate(cases):
        with pytest.raises(UserError) as error:
            METHODS[name].run(world, folder / str(number), Console(quiet=True), **changes)
        complaints.append(str(error.value))
    return complaints


@pytest.mark.slow
def test_what_two_processes_cannot_do_is_refused_by_both(world: World, tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, partial(refused, world, tmp_path))
    assert first == second
    assert "trains in one process" in first[0] and "limit for one process" in first[1]
    assert "3, not a multiple of the 2 processes" in first[2]
