"""The account of a run's time adds up, and each loss is with its cause."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import parse
from modelstack.stability.goodput import CAUSES, account
from modelstack.stability.run_events import (
    EVENTS_FILE,
    Event,
    EventLog,
    Restored,
    Saved,
    Started,
    Stepped,
    read_events,
)
from modelstack.train.loop import train
from tests.modelstack.stability.toy_runs import toy_run


def steps(first: int, n: int, begin: float, *, seconds: float = 1.0) -> list[Event]:
    """Return steps that follow each other without a pause."""
    return [Stepped(time=begin + (k + 1) * seconds, step=first + k, seconds=seconds) for k in range(n)]


def test_a_run_without_faults_is_useful_but_for_its_start() -> None:
    goodput = account([Started(time=100.0), *steps(0, 9, 101.0)])
    assert (goodput.wall_s, goodput.n_useful, goodput.median_step_s) == (10.0, 9, 1.0)
    assert goodput.share == pytest.approx(0.9)
    assert goodput.lost_s["start"] == pytest.approx(1.0)
    assert goodput.lost_s["other"] == pytest.approx(0.0)


def test_a_restart_costs_the_gap_and_the_steps_since_the_checkpoint() -> None:
    events: list[Event] = [
        Started(time=0.0),
        *steps(0, 4, 2.0),  # until 6
        Saved(time=6.5, step=4, seconds=0.5),
        *steps(4, 3, 6.5),  # until 9.5, thrown away
        Started(time=12.0),
        Restored(time=13.0, step=4, seconds=1.0, n_damaged=1),
        *steps(4, 6, 14.5),  # until 20.5
    ]
    goodput = account(events, {"sigkill": 1})
    assert goodput.n_useful == 10
    assert goodput.lost_s["start"] == pytest.approx(2.0)
    assert goodput.lost_s["restarts"] == pytest.approx(5.0)
    assert goodput.lost_s["done again"] == pytest.approx(3.0)
    assert goodput.lost_s["checkpoints"] == pytest.approx(0.5)
    assert goodput.lost_s["other"] == pytest.approx(0.0)
    assert goodput.share == pytest.approx(10 / 20.5)
    assert goodput.counts["restarts"] == 1
    assert goodput.counts["steps done again"] == 3
    assert goodput.counts["damaged checkpoints met"] == 1
    assert goodput.counts["fault: sigkill"] == 1


def test_a_process_that_dies_before_its_first_step_is_part_of_the_restart() -> None:
    events: list[Event] = [Started(time=0.0), *steps(0, 2, 0.0), Started(time=5.0), Started(time=8.0)]
    goodput = account([*events, *steps(0, 2, 9.0)])
    assert goodput.lost_s["restarts"] == pytest.approx(7.0)
    assert (goodput.n_useful, goodput.counts["restarts"], goodput.counts["steps done again"]) == (2, 1, 2)


def test_processes_that_never_step_again_are_restarts_too() -> None:
    events: list[Event] = [Started(time=0.0), *steps(0, 2, 0.0), Started(time=5.0), Started(time=8.0)]
    goodput = account(events)
    assert goodput.lost_s["restarts"] == pytest.approx(6.0)
    assert goodput.lost_s["other"] == pytest.approx(0.0)


def test_a_roll_back_throws_away_steps_and_rejected_ones_are_their_own_cause() -> None:
    events: list[Event] = [
        Started(time=0.0),
        *steps(0, 6, 0.0),
        Stepped(time=7.0, step=6, seconds=1.0, is_rejected=True),
        Restored(time=7.5, step=4, seconds=0.5),
        *steps(7, 3, 8.0),
    ]
    goodput = account(events)
    assert goodput.n_useful == 7
    assert goodput.lost_s["rolled back"] == pytest.approx(2.5)
    assert goodput.lost_s["rejected"] == pytest.approx(1.0)
    assert goodput.lost_s["restarts"] == 0
    assert goodput.lost_s["other"] == pytest.approx(0.5)
    assert (goodput.counts["roll-backs"], goodput.counts["steps rolled back"]) == (1, 2)


def test_slow_steps_are_counted_beyond_the_median() -> None:
    slow = Stepped(time=14.0, step=4, seconds=10.0)
    goodput = account([Started(time=0.0), *steps(0, 4, 0.0), slow])
    assert goodput.lost_s["slow steps"] == pytest.approx(9.0)
    assert goodput.share == pytest.approx(5 / 14)


@pytest.mark.parametrize("events", [[], steps(0, 2, 0.0), [Started(time=0.0)]])
def test_an_account_without_a_start_or_a_step_is_refused(events: list[Event]) -> None:
    with pytest.raises(UserError):
        account(events)


def test_a_real_run_writes_what_the_account_needs(tmp_path: Path) -> None:
    ticks = iter(range(10_000))
    told: list[str] = []
    for n_steps in (22, 30):
        run = toy_run(tmp_path, told, n_steps=n_steps)
        faults = [
            {"kind": "gradient", "step": 7, "value": 1e30},
            {"kind": "full_disk", "step": 14, "n_bytes": 1000},
        ]
        faults += [{"kind": "bit_flip", "step": 18, "parameter": "model.norm.weight"}]
        inject(run, parse(faults), tmp_path)
        log = EventLog(tmp_path / EVENTS_FILE, clock=lambda: float(next(ticks)))
        run.hooks["events"] = log
        run.supervisor.store = log.watching(run.supervisor.store)  # pyright: ignore
        run.supervisor.resume(run)  # pyright: ignore
        list(train(run))
    goodput = account(read_events(tmp_path / EVENTS_FILE))
    # 7 is rejected; 18 and 19 too, then back to 10, as 15 was not written. The second process begins at 10 and
    # does 20 and 21 again; what the first one threw away it does as well, without faults.
    assert goodput.counts == {
        "restarts": 1,
        "roll-backs": 1,
        "rejected steps": 3,
        "steps done again": 2,
        "steps rolled back": 8,
        "checkpoints not written": 1,
        "damaged checkpoints met": 0,
    }
    assert goodput.n_useful == 30 - 1
    assert goodput.lost_s.keys() == CAUSES.keys()
    useful_s = goodput.n_useful * goodput.median_step_s
    assert useful_s + sum(goodput.lost_s.values()) == pytest.approx(goodput.wall_s)
    printed = CliRunner().invoke(app, ["goodput", str(tmp_path)])
    assert printed.exit_code == 0
    assert "29 useful steps" in printed.output and "fault: bit_flip\t1" in printed.output


def test_a_folder_without_events_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        read_events(tmp_path / EVENTS_FILE)


def test_a_line_that_is_no_event_is_refused(tmp_path: Path) -> None:
    path = tmp_path / EVENTS_FILE
    EventLog(path)
    assert len(read_events(path)) == 1
    path.write_text(path.read_text() + '{"kind": "step"}\n')
    with pytest.raises(UserError, match="not a valid event"):
        read_events(path)
