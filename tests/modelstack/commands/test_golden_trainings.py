"""Output of the commands that train, as golden files: trainings of a few steps on one toy model."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelstack.architecture.ablation import running
from modelstack.architecture.ablation.training import Outcome
from modelstack.decide.scaling_laws import BESIROGLU
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.terminal.progress_bars import activity, progress_bars
from modelstack.train.run import progress, sweep
from modelstack.train.run.progress import Display
from tests.golden import Golden, Replace
from tests.modelstack.posttrain.toy_trainings import METHODS, World, write_world
from tests.modelstack.reasoning.merging.toy_merging import adapter_stage
from tests.modelstack.train.run.toy_run import toy_values, write_text, write_toml

RUNS: Replace = (
    (r"[\d,]+(\s+)tokens/s", r"10,000\1tokens/s"),
    (r"at the start: [\d.]+ [MG]B", "at the start: 400 MB"),
    (r"norm \d+\.\d\d", "norm 1"),
    *((rf"(\d\.\d)\d{{{n}}}\b", rf"\1{'x' * n}") for n in (1, 2, 3, 4)),
)
"""Output that differs between machines: speeds, memory, and the last digits of measurements."""

pytestmark = [pytest.mark.usefixtures("no_pictures"), pytest.mark.xdist_group("golden_trainings")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, no_pictures: None) -> World:
    return write_world(tmp_path_factory.mktemp("trainings"))


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let four seconds pass between two reports of progress."""
    seconds = itertools.count(0.0, 4.0)
    for shown in (progress_bars, activity):
        monkeypatch.setattr(progress, shown.__name__, partial(shown, clock=lambda: next(seconds)))


def remove_runs() -> None:
    shutil.rmtree("runs", ignore_errors=True)


def write_pretraining(**changes: Any) -> None:
    """Write the recipe toy.toml, and its text."""
    text = write_text(Path("toy.jsonl"), 200)
    schedule = {"warmup_steps": 2, "decay_steps": 4}
    write_toml(Path("toy.toml"), toy_values(text, **{"steps": 10, "schedule": schedule} | changes))


def test_a_pretraining_shows_evaluations_and_the_model_beside_baselines(golden: Golden) -> None:
    write_pretraining()
    golden.check("train", "train toy.toml", replace=RUNS, before=remove_runs)


def test_a_long_training_in_a_pipe_has_a_line_every_ten_seconds(golden: Golden, quick_clock: None) -> None:
    write_pretraining(evaluation={"every": 10, "max_megabytes": 0.01, "baselines": False})
    golden.check("train-long", "train toy.toml", replace=RUNS, before=remove_runs)


def test_a_training_that_is_stopped_says_how_to_resume_it(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pretraining(evaluation={"every": 10, "max_megabytes": 0.01, "baselines": False})
    after_step = Display.after_step

    def interrupt(self: Display, run: Any, report: Any) -> None:
        after_step(self, run, report)
        if report.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Display, "after_step", interrupt)
    golden.check("train-stopped", "train toy.toml", replace=RUNS, before=remove_runs)


def test_a_dry_run_shows_the_memory_of_a_layout(golden: Golden) -> None:
    collectives = (r"\d+(\s+)(all-gather|reduce-scatter)", r"9\1\2")  # decided by torch
    golden.check("train-dry-run", "train nano --dry-run parallel.layout.shard=2", replace=[collectives])


@pytest.mark.parametrize("name", METHODS)
def test_a_post_training_shows_its_measurements_before_and_after(golden: Golden, world: World, name: str) -> None:
    method = METHODS[name]
    write_toml(Path("toy.toml"), method.values(world, steps=2))
    golden.check(name, f"{method.command} toy.toml", replace=RUNS, before=remove_runs)


def test_a_finished_stage_is_left_alone(golden: Golden, world: World) -> None:
    write_toml(Path("toy.toml"), METHODS["sft"].values(world, steps=1))
    METHODS["sft"].run(world, Path("runs/toy"), steps=1)
    golden.check("sft-finished", "sft toy.toml")


def test_a_sweep_shows_its_runs_and_the_law_fitted_to_them(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "finished_runs", made_runs)
    text = write_text(Path("toy.jsonl"), 60)
    run = {key: value for key, value in toy_values(text, name="sizes").items() if key != "schedule"}
    budgets, sizes = [1e11, 2e11], [{"hidden_size": D, "intermediate_size": 2 * D} for D in (16, 64, 256)]
    write_toml(Path("sweep.toml"), {"budgets": budgets, "sizes": sizes, "run": run})
    golden.check("train-sweep", "train sweep sweep.toml --bootstrap 0", before=remove_runs)


def made_runs(take: object, runs: Sequence[sweep.Planned], **options: object) -> Iterator[tuple[int, Any]]:
    """Yield a record for each run, with the loss of a law."""
    for number, run in enumerate(runs):
        loss = BESIROGLU.loss(run.n_parameters, run.n_tokens)
        record = {
            "key": run.key,
            "n_parameters": run.n_parameters,
            "n_tokens": run.n_tokens,
            "loss": loss,
            "bits_per_byte": loss / 2,
            "budget": run.budget,
            "seconds": 3.0 + number,
            "size": {},
        }
        yield number, record


def test_an_ablation_shows_differences_from_the_base(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run", made_outcomes)
    write_text(Path("toy.jsonl"), 800)
    command = "ablate qk-norm nope moe --seeds 3 --text toy.jsonl"
    golden.check("ablate", command, replace=[(r"; \d+ s\b", "; 0 s")])


def made_outcomes(plan: running.Plan, folder: Path, *, on_finished: Any, **options: object) -> running.Outcomes:
    """Return a made outcome of each run of an ablation; one run diverged."""
    folder.mkdir(parents=True, exist_ok=True)
    found: running.Outcomes = {}
    gains = {"base": 0.0, "qk-norm": -0.05, "nope": 0.2, "moe": -0.01}
    for choice, seed in plan.runs():
        value = 2.4 + gains[choice.name] + seed / 100 + len(choice.name) * seed / 1000
        diverged = (choice.name, seed) == ("moe", 2)
        found[choice.name, seed] = Outcome(value, ((1, value),), 12.5, diverged)
        on_finished(choice.name, seed, found[choice.name, seed])
    return found


# -- stages without training --------------------------------------------------------------------------------


def write_sampling(world: World) -> None:
    """Write the recipe sample.toml."""
    tasks = {"tasks": world.files("tasks")["training"], "tasks_at_once": 4, "verifier": "math"}
    sampling = {"model": str(world.base), "replies": 3, "max_tokens": 5, "threads": 1, "device": "cpu"}
    write_toml(Path("sample.toml"), {"name": "sampled", **tasks, **sampling})


def test_replies_that_were_sampled_are_counted_with_the_reasons_of_those_that_were_dropped(
    golden: Golden, world: World
) -> None:
    write_sampling(world)
    golden.check("sample", "sample sample.toml", before=remove_runs)


def test_a_sampling_that_is_stopped_says_how_to_resume_it(
    golden: Golden, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sampling(world)
    sample = GroupSampler.sample

    def interrupt(self: GroupSampler, asked: Any, n_replies: int) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return sample(self, asked, n_replies)

    monkeypatch.setattr(GroupSampler, "sample", interrupt)
    golden.check("sample-stopped", "sample sample.toml", before=remove_runs)


def test_texts_are_continued_one_below_the_other(golden: Golden, world: World) -> None:
    speed = (r"in \d+\.\d s, [\d,]+ a second", "in 1.0 s, 10 a second")
    Path("model").symlink_to(world.base)
    golden.check("infer", "infer model two three --max-tokens 4", replace=[speed])


def test_a_merge_shows_what_became_of_its_parents(golden: Golden, world: World) -> None:
    for seed, name in enumerate(("sums", "calls")):
        adapter_stage(Path(name), world.checkpoint, seed)
    base = str(world.checkpoint)
    recipe = {"name": "both", "method": "ties", "parents": ["sums", "calls"], "base": base, "density": 0.5}
    write_toml(Path("ties.toml"), recipe)
    golden.check("merge", "merge ties.toml rank=4", replace=RUNS, before=remove_runs)
    golden.check("merge-models", "merge ties.toml name=whole", before=remove_runs)


def test_an_adapter_is_merged_into_its_base(golden: Golden, world: World) -> None:
    adapter_stage(Path("calls"), world.checkpoint, 0)
    golden.check(
        "stage-merge",
        ("stage", "merge", "calls", "runs/merged", "--weights", str(world.checkpoint), "--gguf", "q8_0"),
        replace=[(re.escape(str(world.folder)), "/home/ada")],
        before=remove_runs,
    )
