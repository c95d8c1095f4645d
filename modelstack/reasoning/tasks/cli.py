"""`modelstack tasks`: a file of verifiable tasks to reinforce a model with, or to measure it on."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.reasoning.tasks.writing.written import Side, Source


class TaskKind(StrEnum):
    """What tasks can be made of."""

    gym = "gym"
    json = "json"
    effects = "effects"


class TaskSide(StrEnum):
    """What a file is for; no prompt is on both sides, whatever the seeds."""

    train = "train"
    held_back = "held-back"


class Form(StrEnum):
    """How an answer of reasoning-gym is to be written."""

    marked = "marked"
    bare = "bare"
    equation = "equation"


def tasks(
    kind: Annotated[TaskKind, typer.Argument(help="Puzzles of reasoning-gym, strict JSON, calls with effects.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file, JSONL.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many tasks.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")] = 0,
    side: Annotated[TaskSide, typer.Option("--side", help="To train on, or held back.")] = TaskSide.train,
    canaries: Annotated[
        float, typer.Option("--canaries", min=0, max=0.5, help="Share of tasks to train on that nobody can do.")
    ] = 0.02,
    gym: Annotated[str, typer.Option("--gym", help="gym: the generator.")] = "chain_sum",
    level: Annotated[int | None, typer.Option("--level", min=0, help="gym: the difficulty.")] = None,
    config: Annotated[str, typer.Option("--config", help="gym: settings of the generator, a JSON object.")] = "{}",
    form: Annotated[Form, typer.Option("--form", help="gym: how an answer is written.")] = Form.marked,
    shots: Annotated[int, typer.Option("--shots", min=0, help="gym: examples before the question.")] = 1,
) -> None:
    """Write a file of verifiable tasks, for `modelstack reinforce`."""
    from modelstack.reasoning.tasks.writing.written import tasks_of, write_tasks

    options = {"task": gym, "level": level, "config": _object(config), "form": form.value, "shots": shots}
    made = tasks_of(_source(kind, seed, options), cast("Side", side.value), n, seed, canaries)
    n_written = write_tasks(out, made)
    typer.echo(f"{out}: {n_written} tasks ({kind.value}, {side.value}, seed {seed}), verifier = {kind.value!r}")


def _source(kind: TaskKind, seed: int, options: dict[str, Any]) -> Source:
    match kind:
        case TaskKind.gym:
            from modelstack.reasoning.tasks.writing.gym_tasks import GymSettings, gym_source

            return gym_source(GymSettings(**options), seed)
        case TaskKind.json:
            from modelstack.reasoning.tasks.writing.json_tasks import json_source

            return json_source()
        case TaskKind.effects:
            from modelstack.reasoning.tasks.writing.effect_tasks import effects_source

            return effects_source()


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--config is {text[:60]!r}, and no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"--config is {text[:60]!r}; it is a JSON object, as '{{\"min_terms\": 2}}'")
    return found
