"""An unknown file is loaded in a child process first, once for each state of the file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelstack.inference.engine import EngineError
from modelstack.inference.llama import trial_load
from modelstack.inference.llama.trial_load import try_in_child
from modelstack.inference.remembered import RememberedFacts
from tests.modelstack.inference.raw_gguf import RawGGUF
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf, write_tiny_lora

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")

UNCHECKED = (
    "import sys, modelstack.inference.llama.model as m; m.check_model_file = lambda path: {}; "
    "from modelstack.inference.llama.trial_load import load; load(sys.argv[1:])"
)
"""A child that has no check of the header, as for a file that the check does not know."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return settled(write_tiny_gguf(tmp_path / "model.gguf"))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The exit codes of the children that were started."""
    codes: list[int] = []
    run = subprocess.run

    def noted(*arguments: Any, **options: Any) -> Any:
        done = run(*arguments, **options)
        codes.append(done.returncode)
        return done

    monkeypatch.setattr(trial_load.subprocess, "run", noted)
    monkeypatch.setattr(trial_load, "_survived", set())
    yield codes


def settled(file: Path) -> Path:
    """Wait until a file is old enough to be told from a later state."""
    while trial_load.files_key([file], "any") is None:
        os.sched_yield()
    return file


def test_a_sound_model_is_tried_once(model: Path, children: list[int]) -> None:
    for _ in range(2):
        try_in_child([model], None)
    assert children == [0]


def test_a_later_process_knows_what_survived(
    model: Path, tmp_path: Path, children: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = RememberedFacts(tmp_path / "facts")
    for _ in range(2):
        try_in_child([model], facts)
        monkeypatch.setattr(trial_load, "_survived", set())
    assert children == [0]


def test_a_changed_file_and_another_adapter_are_tried_again(
    model: Path, tmp_path: Path, children: list[int]
) -> None:
    try_in_child([model], None)
    try_in_child([model, settled(write_tiny_lora(tmp_path / "lora.gguf"))], None)
    os.utime(model)
    try_in_child([settled(model)], None)
    assert children == [0, 0, 0]


def test_a_file_that_ends_llama_cpp_ends_the_child_alone(
    model: Path, tmp_path: Path, children: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_load, "CHILD", UNCHECKED)
    file = RawGGUF.read(model)
    file.set("llama.block_count", 513)
    broken = settled(file.write(tmp_path / "broken.gguf"))
    for _ in range(2):
        with pytest.raises(
            EngineError, match=r"broken.gguf ended the child process \(SIG\w+\) in which"
        ) as caught:
            try_in_child([broken], RememberedFacts(tmp_path / "facts"))
        assert "fetch it again from a source that you trust" in str(caught.value)
    assert [code < 0 for code in children] == [True, True]


def test_an_ordinary_error_is_left_to_the_load_that_follows(tmp_path: Path, children: list[int]) -> None:
    file = tmp_path / "text.gguf"
    file.write_text("no model")
    try_in_child([settled(file)], None)
    assert children == [1]


def test_a_load_that_does_not_come_back_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_load, "_survived", set())
    monkeypatch.setattr(trial_load, "CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(trial_load, "TIMEOUT_S", 0.5)
    with pytest.raises(EngineError, match="within 0.5 s"):
        try_in_child([model], None)
