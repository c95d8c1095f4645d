"""The goodput benchmark's schedule has each fault, its measures read events right, and a run survives them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.speed.goodput import (
    QUICK,
    Ran,
    Sizes,
    blocked_s,
    fault_schedule,
    p95_beside_saving,
    passed_over,
    run_job,
)
from evals.speed.goodput_worker import Job
from modelstack.stability.faults import DamagedCheckpoint, Faults, FullDisk, SigKill
from modelstack.stability.memory_checkpoints import MEMORY
from modelstack.stability.run_events import Event, Restored, Saved, Started, Stepped


def test_the_first_schedule_with_each_kind_of_fault_is_that_of_seed_1() -> None:
    kinds = [{fault.kind for fault in fault_schedule(seed, Sizes()).schedule} for seed in (0, 1)]
    assert kinds[0] < kinds[1] == {"sigkill", "checkpoint", "full_disk"}
    assert fault_schedule(1, Sizes()) == fault_schedule(1, Sizes())


def test_steps_behind_a_save_are_told_from_the_others() -> None:
    events: list[Event] = [Started(time=0.0)]
    for n in range(40):
        events.append(Stepped(time=float(n), step=n, seconds=3.0 if n in (10, 20, 30) else 9.0 if n == 0 else 1.0))
        if n % 10 == 9:
            events.append(Saved(time=float(n), step=n + 1, seconds=0.1 + n / 100))
    ran = Ran(tuple(events), {}, True, 40.0)
    assert p95_beside_saving(ran, save_s=0.4) == (3.0, 1.0, 3)  # the first step of a process counts nowhere
    assert p95_beside_saving(ran, save_s=1.2)[2] == 6
    assert blocked_s(ran) == pytest.approx(0.39)  # 0.19 is the first save's


def test_a_damaged_checkpoint_that_was_loaded_is_not_passed_over() -> None:
    def ran(*steps: int, n_damaged: int = 1) -> Ran:
        return Ran(
            tuple(Restored(time=0.0, step=s, seconds=0.1, n_damaged=n_damaged) for s in steps), {}, True, 1.0
        )

    assert passed_over(ran(20), damaged=40, before=20)
    assert not passed_over(ran(40), damaged=40, before=20)
    assert not passed_over(ran(20, 40), damaged=40, before=20)
    assert not passed_over(ran(20, n_damaged=0), damaged=40, before=20)


@pytest.mark.slow
def test_two_processes_get_through_a_full_disk_a_cut_checkpoint_and_a_kill(tmp_path: Path) -> None:
    faults = Faults(schedule=(FullDisk(step=5), DamagedCheckpoint(step=25), SigKill(step=26, rank=1)))
    sizes = {name: getattr(QUICK, name) for name in ("width", "layers", "rows", "row_tokens", "save_every")}
    job = Job(folder=tmp_path / "run", faults=faults, n_steps=30, kind="background", **sizes)
    ran = run_job(job, max_restarts=4)
    assert ran.is_finished
    assert ran.faults == {"checkpoint": 1, "full_disk": 1, "sigkill": 1}
    assert passed_over(ran, damaged=20, before=0)  # 10 was not written: from the beginning
    counts = ran.goodput.counts
    assert (counts["checkpoints not written"], counts["damaged checkpoints met"]) == (1, 1)
    assert ran.goodput.n_useful == 30


@pytest.mark.slow
def test_two_processes_go_on_from_memory_where_one_is_killed(tmp_path: Path) -> None:
    faults = Faults(schedule=(DamagedCheckpoint(step=15), SigKill(step=16, rank=1)))
    sizes = {name: getattr(QUICK, name) for name in ("width", "layers", "rows", "row_tokens", "save_every")}
    job = Job(folder=tmp_path / "run", faults=faults, n_steps=18, kind="background", memory_every=3, **sizes)
    ran = run_job(job, max_restarts=4)
    assert ran.is_finished and ran.goodput.n_useful == 18
    restored = [event.step for event in ran.events if isinstance(event, Restored)]
    # Of 15, which was being written when the process died, one may be left with the one before.
    assert restored and set(restored) <= {12, 15}
    assert ran.goodput.counts["damaged checkpoints met"] == 0
    name = (tmp_path / "run" / "memory-folder").read_text(encoding="utf-8").strip()
    assert not (MEMORY / name).exists()
