"""Lineage of stages: a forest of all stages and pretrained models in some folders and of their recorded ancestors.

A node is identified by its fingerprint, so a parent is found in any folder. A parent whose folder is missing is
shown by the name and hash that its children recorded. Damaged stages stay in the tree with their faults, because
showing them is the purpose of the tree. The model of a run of `modelstack train` is a root. The run has no record
of its files to check, so its state says only that it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelstack.errors import UserError
from modelstack.posttrain.base_hash import base_sha256
from modelstack.posttrain.stages.card import change, shown
from modelstack.posttrain.stages.record import Origin, StageRecord
from modelstack.posttrain.stages.stage import MODEL, STAGE_FILE, faults_of, is_stage, read_record
from modelstack.terminal.tables import Column, Table

if TYPE_CHECKING:
    from rich.tree import Tree

State = Literal["whole", "here", "damaged", "not here"]
_STYLES: dict[State, str] = {"whole": "green", "here": "green", "damaged": "bold red", "not here": "dim"}
_SHORT = 12
TRAINING_FILE = "training.json"
"""Origin of a checkpoint, beside its weights; `train.run.finish` writes it."""


@dataclass(slots=True)
class Node:
    """A stage or a run in one of the folders, or an ancestor known only from the records of its descendants."""

    name: str
    kind: str
    sha256: str
    state: State
    path: Path | None = None
    record: StageRecord | None = None
    faults: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    """SHA-256 of each parent."""
    children: list[str] = field(default_factory=list[str])
    about: str = ""
    """Sentence about a run without a record: its length, and its loss on held-out text."""


def find_stages(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of all stages and finished pretraining runs in or below some folders.

    They are without duplicates, in the order of the given folders.

    Raises:
        UserError: A folder is missing, or holds neither stage nor run.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name a stage, or a folder with stages in it")
        runs = [file.parents[1] for file in folder.rglob(f"{MODEL}/{TRAINING_FILE}") if _pretraining(file)]
        here = sorted({file.parent for file in folder.rglob(STAGE_FILE)} | {*runs})
        if not here:
            raise UserError(
                f"no stage in {folder}: none of its folders has a {STAGE_FILE}, or the {MODEL}/{TRAINING_FILE} "
                f"of a finished pretraining"
            )
        found |= {path.resolve(): None for path in here}
    return list(found)


def lineage(stages: Sequence[Path]) -> dict[str, Node]:
    """Return all stages and ancestors by SHA-256, linked with their children; parents come first."""
    nodes: dict[str, Node] = {}
    here = [_examined(path) for path in stages]
    for node in here:
        for parent in node.record.parents if node.record else ():
            _remember(parent, nodes)
        known = nodes.get(node.sha256)
        nodes[node.sha256] = node if known is None or known.path is None else _of_copies(known, node)
    for node in list(nodes.values()):
        for parent in node.parents:
            nodes[parent].children.append(node.sha256)
    return nodes


def tree(nodes: dict[str, Node]) -> Tree:
    """Return the forest as a tree of rich.

    A node with several parents appears below each of them, its descendants only once.
    """
    from rich.tree import Tree

    forest = Tree("stages", hide_root=True)
    drawn: set[str] = set()
    for node in nodes.values():
        if not node.parents:
            _grow(forest, node, nodes, drawn)
    return forest


def table(nodes: dict[str, Node]) -> Table:
    """Return the nodes as a table, with their parents by name and abbreviated hash."""
    columns = ("name", "kind", "sha256", "state", "path", "parents", "faults")
    rows = [
        (
            node.name,
            node.kind,
            node.sha256,
            node.state,
            node.path,
            [f"{nodes[parent].name} {parent[:_SHORT]}" for parent in node.parents],
            list(node.faults),
        )
        for node in nodes.values()
    ]
    return Table(tuple(map(Column, columns)), rows)


def as_json(nodes: dict[str, Node]) -> list[dict[str, Any]]:
    """Return the nodes as plain data."""
    return [
        {
            "name": node.name,
            "kind": node.kind,
            "sha256": node.sha256,
            "state": node.state,
            "path": None if node.path is None else str(node.path),
            "faults": list(node.faults),
            "parents": list(node.parents),
            "children": node.children,
            "about": node.about,
            "evaluation": None if node.record is None else node.record.evaluation.model_dump(mode="json"),
        }
        for node in nodes.values()
    ]


def _examined(path: Path) -> Node:
    if not is_stage(path) and (training := _pretraining(path / MODEL / TRAINING_FILE)):
        about = (
            f"pretrained: {training['steps']:,} steps, {training['n_tokens']:,} tokens; "
            f"{training['held_out']['bits_per_byte']:.4f} bits per byte on held-out text"
        )
        return Node(path.resolve().name, "base", base_sha256(path / MODEL), "here", path, about=about)
    try:
        record = read_record(path)
    except UserError as error:
        # Its fingerprint cannot be trusted, so it is a separate root with the name of its folder.
        return Node(path.name, "unknown", f"unreadable {path}", "damaged", path, faults=(str(error),))
    faults = tuple(faults_of(path, record))
    parents = _names(record.parents)
    state: State = "damaged" if faults else "whole"
    return Node(record.name, record.kind, record.fingerprint, state, path, record, faults, parents)


def _pretraining(file: Path) -> dict[str, Any] | None:
    """Return the record of a finished run of `modelstack train`; None: the file is of another kind."""
    try:
        training = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_run = isinstance(training, dict) and {"steps", "n_tokens", "held_out"} <= training.keys()
    return training if is_run else None


def _of_copies(one: Node, other: Node) -> Node:
    """Return the node of a stage that exists in two folders, with the faults of both."""
    if one.state == "here":
        return one
    faults = (*one.faults, *(f"copy in {other.path}: {fault}" for fault in other.faults))
    return replace(one, faults=faults, state="damaged" if faults else "whole")


def _remember(origin: Origin, nodes: dict[str, Node]) -> None:
    """Add an ancestor and its own ancestors, unless the stage itself is already known."""
    for parent in origin.parents:
        _remember(parent, nodes)
    parents = _names(origin.parents)
    nodes.setdefault(origin.sha256, Node(origin.name, origin.kind, origin.sha256, "not here", parents=parents))


def _names(parents: Iterable[Origin]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parent.sha256 for parent in parents))


def _grow(branch: Tree, node: Node, nodes: dict[str, Node], drawn: set[str]) -> None:
    again = node.sha256 in drawn
    grown = branch.add(_label(node, again))
    if again:
        return
    drawn.add(node.sha256)
    for child in node.children:
        _grow(grown, nodes[child], nodes, drawn)


def _label(node: Node, again: bool) -> Any:
    from rich.text import Text

    label = Text.assemble(
        (node.name, "bold"),
        f" {node.kind} ",
        (node.sha256[:_SHORT], "cyan"),
        " ",
        (node.state, _STYLES[node.state]),
    )
    if again:
        return label.append(" (its own descendants are shown above)", style="dim")
    if node.about:
        label.append(f"\n{node.about}", style="dim")
    for fault in node.faults:
        label.append(f"\n{fault}", style="red")
    if node.record is not None:
        before = {each.name: each for each in node.record.evaluation.before}
        for each in node.record.evaluation.after:
            earlier = before.get(each.name)
            label.append(f"\n{each.name}: {shown(each)} {change(earlier, each)}".rstrip(), style="dim")
    if node.path is not None:
        label.append(f"\n{node.path}", style="dim")
    return label
