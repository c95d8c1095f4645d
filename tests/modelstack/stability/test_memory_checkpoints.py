"""Checkpoints in memory: a run goes on from them, and does without where they are lost, broken or another's."""

from __future__ import annotations

import math
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from modelstack.errors import UserError
from modelstack.stability.agreement import Ranks
from modelstack.stability.memory_checkpoints import KEEP, MemoryCheckpoints, memory_folder
from modelstack.stability.run_checkpoints import TENSORS, LocalStore
from modelstack.train.loop import Run, train
from tests.modelstack.stability.test_supervisor import equal, spoil, weights
from tests.modelstack.stability.toy_runs import toy_run


def run_with_memory(disk: Path, memory: Path, events: list[str], **options: Any) -> Run:
    """Return a toy run that saves every fifth step to disk and every second to memory."""
    run = toy_run(disk, events, **options)
    supervisor: Any = run.supervisor
    supervisor.memory = MemoryCheckpoints(
        LocalStore(memory_folder(disk, Ranks(None), memory), KEEP), 2, events.append
    )
    return run


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    return folder


def stopped_at(step: int, disk: Path, memory: Path) -> None:
    """Leave what a process leaves that dies in a step."""
    for _ in islice(train(run_with_memory(disk, memory, [])), step):
        pass


def steps_in(memory: Path) -> list[str]:
    return sorted(path.name for path in memory.glob("*/step-*"))


def test_a_dead_process_costs_the_steps_since_the_last_one_in_memory(tmp_path: Path, memory: Path) -> None:
    whole = toy_run(tmp_path / "whole", [])
    expected = [report.losses["total"] for report in train(whole)]
    stopped_at(19, tmp_path / "disk", memory)
    assert steps_in(memory) == ["step-00000016", "step-00000018"]
    run = run_with_memory(tmp_path / "disk", memory, [], seed=5)
    assert run.supervisor.resume(run) and run.state.step == 18  # pyright: ignore
    assert [report.losses["total"] for report in train(run)] == expected[18:]
    assert equal(weights(whole), weights(run))


@pytest.mark.parametrize("loss", ["all", "newest broken", "all broken"])
def test_what_memory_has_lost_the_disk_has(tmp_path: Path, memory: Path, loss: str) -> None:
    stopped_at(19, tmp_path / "disk", memory)
    if loss == "all":  # the machine was started again
        shutil.rmtree(memory)
        memory.mkdir()
    for name in {"all": [], "newest broken": ["18"], "all broken": ["16", "18"]}[loss]:
        (path,) = memory.glob(f"*/step-000000{name}/{TENSORS}")
        path.write_bytes(path.read_bytes()[:-1])
    events: list[str] = []
    run = run_with_memory(tmp_path / "disk", memory, events)
    assert run.supervisor.resume(run)  # pyright: ignore
    assert run.state.step == (16 if loss == "newest broken" else 15)
    assert len(events) == (0 if loss == "all" else 1)


def test_a_newer_one_on_the_disk_is_taken(tmp_path: Path, memory: Path) -> None:
    stopped_at(9, tmp_path / "disk", memory)
    for _ in islice(_resumed(toy_run(tmp_path / "disk", [])), 7):  # a while without memory
        pass
    run = run_with_memory(tmp_path / "disk", memory, [])
    assert run.supervisor.resume(run) and run.state.step == 10  # pyright: ignore


@pytest.mark.parametrize("broken", [["10"], ["10", "05"]], ids=["newest", "all"])
def test_a_newer_one_on_the_disk_that_is_broken_costs_no_older_one_of_memory(
    tmp_path: Path, memory: Path, broken: list[str]
) -> None:
    stopped_at(9, tmp_path / "disk", memory)
    for _ in islice(_resumed(toy_run(tmp_path / "disk", [])), 7):  # a while without memory
        pass
    for step in broken:
        path = tmp_path / "disk" / f"step-000000{step}" / TENSORS
        path.write_bytes(path.read_bytes()[:-1])
    run = run_with_memory(tmp_path / "disk", memory, [])
    assert run.supervisor.resume(run) and run.state.step == 8  # pyright: ignore


def _resumed(run: Run) -> Any:
    run.supervisor.resume(run)  # pyright: ignore
    return train(run)


def test_a_run_that_begins_anew_does_not_find_the_old_ones(tmp_path: Path, memory: Path) -> None:
    stopped_at(19, tmp_path / "disk", memory)
    shutil.rmtree(tmp_path / "disk")
    run = run_with_memory(tmp_path / "disk", memory, [])
    assert not run.supervisor.resume(run)  # pyright: ignore


def test_at_the_end_the_memory_is_given_back_and_the_last_step_is_on_the_disk(
    tmp_path: Path, memory: Path
) -> None:
    run = run_with_memory(tmp_path / "disk", memory, [], n_steps=28)
    for _ in train(run):
        pass
    run.supervisor.close(run)  # pyright: ignore
    assert not list(memory.iterdir())
    assert (tmp_path / "disk" / "step-00000028").is_dir()


def test_a_roll_back_goes_to_memory_first_and_then_further_back(tmp_path: Path, memory: Path) -> None:
    events: list[str] = []
    run = run_with_memory(tmp_path / "disk", memory, events)
    spoil(run, range(13, 17), lambda y: y * math.nan)
    for _ in train(run):
        pass
    back = [event for event in events if "went back" in event]
    assert [event.split(" of step ")[1].split(";")[0] for event in back] == ["12", "10"], events


def test_memory_that_is_full_costs_the_checkpoint(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    run = run_with_memory(tmp_path / "disk", memory, events)
    supervisor: Any = run.supervisor
    save = LocalStore.save

    def full(store: LocalStore, step: int, state: Any) -> None:
        if step == 6 and store is supervisor.memory.store:
            raise OSError(28, "No space left on device")
        save(store, step, state)

    monkeypatch.setattr(LocalStore, "save", full)
    assert len(list(train(run))) == 30
    assert events == [
        "the checkpoint of step 6 in memory was not written: [Errno 28] No space left on device",
    ]


def test_a_machine_without_such_memory_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="omit checkpoints.memory_every"):
        memory_folder(tmp_path, Ranks(None), tmp_path / "nothing")


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, memory: Path) -> None:
    memory_folder(tmp_path, Ranks(None), memory)
    (tmp_path / "memory-folder").write_text("../../home\n", encoding="utf-8")
    with pytest.raises(UserError, match="not a valid folder name"):
        memory_folder(tmp_path, Ranks(None), memory)
