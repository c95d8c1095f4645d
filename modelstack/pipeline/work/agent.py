"""The last check: tasks answered by an agent with the released model, by the command that the recipe names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.record import StepResult, write_json

RESULTS = "results"
SHOWN = 300
"""Most characters of an answer that are kept for the page."""


def work(job: StepJob) -> StepResult:
    """Run the command for each task; a wrong answer is a result, not an error.

    Raises:
        UserError: The command's program is not installed.
    """
    from modelstack.errors import UserError

    table = job.recipe.agent
    beside = Path(sys.executable).parent
    program = shutil.which(table.command[0], path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise UserError(
            f"agent.command begins with {table.command[0]!r}, which is not installed here: install the package "
            f"with its extra `local`, or skip the step agent"
        )
    model = job.of("inference/served/model.gguf").resolve()
    rows: list[tuple[str, ...]] = []
    outcomes: list[dict[str, object]] = []
    notes: list[str] = []
    for each in table.tasks:
        named = {"task": each.task, "model": str(model), "python": sys.executable}
        words = [program, *(word.format(**named) for word in table.command[1:])]
        status, answer = _answered(words, table.timeout_s)
        is_right = status == 0 and each.expect.lower() in answer.lower()
        rows.append((each.task, answer[:SHOWN] or f"status {status}", "right" if is_right else "wrong"))
        outcomes.append({"task": each.task, "right": is_right, "status": status})
        if status:
            notes.append(f"{each.task!r} ended with status {status}")
    n_right = sum(bool(each["right"]) for each in outcomes)
    (job.folder / RESULTS).mkdir(exist_ok=True)
    write_json(job.folder / RESULTS / "tasks.json", outcomes)
    return StepResult(
        what=f"{n_right} of {len(outcomes)} tasks right",
        content=(RESULTS,),
        facts={"right": n_right, "tasks": len(outcomes)},
        table=(("task", "answer", ""), *rows),
        notes=tuple(notes),
    )


def _answered(words: list[str], timeout_s: float) -> tuple[int, str]:
    """Return the exit status and the answer of a command; what it says on standard error is in the step's log."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {timeout_s:g} s"
    return done.returncode, _output_of(done.stdout.decode("utf-8", "replace").strip())


def _output_of(text: str) -> str:
    """Return the answer in what a command printed: the key `output` of a JSON object, else all of it."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return str(found["output"]) if isinstance(found, dict) and "output" in found else text
