"""A stage is whole or none, and whatever was changed in it is told by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.posttrain.stages.record import StageRecord
from modelstack.posttrain.stages.stage import STAGE_FILE, is_stage, open_stage, seal
from tests.modelstack.posttrain.toy_stages import BASE, toy_record, toy_stage


def test_a_stage_opens_as_it_was_sealed(tmp_path: Path) -> None:
    sealed = toy_stage(tmp_path / "one", "one")
    opened = open_stage(tmp_path / "one")
    assert opened.record == sealed.record
    assert opened.origin.sha256 == sealed.record.fingerprint
    assert opened.weights == tmp_path / "one" / "adapter"
    assert sorted(opened.record.files) == [
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "metrics.jsonl",
    ]


def test_the_card_says_what_the_record_says(tmp_path: Path) -> None:
    toy_stage(tmp_path / "one", "one")
    page = (tmp_path / "one" / "README.md").read_text()
    for said in (
        "LoRA of rank 4 on toy calls.",
        "toy.gguf (base",
        "| exact calls | 0.2500 (0.1000 to 0.4000, n = 40) | 0.7500 (0.6000 to 0.9000, n = 40) | +0.5000 |",
        "CC0-1.0 3",
        '"dropped": 5',
        "2 training examples were longer than a row",
        "| loss | 0.5 |",
        '"rank": 4',
    ):
        assert said in page


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "adapter" / "adapter_config.json").unlink(), "adapter/adapter_config.json is missing"),
        (lambda f: (f / "metrics.jsonl").write_text("{}\n\n"), "metrics.jsonl has 4 bytes, the record has 3"),
        (
            lambda f: _flip(f / "adapter" / "adapter_model.safetensors"),
            "adapter_model.safetensors has changed content",
        ),
        (lambda f: _flip(f / "README.md"), "README.md has changed content"),
        (lambda f: (f / "adapter" / "more.safetensors").write_text(""), "adapter/more.safetensors was added"),
    ],
)
def test_a_file_that_was_changed_is_named(tmp_path: Path, change: Callable[[Path], object], told: str) -> None:
    toy_stage(tmp_path / "one", "one")
    change(tmp_path / "one")
    with pytest.raises(UserError, match=f"stage .*one differs from its record: .*{told}"):
        open_stage(tmp_path / "one")


def test_a_figure_that_was_improved_afterwards_is_told(tmp_path: Path) -> None:
    toy_stage(tmp_path / "one", "one")
    file = tmp_path / "one" / STAGE_FILE
    file.write_text(file.read_text().replace("0.75", "0.95"))
    with pytest.raises(UserError, match=r"stage.json was changed after the stage was made"):
        open_stage(tmp_path / "one")


def test_a_record_that_is_none_names_its_key(tmp_path: Path) -> None:
    toy_stage(tmp_path / "one", "one")
    file = tmp_path / "one" / STAGE_FILE
    content = json.loads(file.read_text())
    content["stage"]["seed"] = "seven"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a record of a stage: seed"):
        open_stage(tmp_path / "one")
    file.write_text("{")
    with pytest.raises(UserError, match="not a record of a stage"):
        open_stage(tmp_path / "one")


def test_a_folder_without_a_record_is_a_run_under_way(tmp_path: Path) -> None:
    assert not is_stage(tmp_path)
    with pytest.raises(UserError, match="is not a stage"):
        open_stage(tmp_path)


def test_a_stage_never_changes(tmp_path: Path) -> None:
    toy_stage(tmp_path / "one", "one")
    with pytest.raises(UserError, match="never changes"):
        seal(tmp_path / "one", toy_record("one"), ("adapter",))


def test_a_part_that_is_missing_leaves_no_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no 'adapter'"):
        seal(tmp_path, toy_record("one"), ("adapter",))
    assert not is_stage(tmp_path)


def test_a_fingerprint_stays_where_a_later_version_knows_more_keys(tmp_path: Path) -> None:
    class Later(StageRecord, frozen=True):
        colour: str = "none"

    record = toy_record("one")
    later = Later.model_validate(record.model_dump())
    assert later.fingerprint == record.fingerprint
    assert Later.model_validate(record.model_dump() | {"colour": "red"}).fingerprint != record.fingerprint


def test_only_a_base_has_no_parents() -> None:
    with pytest.raises(ValueError, match="only a base has none"):
        toy_record("one", parents=())
    assert toy_record("one", kind="base", parents=()).origin.parents == ()


def test_an_origin_remembers_its_own_ancestors(tmp_path: Path) -> None:
    one = toy_stage(tmp_path / "one", "one")
    two = toy_stage(tmp_path / "two", "two", one.origin, kind="preference")
    assert two.origin.parents == (one.origin,)
    assert two.origin.parents[0].parents == (BASE,)
    assert "one (sft" in (tmp_path / "two" / "README.md").read_text()


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
