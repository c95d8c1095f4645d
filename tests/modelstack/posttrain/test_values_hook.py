"""The file of a run's rewards: a line a step, also after a kill, and read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelstack.posttrain.values_hook import ValuesHook
from modelstack.train.step import StepReport

RUN: Any = None


class Passes:
    metrics = {"reward": 0.5}


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_of_many_steps_reads_its_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rewards.jsonl"
    ValuesHook(file, Passes()).after_step(RUN, StepReport(0))
    reads: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), read_bytes(path))[1])
    hook = ValuesHook(file, Passes())
    for step in range(1, 9):
        hook.after_step(RUN, StepReport(step))
    assert reads == [file] and steps(file) == list(range(9))


def test_lines_of_steps_that_are_taken_again_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "rewards.jsonl"
    killed = ValuesHook(file, Passes())
    for step in range(5):
        killed.after_step(RUN, StepReport(step))
    with file.open("a", encoding="utf-8") as half:
        half.write('{"step": 5, "rew')
    resumed = ValuesHook(file, Passes())
    for step in (3, 4, 5):
        resumed.after_step(RUN, StepReport(step))
    assert steps(file) == list(range(6))
    resumed.after_step(RUN, StepReport(4))  # put back within a process
    assert steps(file) == list(range(5))
