"""Promises of the driver, for every method: killed, stopped and resumed, a run ends with the same bits."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelstack.errors import UserError
from modelstack.posttrain import driver, sealing
from modelstack.posttrain.stages.stage import Stage, is_stage, open_stage
from modelstack.run_folder import RunFolder
from modelstack.train.metrics import read_metrics
from modelstack.train.run.progress import Display
from tests.modelstack.posttrain.toy_trainings import METHODS, Method, World, write_world
from tests.modelstack.train.run.toy_run import write_toml
from tests.processes import modelstack

pytestmark = [pytest.mark.xdist_group("driver"), pytest.mark.usefixtures("pictures_drawn_once")]
Whole = Callable[[str], Stage]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def whole(world: World) -> Whole:
    """Return the stage of a method's run that nothing happened to."""
    made: dict[str, Stage] = {}

    def of(name: str) -> Stage:
        if name not in made:
            stage = METHODS[name].run(world, world.folder / "whole" / name)
            assert stage is not None
            made[name] = stage
        return made[name]

    return of


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def method(name: str) -> Method:
    return METHODS[name]


def bits(folder: Path) -> dict[str, Any]:
    """Return all that a run computed: weights, replies, metrics of each step, its last checkpoint, its figures."""
    stage = open_stage(folder)
    computed = (".safetensors", ".gguf", ".jsonl")
    (last, *_) = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    steps = read_metrics(folder / "metrics.jsonl").steps
    assert [record.step for record in steps] == list(range(len(steps)))
    return {
        **{
            name: (folder / name).read_bytes()
            for name in stage.record.files
            if name.endswith(computed) and name != "metrics.jsonl"
        },
        "checkpoint": (last / "tensors.safetensors").read_bytes(),
        "losses": [record.losses for record in steps],
        "figures": stage.record.evaluation,
        "what": stage.record.what,
        "tokens": stage.record.metrics["tokens"],
    }


def differing(one: Path, other: Path) -> list[str]:
    """Return the names of what two runs computed differently."""
    a, b = bits(one), bits(other)
    assert a.keys() == b.keys()
    return [name for name in a if a[name] != b[name]]


def test_a_training_moves_weights_and_is_recorded(whole: Whole, name: str) -> None:
    stage = whole(name)
    record = stage.record
    trained = record.metrics["trained parameters"]
    assert isinstance(trained, int) and trained > 0 and record.metrics["steps"] == 6
    assert record.parents[0].name in ("toy.gguf", "checkpoint")
    assert {file.role for file in record.data.files} == {"training", "validation"}
    assert record.evaluation.before and record.evaluation.after
    assert {"metrics.jsonl", "curves.json", "curves.png"} <= set(record.files)
    norms = [step.gradient_norm for step in read_metrics(stage.path / "metrics.jsonl").steps]
    assert any(norm for norm in norms)


def test_a_killed_run_is_resumed_to_the_same_bits(
    world: World, tmp_path: Path, whole: Whole, name: str, method: Method
) -> None:
    kill = [{"kind": "sigkill", "step": method.killed_at}]
    recipe = write_toml(tmp_path / "r.toml", method.values(world, faults=kill))
    killed = modelstack(method.command, recipe, "--out", tmp_path / "run")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not is_stage(tmp_path / "run")
    shown = io.StringIO()
    assert method.run(world, tmp_path / "run", Console(file=shown))
    assert f"resumed at step {method.killed_at // 2 * 2} of 6" in shown.getvalue()
    assert differing(tmp_path / "run", whole(name).path) == []


def test_a_run_that_was_stopped_and_then_killed_at_its_end_comes_to_the_same_bits(
    world: World, tmp_path: Path, whole: Whole, name: str, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = Display.after_step

    def ask(self: Display, of: Any, report: Any) -> None:
        after_step(self, of, report)
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Display, "after_step", ask)
        assert method.run(world, tmp_path / "run") is None
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
    with monkeypatch.context() as patched:
        patched.setattr(sealing, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            method.run(world, tmp_path / "run")
    assert not is_stage(tmp_path / "run")
    assert method.run(world, tmp_path / "run")
    assert differing(tmp_path / "run", whole(name).path) == []


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(
    world: World, whole: Whole, name: str, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = whole(name)
    before = {file: file.read_bytes() for file in stage.path.glob("*.json*")}
    monkeypatch.setattr(driver, "Assembled", None)  # nothing is trained
    again = method.run(world, stage.path, name="renamed", checkpoints={"every": 1})
    assert again is not None and again.record == stage.record
    now = {file: file.read_bytes() for file in stage.path.glob("*.json*") if file.name != "recipe.json"}
    assert now == {file: content for file, content in before.items() if file.name != "recipe.json"}
    with pytest.raises(UserError, match=r"holds a run with recipe\.seed = 0, the recipe says 5; a run keeps it"):
        method.run(world, stage.path, seed=5)


def test_a_folder_in_which_another_process_works_is_left_alone(
    world: World, tmp_path: Path, method: Method
) -> None:
    with RunFolder(tmp_path / "run").held(), pytest.raises(UserError, match="another process works in it"):
        method.run(world, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_the_clock_ends_a_run_of_any_method(world: World, tmp_path: Path, method: Method) -> None:
    stage = method.run(world, tmp_path / "run", minutes=1e-6)
    assert stage is not None
    assert stage.record.metrics["ended by"] == "the clock, at step 1 of 6"


def test_a_base_that_changed_is_another_run(world: World, tmp_path: Path) -> None:
    base = tmp_path / "toy.gguf"
    base.write_bytes(world.base.read_bytes())
    assert METHODS["sft"].run(world, tmp_path / "run", base=str(base), steps=1)
    base.write_bytes(base.read_bytes()[:-4] + b"\x00\x00\x00\x01")
    with pytest.raises(UserError, match=r"holds a run with base_sha256"):
        METHODS["sft"].run(world, tmp_path / "run", base=str(base), steps=1)


def test_lines_of_values_have_each_step_once(whole: Whole) -> None:
    for name in ("prefer", "reinforce", "distil"):
        stage = whole(name)
        (file,) = {"rewards.jsonl", "divergences.jsonl"} & set(stage.record.files)
        steps = [json.loads(line)["step"] for line in (stage.path / file).read_text(encoding="utf-8").splitlines()]
        assert steps == list(range(6))
