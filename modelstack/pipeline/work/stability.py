"""Step 6: drills on a copy of the beginning of the training, and the account of the training's time.

The first drill trains some steps twice: at once, and stopped by a kill in the middle and resumed. Both must end
with the same bits. The others inject a fault each; the guard must reject the step or roll back, and the run ends.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from modelstack.files import sha256_of
from modelstack.pipeline.job import StepJob
from modelstack.pipeline.recipe import fault_table
from modelstack.pipeline.record import StepResult, write_json
from modelstack.pipeline.work.train import training_recipe

RESULTS = "drills"
MUCH_TEXT_BYTES, DRILL_HELD_OUT = 4_000_000, 0.003
"""Size of the text from which drills hold out a smaller share."""


def work(job: StepJob) -> StepResult:
    """Run the drills and the account.

    Raises:
        UserError: A resumed run ended with other weights, or a fault damaged a run.
    """
    from modelstack.errors import UserError
    from modelstack.stability.fault_injection import read_ledgers
    from modelstack.stability.goodput import account
    from modelstack.stability.run_events import EVENTS_FILE, read_events

    steps, drills = job.recipe.stability.steps, job.folder / "runs"
    whole = _drill(job, drills / "whole", ())
    resumed = _drill(job, drills / "resumed", (), stop_at=steps // 2)
    if sha256_of(_weights(whole)) != sha256_of(_weights(resumed)):
        raise UserError("a run that was stopped and resumed ended with other weights than one that was not")
    rows: list[tuple[str, ...]] = [("resumed", "same weights, bit for bit", "")]
    outcomes: dict[str, Any] = {"resumed": "same bits"}
    for fault in job.recipe.stability.faults:
        run = _drill(job, drills / fault.replace("@", "-"), (fault_table(fault),))
        found = account(read_events(run / EVENTS_FILE), read_ledgers(run))
        answered = {name: n for name, n in found.counts.items() if n and not name.startswith("fault")}
        told = ", ".join(f"{name} {n}" for name, n in answered.items()) or "no reaction was needed"
        bits = _bits(run)
        rows.append((fault, told, f"{bits:.3f} bits per byte"))
        outcomes[fault] = {"reaction": answered, "bits_per_byte": bits}
    write_json(job.folder / RESULTS / "drills.json", outcomes)
    training = job.of("train/.")
    goodput = account(read_events(training / EVENTS_FILE), read_ledgers(training))
    shutil.rmtree(drills)
    return StepResult(
        what=f"resume gives the same bits; {len(rows) - 1} faults survived; goodput of step 5 {goodput.share:.0%}",
        content=(RESULTS,),
        facts={"goodput": round(goodput.share, 4), "drills": len(rows)},
        table=(("drill", "what happened", "end"), *rows),
    )


def _drill(job: StepJob, folder: Path, faults: tuple[dict[str, Any], ...], stop_at: int | None = None) -> Path:
    """Train a few steps from the beginning; `stop_at` trains in two parts, as after a kill."""
    from modelstack.train.run.launch import launch
    from modelstack.train.run.recipe import CheckpointRecipe, ScheduleRecipe, resolve

    steps = job.recipe.stability.steps
    recipe = training_recipe(job, faults=faults)
    quiet = Console(file=job.console.file, width=job.console.width)
    # A drill ends with a measurement of all held-out text, which takes longer than its steps where there is much.
    text_bytes = sum(file.stat().st_size for file in job.of("data/text").glob("*.jsonl"))
    held_out = recipe.data.held_out if text_bytes < MUCH_TEXT_BYTES else DRILL_HELD_OUT
    changes = {
        "steps": steps,
        "data": recipe.data.model_copy(update={"held_out": held_out}),
        "schedule": ScheduleRecipe(warmup_steps=2),
        "checkpoints": CheckpointRecipe(every=max(1, steps // 4), keep=2),
        "evaluation": recipe.evaluation.model_copy(
            update={"every": steps, "baselines": False, "max_megabytes": 0.01}
        ),
        "samples": recipe.samples.model_copy(update={"prompts": ()}),
    }
    if stop_at is not None:
        _stopped(recipe.model_copy(update=changes), folder, stop_at)
    launch(resolve(recipe.model_copy(update=changes)), folder, None, quiet)
    return folder


def _stopped(recipe: Any, folder: Path, step: int) -> None:
    """Train in a process of its own that a kill ends at a step."""
    from modelstack.processes import worker_context

    killed = recipe.model_copy(update={"faults": ({"kind": "sigkill", "step": step},)})
    process = worker_context().Process(target=_train_until_killed, args=(killed, folder))
    process.start()
    process.join()


def _train_until_killed(recipe: Any, folder: Path) -> None:
    from modelstack.train.run.launch import launch
    from modelstack.train.run.recipe import resolve

    launch(resolve(recipe), folder, None, Console(quiet=True))


def _weights(run: Path) -> Path:
    return run / "model" / "model.safetensors"


def _bits(run: Path) -> float:
    import json

    training = json.loads((run / "model" / "training.json").read_text(encoding="utf-8"))
    return float(training["held_out"]["bits_per_byte"])
