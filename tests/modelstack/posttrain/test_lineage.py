"""The tree of stages: parents by hash wherever they lie, what is damaged in its place, nothing hidden."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.posttrain.base_hash import base_sha256
from modelstack.posttrain.stages.lineage import find_stages, lineage, tree
from modelstack.posttrain.stages.record import Origin
from tests.modelstack.posttrain.toy_stages import BASE, toy_stage


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """base -> one -> (two, three) -> merged"""
    one = toy_stage(tmp_path / "one", "one")
    two = toy_stage(tmp_path / "deep" / "two", "two", one.origin, kind="preference")
    three = toy_stage(tmp_path / "three", "three", one.origin, kind="reasoning")
    toy_stage(tmp_path / "merged", "both", two.origin, three.origin, kind="merged")
    return tmp_path


def drawn(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(tree(lineage(find_stages([folder]))))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def depth_of(text: str, name: str) -> list[int]:
    return [line.index(name) // 4 for line in text.splitlines() if line.lstrip("│├└─ ").startswith(f"{name} ")]


def test_descendants_stand_under_their_parents(family: Path) -> None:
    text = drawn(family)
    assert depth_of(text, "toy.gguf") == [0]
    assert depth_of(text, "one") == [1]
    assert depth_of(text, "two") == [2] and depth_of(text, "three") == [2]
    assert depth_of(text, "both") == [3, 3]
    assert "its own descendants are shown above" in text
    assert "exact calls: 0.7500 (0.6000 to 0.9000, n = 40) +0.5000" in text


def test_ancestors_whose_folders_are_gone_are_shown(family: Path) -> None:
    nodes = lineage(find_stages([family / "merged"]))
    assert {node.name: node.state for node in nodes.values()} == {
        "toy.gguf": "not here",
        "one": "not here",
        "two": "not here",
        "three": "not here",
        "both": "whole",
    }
    assert nodes[BASE.sha256].children == [node.sha256 for node in nodes.values() if node.name == "one"]


def test_a_damaged_stage_is_named_in_its_place_and_by_the_exit_status(family: Path) -> None:
    (family / "deep" / "two" / "adapter" / "adapter_config.json").write_text("[]")
    result = CliRunner().invoke(app, ["stage", "lineage", str(family)])
    assert result.exit_code == 1
    assert "damaged: two in" in result.stderr
    assert "adapter/adapter_config.json has changed content" in result.stderr
    assert depth_of(drawn(family), "two") == [2]


def test_a_record_that_cannot_be_read_is_shown_by_its_folder(family: Path) -> None:
    (family / "three" / "stage.json").write_text("{}")
    nodes = lineage(find_stages([family]))
    assert [node.name for node in nodes.values() if node.state == "damaged"] == ["three"]
    # Its child remembers what it was.
    assert [node.state for node in nodes.values() if node.name == "three"] == ["not here", "damaged"]


def test_a_copy_that_is_damaged_is_told_of_beside_the_whole_one(family: Path) -> None:
    (family / "copy" / "adapter").mkdir(parents=True)
    for file in (family / "one").rglob("*.*"):
        if file.is_file():
            (family / "copy" / file.relative_to(family / "one")).write_bytes(file.read_bytes())
    (family / "copy" / "metrics.jsonl").unlink()
    nodes = lineage(find_stages([family / "one", family / "copy"]))
    (one,) = (node for node in nodes.values() if node.name == "one")
    assert one.state == "damaged"
    assert one.faults == (f"copy in {family / 'copy'}: metrics.jsonl is missing",)


def test_json_holds_every_node_with_its_links(family: Path) -> None:
    result = CliRunner().invoke(app, ["stage", "lineage", "--json", str(family)])
    assert result.exit_code == 0
    nodes = {node["name"]: node for node in json.loads(result.stdout)}
    assert nodes["both"]["parents"] == [nodes["two"]["sha256"], nodes["three"]["sha256"]]
    assert nodes["one"]["children"] == [nodes["two"]["sha256"], nodes["three"]["sha256"]]
    assert nodes["toy.gguf"]["state"] == "not here" and nodes["one"]["state"] == "whole"
    assert nodes["one"]["evaluation"]["after"][0]["value"] == 0.75


def test_a_folder_without_stages_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage in"):
        find_stages([tmp_path])
    with pytest.raises(UserError, match="is not a folder"):
        find_stages([tmp_path / "nowhere"])


def pretrained(folder: Path, **record: object) -> str:
    """Write what a finished run of `modelstack train` leaves, and return the hash of its model."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    held_out = {"bits_per_byte": 1.5}
    (model / "training.json").write_text(
        json.dumps({"steps": 200, "n_tokens": 1_638_400, "held_out": held_out} | record)
    )
    return base_sha256(model)


def test_a_pretraining_run_is_the_root_of_the_stages_trained_from_its_model(tmp_path: Path) -> None:
    sha256 = pretrained(tmp_path / "nano")
    toy_stage(tmp_path / "tools", "tools", Origin(kind="base", name="nano", sha256=sha256))
    text = drawn(tmp_path)
    assert depth_of(text, "nano") == [0] and depth_of(text, "tools") == [1]
    assert "pretrained: 200 steps, 1,638,400 tokens; 1.5000 bits per byte on held-out text" in text
    result = CliRunner().invoke(app, ["stage", "lineage", "--json", str(tmp_path / "nano")])
    (node,) = json.loads(result.stdout)
    assert (node["name"], node["kind"], node["sha256"], node["state"]) == ("nano", "base", sha256, "here")


def test_a_run_that_is_not_finished_and_a_copy_are_not_roots_of_their_own(tmp_path: Path) -> None:
    pretrained(tmp_path / "nano")
    pretrained(tmp_path / "copy")
    (tmp_path / "under-way" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other" / "model").mkdir(parents=True)
    (tmp_path / "other" / "model" / "training.json").write_text('{"steps": 1}')
    assert len(find_stages([tmp_path])) == 2
    assert len(lineage(find_stages([tmp_path]))) == 1
