"""Driver that kills a pipeline at drawn moments: it starts the command again and names outputs that differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelstack.pipeline.measuring import FOLDER as EVALUATIONS
from modelstack.pipeline.steps import STEPS
from tests.modelstack.pipeline import killed_pipeline
from tests.modelstack.pipeline.killed_pipeline import STATE_FILE, differences, drawn_moments, run_killed

WAITS = """\
import pathlib, signal, sys
if not pathlib.Path(sys.argv[1]).exists():
    signal.pause()
"""


def test_moments_are_in_order_within_the_time_and_follow_the_seed() -> None:
    moments = drawn_moments(100, 5, seed=1)
    assert moments == sorted(moments) and moments[0] >= 0 and moments[-1] <= 100
    assert moments == drawn_moments(100, 5, seed=1) != drawn_moments(100, 5, seed=2)


def test_a_killed_command_is_started_again_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / STEPS[0].folder).mkdir()
    (tmp_path / STEPS[0].folder / "step.json").write_text("{}", encoding="utf-8")
    over = tmp_path / "over"
    asked: list[Path] = []

    def unfinished(folder: Path) -> str:
        """Return the step, and let the command end after the second kill."""
        asked.append(folder)
        if len(asked) == 2:
            over.touch()
        return step_of(folder)

    step_of = killed_pipeline.unfinished
    monkeypatch.setattr(killed_pipeline, "unfinished", unfinished)
    killed = run_killed([sys.executable, "-c", WAITS, str(over)], tmp_path, (0.1, 0.2))
    assert [each.step for each in killed] == [STEPS[1].name] * 2
    assert killed[0].after_s < killed[1].after_s


def test_a_command_that_fails_by_itself_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_killed([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, (60.0,))


def pipeline(folder: Path, digest: str, evaluation: str) -> Path:
    (folder / EVALUATIONS).mkdir(parents=True)
    (folder / EVALUATIONS / "05-train.json").write_text(evaluation, encoding="utf-8")
    steps = [{"name": "train", "status": "done", "digest": digest}, {"name": "sft", "status": "skipped"}]
    (folder / STATE_FILE).write_text(json.dumps({"steps": steps}), encoding="utf-8")
    return folder


def test_another_hash_and_another_evaluation_are_named(tmp_path: Path) -> None:
    whole = pipeline(tmp_path / "whole", "a", "{}")
    assert differences(whole, pipeline(tmp_path / "same", "a", "{}")) == []
    assert differences(whole, pipeline(tmp_path / "hash", "b", "{}")) == ["train"]
    assert differences(whole, pipeline(tmp_path / "figure", "a", "{1}")) == [f"{EVALUATIONS}/05-train.json"]
