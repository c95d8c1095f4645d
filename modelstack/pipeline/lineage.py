"""Lineage of a pipeline: all its steps with their state, every file checked against the records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from modelstack.errors import UserError
from modelstack.pipeline.record import faults_of, read_record
from modelstack.pipeline.steps import BY_NAME, MODEL, STEPS
from modelstack.terminal.tables import Column, Table

if TYPE_CHECKING:
    from rich.tree import Tree

STATE_FILE = "pipeline.json"
_SHORT = 12
WHAT_COLUMNS = 44
"""Columns of an outcome in the tree, whose deepest step begins at column 36 of 80."""


@dataclass(frozen=True, slots=True)
class StepNode:
    """A step of a finished or unfinished pipeline."""

    number: int
    name: str
    state: str
    """whole, damaged, skipped, or not here."""
    digest: str
    parents: tuple[str, ...]
    what: str
    faults: tuple[str, ...]
    path: Path


def is_pipeline(folder: Path) -> bool:
    """Return whether a folder holds a pipeline."""
    return (folder / STATE_FILE).is_file()


def step_nodes(folder: Path) -> list[StepNode]:
    """Return all steps of a pipeline in order, after checking each file against its record.

    Raises:
        UserError: The state cannot be read.
    """
    skipped = _skipped(folder)
    nodes: list[StepNode] = []
    newest_model = ""
    for step in STEPS:
        path = folder / step.folder
        faults: tuple[str, ...] = ()
        try:
            record = read_record(path)
        except UserError as error:
            record, faults = None, (str(error),)
        if record is None:
            state = "damaged" if faults else "skipped" if step.name in skipped else "not here"
            nodes.append(StepNode(step.number, step.name, state, "", (), "", faults, path))
            continue
        faults = tuple(faults_of(path, record))
        names = [newest_model if need == MODEL else need.partition("/")[0] for need in record.inputs]
        parents = tuple(dict.fromkeys(name for name in names if name in BY_NAME))
        state = "damaged" if faults else "whole"
        nodes.append(
            StepNode(step.number, step.name, state, record.digest, parents, record.result.what, faults, path)
        )
        if step.makes_model:
            newest_model = step.name
    return nodes


def stage_folders(folder: Path) -> list[Path]:
    """Return the folders of a pipeline that hold a stage or a finished pretraining."""
    places = [folder / step.folder for step in STEPS] + [folder / BY_NAME["inference"].folder / "served"]
    found = [place for place in places if (place / "stage.json").is_file()]
    trained = folder / BY_NAME["train"].folder
    return [trained, *found] if (trained / "model" / "training.json").is_file() else found


def table(nodes: list[StepNode]) -> Table:
    """Return the steps as a table."""
    columns = ("step", "name", "state", "output", "made from", "outcome")
    rows = [
        (node.number, node.name, node.state, node.digest[:_SHORT], ", ".join(node.parents), node.what)
        for node in nodes
    ]
    return Table(tuple(map(Column, columns)), rows, title="Steps of the pipeline")


def tree(nodes: list[StepNode]) -> Tree:
    """Return the steps as a tree of rich: each below the newest step that it read."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree("pipeline")
    drawn: dict[str, Any] = {}
    for node in nodes:
        label = Text.assemble(
            (f"{node.number} {node.name}", "bold"),
            " ",
            (node.digest[:_SHORT], "cyan"),
            " ",
            (node.state, {"whole": "green", "damaged": "bold red"}.get(node.state, "dim")),
            ("".join(f"\n{line}" for line in wrap(node.what, WHAT_COLUMNS)), "dim"),
        )
        for fault in node.faults:
            label.append(f"\n{fault}", style="red")
        parent = max((name for name in node.parents), key=lambda name: BY_NAME[name].number, default="")
        drawn[node.name] = drawn.get(parent, root).add(label)
    return root


def _skipped(folder: Path) -> set[str]:
    try:
        steps = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["steps"]
        return {step["name"] for step in steps if step["status"] == "skipped"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / STATE_FILE} cannot be read: {error!r}") from error
