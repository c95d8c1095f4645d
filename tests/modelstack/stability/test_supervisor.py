"""A guarded run: skips, goes back, resumes bit for bit, and ends with the batch written down."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import Faults, parse
from modelstack.stability.run_checkpoints import TENSORS
from modelstack.stability.supervisor import TrainingStopped
from modelstack.train.loop import Run, train
from tests.modelstack.stability.toy_runs import toy_run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return copy.deepcopy(run.state.model.state_dict())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def spoil(run: Run, steps: range, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change a layer's output at some steps."""
    layer: Any = run.state.model.get_submodule("model.layers.0")
    layer.register_forward_hook(lambda module, args, y: how(y) if run.state.step in steps else y)


def test_a_run_learns_saves_and_lets_its_hooks_see_every_step(tmp_path: Path) -> None:
    run = toy_run(tmp_path, [])
    reports = list(train(run))
    assert [report.step for report in reports] == run.hooks["seen"].steps == list(range(30))  # pyright: ignore
    assert reports[-1].losses["total"] < reports[0].losses["total"] - 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{n:08d}" for n in (15, 20, 25, 30)]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = toy_run(tmp_path / "a", [])
    expected = [report.losses["total"] for report in train(whole)]
    first = toy_run(tmp_path / "b", [])
    for report in train(first):
        if report.step == 17:  # two steps past a checkpoint: they are done again
            break
    second = toy_run(tmp_path / "b", [], seed=5)
    assert second.supervisor.resume(second)  # pyright: ignore
    assert second.state.step == 15
    assert [report.losses["total"] for report in train(second)] == expected[15:]
    assert equal(weights(whole), weights(second))
    assert second.hooks["seen"].steps == list(range(30))  # pyright: ignore


def test_a_corrupt_checkpoint_is_passed_over_and_told_of(tmp_path: Path) -> None:
    list(train(toy_run(tmp_path, [])))
    path = tmp_path / "step-00000030" / TENSORS
    path.write_bytes(path.read_bytes()[:-1])
    events: list[str] = []
    run = toy_run(tmp_path, events)
    assert run.supervisor.resume(run)  # pyright: ignore
    assert run.state.step == 25
    assert len(events) == 1 and "step-00000030" in events[0]


def test_without_a_checkpoint_a_run_begins(tmp_path: Path) -> None:
    run = toy_run(tmp_path, [])
    assert not run.supervisor.resume(run)  # pyright: ignore
    assert run.state.step == 0


def test_one_bad_step_is_skipped(tmp_path: Path) -> None:
    events: list[str] = []
    run = toy_run(tmp_path, events)
    spoil(run, range(12, 13), lambda y: y * math.nan)
    reports = list(train(run))
    assert [report.step for report in reports if report.rejected] == [12]
    assert events == ["step 12 skipped: loss is nan"]
    assert all(parameter.isfinite().all() for parameter in run.state.model.parameters())


def test_a_damaged_state_goes_back_and_the_data_goes_on(tmp_path: Path) -> None:
    events: list[str] = []
    run = toy_run(tmp_path, events)
    reports = []
    for report in train(run):
        if report.step == 11:  # a bit flip in a weight: every loss from here is wrong
            with torch.no_grad():
                run.state.model.get_parameter("lm_head.weight").mul_(-1e4)
        reports.append(report)
    assert [report.step for report in reports if report.rejected] == [12, 13]
    assert events[-1] == "went back to the weights of step 10; the data continues from step 14"
    assert run.state.step == 30
    assert reports[-1].losses["total"] < reports[10].losses["total"]
    positions = [report.step for report in reports]
    assert positions == list(range(30))


def test_the_second_roll_back_takes_an_older_checkpoint(tmp_path: Path) -> None:
    events: list[str] = []
    run = toy_run(tmp_path, events)
    spoil(run, range(11, 15), lambda y: y * math.nan)
    list(train(run))
    went_back = [event for event in events if event.startswith("went back")]
    assert [event.split()[7].rstrip(";") for event in went_back] == ["10", "5"]


def test_where_nothing_helps_the_run_ends_with_the_batch_written_down(tmp_path: Path) -> None:
    run = toy_run(tmp_path, [], max_roll_backs=1)
    spoil(run, range(12, 30), lambda y: y * math.inf)
    with pytest.raises(
        TrainingStopped, match=r"roll-backs did not help; its batch is in .*bad-batch-00000015"
    ) as stopped:
        list(train(run))
    batch = load_file(str(stopped.value).rpartition(" in ")[2])
    assert batch["0.ids"].shape == (4, 10)
    assert batch.keys() == {"0.ids", "0.labels", "0.documents"}


def test_each_rank_writes_its_own_rows_of_a_bad_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    run = toy_run(tmp_path, [], max_roll_backs=0)
    spoil(run, range(12, 30), lambda y: y * math.inf)
    with pytest.raises(TrainingStopped, match="bad-batch-00000013-rank-00003.safetensors"):
        list(train(run))
    assert (tmp_path / "bad-batch-00000013-rank-00003.safetensors").is_file()


def test_trouble_before_the_first_checkpoint_ends_the_run(tmp_path: Path) -> None:
    run = toy_run(tmp_path, [])
    spoil(run, range(1, 30), lambda y: y * math.nan)
    with pytest.raises(TrainingStopped, match="step 2"):
        list(train(run))


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    events: list[str] = []
    run = toy_run(tmp_path, events, n_steps=12)
    monkeypatch.setattr("modelstack.stability.run_checkpoints.save_run", full)
    assert len(list(train(run))) == 12
    assert len(events) == 2 and "was not written" in events[0]


def bad_data(first: int, n: int) -> Faults:
    return parse([{"kind": "loss", "step": first + k, "factor": math.inf} for k in range(n)])


def test_a_window_of_bad_data_is_skipped_to_its_end_and_nothing_is_thrown_away(tmp_path: Path) -> None:
    events: list[str] = []
    run = toy_run(tmp_path, events)
    inject(run, bad_data(22, 6), tmp_path)
    before = {}
    for report in train(run):
        if report.step in (21, 27):
            before[report.step] = weights(run)
    assert run.state.step == 30
    assert equal(before[21], before[27])
    assert not any("went back" in event for event in events)
    assert sum("so the data is bad" in event for event in events) == 5  # from the second on


def test_a_sound_state_does_not_let_bad_data_go_on_for_ever(tmp_path: Path) -> None:
    events: list[str] = []
    run = toy_run(tmp_path, events, patience=4)
    inject(run, bad_data(22, 4), tmp_path)
    list(train(run))
    assert events[-1] == "went back to the weights of step 20; the data continues from step 26"
