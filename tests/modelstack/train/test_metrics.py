"""Metrics: a line a step, whole after a kill, cut where a run goes on; the same as TensorBoard events."""

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelstack.errors import UserError
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import train
from modelstack.train.metrics import (
    EvaluationRecord,
    EventRecord,
    JsonLines,
    Metrics,
    Record,
    SpentRecord,
    StartRecord,
    StepRecord,
    TensorBoard,
    read_metrics,
    scalars,
    start_record,
)
from modelstack.train.utilisation import Peak, Utilisation
from tests.modelstack.train.toy_runs import toy_run


def step(n: int, time: float = 0.0, **values: Any) -> StepRecord:
    usual: dict[str, Any] = {
        "n_tokens": 40 * (n + 1),
        "losses": {"total": 2.0},
        "gradient_norm": 1.0,
        "learning_rates": {"matrix": 1e-3},
        "seconds": 0.5,
        "tokens_per_second": 80.0,
    }
    return StepRecord(step=n, time=time, **usual | values)


def test_each_step_is_a_line_with_its_losses_rates_and_utilisation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    run = toy_run(3)
    metrics = Metrics([JsonLines(path)], Utilisation(1e6, Peak(1e9, "given")))
    run.hooks = {"metrics": metrics}
    reports = list(train(run))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "step", "step", "step"]
    for line, report in zip(lines[1:], reports, strict=True):
        assert line["step"] == report.step
        assert line["n_tokens"] == 40 * (report.step + 1)
        assert line["losses"] == report.losses
        assert line["gradient_norm"] == report.gradient_norm
        assert line["learning_rates"] == {"group": 1e-2}
        assert line["tokens_per_second"] == pytest.approx(40 / report.seconds)
        assert line["mfu"] == pytest.approx(1e6 * 40 / report.seconds / 1e9)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics([JsonLines(path)])
    evaluation = EvaluationRecord(
        step=0,
        n_tokens=40,
        loss=3.0,
        bits_per_byte=2.0,
        low=1.5,
        high=2.5,
        n_documents=2,
        n_bytes=9,
        n_scored_tokens=4,
        seconds=0.1,
    )
    spent = SpentRecord(step=0, cause="samples", seconds=0.2)
    for record in (step(0), evaluation, spent):
        metrics.add(record)
    metrics.event("went back")
    metrics.close()
    measured = read_metrics(path)
    assert measured.steps == (step(0),)
    assert measured.evaluations == (evaluation,)
    assert measured.spent == (spent,)
    assert [(event.step, event.text) for event in measured.events] == [(0, "went back")]


def test_a_loss_that_is_not_finite_is_null_and_its_reason_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Metrics([JsonLines(path)]).add(
        step(0, losses={"total": math.nan}, gradient_norm=math.inf, rejected="loss is nan")
    )
    line = json.loads(path.read_text().splitlines()[1], parse_constant=lambda name: pytest.fail(name))
    assert (line["losses"]["total"], line["gradient_norm"], line["rejected"]) == (None, None, "loss is nan")
    assert read_metrics(path).steps[0].losses == {"total": None}


def test_a_run_that_goes_on_cuts_off_the_steps_it_takes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Metrics([JsonLines(path)])
    for n in range(5):
        first.add(step(n))
        first.event(f"after {n}")
    first.close()
    second = Metrics([JsonLines(path)])
    second.event("checkpoint skipped")
    second.add(step(3, losses={"total": 9.0}))
    second.close()
    measured = read_metrics(path)
    assert [record.step for record in measured.steps] == [0, 1, 2, 3]
    assert measured.steps[3].losses == {"total": 9.0}
    assert [event.text for event in measured.events] == ["after 0", "after 1", "after 2", "checkpoint skipped"]
    assert [(start.step, start.lost_steps) for start in measured.starts] == [(0, 0), (3, 2)]


def test_a_resumed_run_leaves_the_same_steps_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def steps(folder: Path, stops: tuple[int, ...]) -> list[tuple[int, Any, Any]]:
        for stop in stops:
            run = toy_run(8)
            metrics = Metrics([JsonLines(folder / "metrics.jsonl")])
            supervisor = GuardedRun(
                Guard(GuardConfig()), LocalStore(folder), SupervisorConfig(save_every=3), metrics.event
            )
            run.hooks, run.supervisor = {"metrics": metrics}, supervisor
            supervisor.resume(run)
            for report in train(run):
                if report.step == stop:
                    break
            metrics.close()
        return [(r.step, r.losses, r.gradient_norm) for r in read_metrics(folder / "metrics.jsonl").steps]

    whole = steps(tmp_path / "whole", (7,))
    assert [n for n, *_ in whole] == list(range(8))
    # Stopped behind the checkpoint of step 3, before any checkpoint, and behind that of step 6.
    assert steps(tmp_path / "stopped", (1, 4, 6, 7)) == whole


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Metrics([JsonLines(path)])
    first.add(step(0))
    first.close()
    with path.open("ab") as file:
        file.write(b'{"kind":"step","step":1,"lo')
    assert [record.step for record in read_metrics(path).steps] == [0]
    second = Metrics([JsonLines(path)])
    second.add(step(1))
    second.close()
    assert [record.step for record in read_metrics(path).steps] == [0, 1]


def test_a_broken_line_in_the_middle_names_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind":"event","step":0,"time":0,"text":"a"}\n{"kind":"none"}\n')
    with pytest.raises(UserError, match="line 2 is not a valid metrics record"):
        read_metrics(path)


def test_a_missing_file_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl cannot be read"):
        read_metrics(tmp_path / "absent.jsonl")


def test_lines_of_a_process_that_is_killed_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = f"""
import os, signal
from modelstack.train.metrics import EventRecord, JsonLines, Metrics
metrics = Metrics([JsonLines({str(path)!r})])
for n in range(50):
    metrics.add(EventRecord(step=n, text="x" * 1000))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -9
    assert [event.step for event in read_metrics(path).events] == list(range(50))


def test_a_full_disk_costs_lines_and_is_told_of_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics([JsonLines(path)])
    metrics.add(step(0))
    write = os.write

    def half_then_full(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        metrics.add(step(1))
        metrics.add(step(2))
    metrics.add(step(3))
    metrics.close()
    measured = read_metrics(path)
    assert [record.step for record in measured.steps] == [0, 3]
    assert [event.text for event in measured.events] == [
        "2 lines of metrics were not written: [Errno 28] No space left on device"
    ]


def test_a_start_says_what_was_lost_and_how_long_nothing_ran() -> None:
    first = start_record(0, [], [], now=100.0)
    assert (first.began, first.lost_steps, first.lost_seconds, first.down_seconds) == (100.0, 0, 0.0, 0.0)
    kept: list[Record] = [first, step(0, time=110.0)]
    cut: list[Record] = [step(1, time=120.0), step(2, time=135.0)]
    second = start_record(1, kept, cut, now=140.0)
    assert (second.began, second.lost_steps, second.lost_seconds, second.down_seconds) == (100.0, 2, 25.0, 5.0)
    # Killed again before a new checkpoint: the second start is cut too, and what it knew is carried on.
    third = start_record(1, kept, [second, step(1, time=150.0)], now=153.0)
    assert (third.lost_steps, third.lost_seconds, third.down_seconds) == (3, 35.0, 8.0)


def test_scalars_leave_out_what_is_not_finite() -> None:
    assert scalars(step(0, losses={"total": math.inf, "z": 0.1}, gradient_norm=math.nan)) == {
        "loss/z": 0.1,
        "learning_rate/matrix": 1e-3,
        "speed/tokens_per_second": 80.0,
        "rejected": 0.0,
    }
    assert scalars(EventRecord(step=0, text="a")) == {}
    assert scalars(StartRecord(step=0, began=0.0)) == {}


def test_tensorboard_without_its_package_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


def test_tensorboard_events_hold_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    metrics = Metrics([TensorBoard(tmp_path)])
    metrics.add(step(0))
    metrics.add(step(1, losses={"total": 1.5}))
    metrics.close()
    accumulator: Callable[[str], Any] = __import__(
        "tensorboard.backend.event_processing.event_accumulator", fromlist=["EventAccumulator"]
    ).EventAccumulator
    events = accumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/total")] == [(0, 2.0), (1, 1.5)]
