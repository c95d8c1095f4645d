"""The page printed by `modelstack` without arguments: the steps in order, and the latest runs of a folder.

It is plain text in 80 columns, equal on a terminal and in a pipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from textwrap import wrap

from modelstack.commands.steps import STEPS

WIDTH, NO_BREAK_SPACE = 80, "\u00a0"
N_RUNS = 5
"""Number of runs on the page."""
_STEP_OF_STAGE = {
    "base": "train",
    "sft": "sft",
    "preference": "preferences",
    "reasoning": "reasoning",
    "distilled": "reasoning",
    "merged": "reasoning",
    "drafter": "inference",
    "guard": "align",
}
"""Step by the kind in a stage's record."""
_MARKS = {
    "plan.json": "decide",
    "replies.jsonl": "reasoning",
    "runs.jsonl": "train",
    "law.json": "decide",
    "attempts.jsonl": "data",
    "pipeline.json": "pipeline",
    "card.md": "data",
    "train.jsonl.zst": "data",
    "quality.safetensors": "data",
    "sae.md": "align",
    "report.md": "train",
    "ablation.md": "architecture",
    "config.json": "architecture",
    "tokenizer.json": "tokenizer",
}
"""Step by the file that its command writes; the first match counts."""
_KEYS = {
    "optimizer": "sft",
    "method": "preferences",
    "max_normalised": "preferences",
    "critic": "reasoning",
    "algorithm": "reasoning",
    "teacher": "reasoning",
    "parents": "reasoning",
    "tasks": "reasoning",
    "policies": "align",
    "sae": "align",
    "tokenizer": "train",
}
"""Step by a key in the recipe of an unfinished run; the last match counts."""


@dataclass(frozen=True, slots=True)
class FoundRun:
    """Folder of a run or a stage."""

    path: Path
    step: str
    is_finished: bool
    changed: float
    """Time of the last change, in seconds since 1970."""


def overview(runs: Path) -> str:
    """Return the page.

    Args:
        runs: Folder of the runs.
    """
    lines = ["modelstack: models of your own, in twelve steps", ""]
    for number, step in enumerate(STEPS, 1):
        lines.append(f"{number:2}  {step.name:13} {step.about}")
        lines += _wrapped(step.commands)
    found = sorted(runs_in(runs), key=lambda run: run.changed, reverse=True)
    if found:
        lines += ["", f"Last in {runs}"]
    for run in found[:N_RUNS]:
        when = datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M")
        state = "" if run.is_finished else "  not finished"
        lines.append(f"    {run.step:13} {when}  {_shortened(run.path.name, 31)}{state}")
    lines += [
        "",
        "modelstack COMMAND --help says what a command reads and writes.",
        "modelstack recipes lists the recipes in the package.",
    ]
    return "\n".join(lines)


def runs_in(folder: Path) -> Iterator[FoundRun]:
    """Yield the direct subfolders that a command of a step wrote."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        for look in (_stage, _marked, _under_way):
            if path.is_dir() and (found := look(path)):
                yield found
                break


def _wrapped(commands: Iterable[str]) -> list[str]:
    """Return lines of commands, none of which is broken at the spaces in it."""
    told = ", ".join(command.replace(" ", NO_BREAK_SPACE) for command in commands)
    lines = wrap(told, WIDTH, initial_indent=" " * 18, subsequent_indent=" " * 18, break_on_hyphens=False)
    return [line.replace(NO_BREAK_SPACE, " ") for line in lines]


def _stage(path: Path) -> FoundRun | None:
    file = path / "stage.json"
    if not file.is_file():
        return None
    kind = _within(file, ("stage", "kind"))
    return FoundRun(path, _STEP_OF_STAGE.get(str(kind), "stage"), True, file.stat().st_mtime)


def _marked(path: Path) -> FoundRun | None:
    for name, step in _MARKS.items():
        if (path / name).is_file():
            return FoundRun(path, step, True, (path / name).stat().st_mtime)
    return None


def _under_way(path: Path) -> FoundRun | None:
    file = path / "recipe.json"
    recipe = _within(file, ("resolved", "recipe")) if file.is_file() else None
    if not isinstance(recipe, dict):
        return None
    steps = [step for key, step in _KEYS.items() if key in recipe]
    return FoundRun(path, steps[-1], False, file.stat().st_mtime) if steps else None


def _within(file: Path, keys: Sequence[str]) -> object:
    """Return the value in a JSON file under nested keys, outermost first; None if it is missing."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _shortened(name: str, n: int) -> str:
    return name if len(name) <= n else f"{name[: n - 3]}..."
