"""`modelstack train`: killed, stopped, spread over processes or branched off, a run comes to the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.decide.plan_file import PlanRequest, read_plan, write_plan
from modelstack.decide.planner import plan
from modelstack.errors import UserError
from modelstack.run_folder import RunFolder
from modelstack.train.metrics import read_metrics
from modelstack.train.run.launch import launch
from modelstack.train.run.progress import Display
from modelstack.train.run.recipe import RunRecipe, resolve
from tests.modelstack.train.pictures import without_pictures
from tests.modelstack.train.run.toy_run import (
    torchrun,
    torchrun_by_forks,
    toy_recipe,
    toy_values,
    write_text,
    write_toml,
)
from tests.processes import modelstack

pytestmark = pytest.mark.xdist_group("train_command")

WITHOUT_BASELINES = {"every": 10, "max_megabytes": 0.01, "baselines": False}
"""Evaluation of the runs whose report no test reads: baselines are fitted, and the curves drawn with them."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "toy.jsonl")


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert launch(resolve(toy_recipe(text)), folder, None, Console(quiet=True))
    return folder


def run(recipe: RunRecipe, folder: Path) -> bool:
    with without_pictures():
        return launch(resolve(recipe), folder, None, Console(quiet=True))


def losses(folder: Path) -> list[float | None]:
    steps = read_metrics(folder / "metrics.jsonl").steps
    assert [record.step for record in steps] == list(range(len(steps)))
    return [record.losses["total"] for record in steps]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns_and_leaves_a_model_that_loads_with_its_measurements_and_samples(whole: Path) -> None:
    first, *_, last = losses(whole)
    assert first is not None and last is not None and last < first - 1
    evaluations = read_metrics(whole / "metrics.jsonl").evaluations
    assert [record.step for record in evaluations] == [9, 19]
    assert "Continuation:" in (whole / "samples.md").read_text()
    assert (whole / "curves.png").stat().st_size > 1000
    assert load_checkpoint(whole / "model").config.vocab_size == 320


def test_a_killed_run_goes_on_and_comes_to_the_same_bit_for_bit(text: Path, whole: Path, tmp_path: Path) -> None:
    recipe = write_toml(
        tmp_path / "r.toml",
        toy_values(text, evaluation=WITHOUT_BASELINES, faults=[{"kind": "sigkill", "step": 13}]),
    )
    killed = modelstack("train", recipe, "--out", tmp_path / "run")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = modelstack("train", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 10 of 20" in done.stdout
    assert losses(tmp_path / "run") == losses(whole)
    assert equal(weights(tmp_path / "run"), weights(whole))


def test_a_run_that_is_asked_to_stop_saves_after_the_step_in_flight_and_goes_on(
    text: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = Display.after_step

    def ask(self: Display, run: Any, report: Any) -> None:
        after_step(self, run, report)
        if report.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    recipe = toy_recipe(text, evaluation=WITHOUT_BASELINES)
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(Display, "after_step", ask)
        assert not run(recipe, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (tmp_path / "run" / "checkpoints" / "step-00000007").is_dir()
    assert not (tmp_path / "run" / "model").exists()
    assert run(recipe, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)
    assert equal(weights(tmp_path / "run"), weights(whole))


def test_a_decay_branches_off_a_stable_run(text: Path, tmp_path: Path) -> None:
    stable = {"schedule": {"warmup_steps": 4}, "evaluation": WITHOUT_BASELINES | {"every": 50}}
    assert run(toy_recipe(text, **stable), tmp_path / "stable")
    at = {"run": str(tmp_path / "stable"), "step": 15, "decay_steps": 4}
    assert run(toy_recipe(text, **stable, branch=at), tmp_path / "branch")
    records = read_metrics(tmp_path / "branch" / "metrics.jsonl").steps
    assert [record.step for record in records] == [15, 16, 17, 18]
    rates = [record.learning_rates["embedding"] for record in records]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    trunk = read_metrics(tmp_path / "stable" / "metrics.jsonl").steps
    assert records[0].losses == trunk[15].losses
    gone = {"run": str(tmp_path / "stable"), "step": 7, "decay_steps": 4}
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        run(toy_recipe(text, **stable, branch=gone), tmp_path / "gone")


def test_a_plan_is_obeyed(text: Path, tmp_path: Path) -> None:
    shape = resolve(toy_recipe(text)).model.with_(vocab_size=320)
    request = PlanRequest(budget_flops=5e8, preset="toy", context=64, precision="fp32")
    write_plan(plan(request, shape), tmp_path / "plan")
    decided = read_plan(tmp_path / "plan")
    values = toy_values(text, plan="plan", evaluation=WITHOUT_BASELINES)
    for key in ("steps", "rows", "model", "schedule", "optimizer", "tokenizer"):
        del values[key]
    del values["data"]["row_tokens"]
    recipe = write_toml(tmp_path / "r.toml", values)
    done = modelstack("train", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    records = read_metrics(tmp_path / "run" / "metrics.jsonl").steps
    assert len(records) == decided.schedule.n_steps
    assert records[-1].n_tokens == decided.n_tokens
    assert max(record.learning_rates["embedding"] for record in records) == pytest.approx(
        decided.learning_rate.value
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "start"),
    [({"shard": 2}, torchrun), ({"tp": 2}, torchrun_by_forks), ({"pp": 2}, torchrun_by_forks)],
    ids=["shard", "tp", "pp"],
)
def test_two_processes_one_of_them_killed_come_to_the_same_as_one(
    text: Path, whole: Path, tmp_path: Path, layout: dict[str, int], start: Callable[..., CompletedProcess[str]]
) -> None:
    changes = {"parallel": {"layout": layout}, "faults": [{"kind": "sigkill", "step": 13, "rank": 1}]}
    micro = {"micro_batches": 2} if "pp" in layout else {}
    values = toy_values(text, evaluation=WITHOUT_BASELINES, **changes, **micro)
    recipe = write_toml(tmp_path / "r.toml", values)
    done = start("train", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 10 of 20" in done.stdout
    assert "on the fullest of 2 ranks" in done.stdout
    memory = read_metrics(tmp_path / "run" / "metrics.jsonl").memory
    assert {record.after for record in memory} == {"start", "training"}
    assert all(len(record.peak_bytes) == 2 and min(record.peak_bytes) > 50e6 for record in memory)
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=2e-5)
    one, two = weights(whole), weights(tmp_path / "run")
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 2e-4


def test_a_folder_in_which_another_process_works_is_left_alone(text: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.held(), pytest.raises(UserError, match="another process works in it"):
        run(toy_recipe(text), folder.path)
    assert not folder.recipe.exists()
