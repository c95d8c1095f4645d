"""Notes on what did not go as wished in a step."""

from __future__ import annotations

from pathlib import Path

from modelstack.pipeline.work.tuned import notes_on_steps
from modelstack.stability.run_events import EVENTS_FILE, Stepped


def write_steps(folder: Path, n: int, n_rejected: int) -> Path:
    steps = [Stepped(time=float(step), step=step, seconds=1, is_rejected=step < n_rejected) for step in range(n)]
    lines = "".join(step.model_dump_json() + "\n" for step in steps)
    folder.mkdir()
    (folder / EVENTS_FILE).write_text(lines, encoding="utf-8")
    return folder


def test_many_rejected_steps_are_told_and_a_few_are_not(tmp_path: Path) -> None:
    assert notes_on_steps(write_steps(tmp_path / "few", 100, 2)) == ()
    (note,) = notes_on_steps(write_steps(tmp_path / "many", 100, 3))
    assert "rejected 3 of 100 steps" in note
