"""Each fault does what it says, once, and only where and when it was asked to."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from modelstack.errors import UserError
from modelstack.stability.fault_injection import Ledger, file_size_limit, flip_bit, inject, read_ledgers
from modelstack.stability.faults import SigKill, parse
from modelstack.stability.run_checkpoints import save_run
from modelstack.train.loop import Run, Unsupervised, train
from modelstack.train.step import StepReport
from tests.modelstack.stability.toy_runs import toy_run
from tests.processes import run_on_ranks


def faulty(folder: Path, events: list[str], *tables: dict[str, Any], rank: int = 0, **keywords: Any) -> Run:
    run = toy_run(folder, events, **keywords)
    inject(run, parse(tables), folder, rank)
    return run


def rejected(reports: list[StepReport]) -> list[int]:
    return [report.step for report in reports if report.rejected]


def same_losses(a: list[StepReport], b: list[StepReport]) -> list[bool]:
    return [x.losses["total"] == y.losses["total"] for x, y in zip(a, b, strict=True)]


def test_a_schedule_without_faults_changes_nothing(tmp_path: Path) -> None:
    clean = list(train(toy_run(tmp_path / "a", [])))
    assert all(same_losses(clean, list(train(faulty(tmp_path / "b", [])))))


def test_a_bad_gradient_leaves_the_loss_as_it_is(tmp_path: Path) -> None:
    reports = list(train(faulty(tmp_path, [], {"kind": "gradient", "step": 12})))
    assert rejected(reports) == [12]
    assert math.isfinite(reports[12].losses["total"]) and math.isnan(reports[12].gradient_norm)


def test_a_bad_loss_is_in_the_gradients_too(tmp_path: Path) -> None:
    clean = list(train(toy_run(tmp_path / "a", [])))
    tables = {"kind": "loss", "step": 12}, {"kind": "loss", "step": 20, "factor": math.inf}
    reports = list(train(faulty(tmp_path / "b", [], *tables)))
    assert rejected(reports) == [12, 20]
    assert reports[12].losses["total"] == pytest.approx(1000 * clean[12].losses["total"])
    assert reports[12].gradient_norm == pytest.approx(1000 * clean[12].gradient_norm)
    assert reports[20].losses["total"] == math.inf and not math.isfinite(reports[20].gradient_norm)


def test_a_window_of_noise_has_other_tokens_the_same_labels_and_a_higher_rate(tmp_path: Path) -> None:
    run = faulty(tmp_path, [], {"kind": "random_tokens", "step": 10, "n_steps": 2, "lr_factor": 5.0})
    clean = iter(toy_run(tmp_path / "clean", []).loader)
    run.supervisor = Unsupervised()
    seen = []
    loader = run.loader

    class Watching:
        state_dict, load_state_dict = loader.state_dict, loader.load_state_dict

        def __iter__(self) -> Any:
            for batch in loader:
                seen.append(batch)
                yield batch

    run.loader = Watching()
    rates = [report.learning_rates[0] / (1 - report.step / 60) for report in train(run)]
    expected = [next(clean) for _ in seen]
    is_noise = [not torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(seen, expected, strict=True)]
    assert [n for n, it_is in enumerate(is_noise) if it_is] == [10, 11]
    assert not torch.equal(seen[10].ids_BT, seen[11].ids_BT)
    assert torch.equal(seen[10].labels_BT == -100, expected[10].labels_BT == -100)
    assert torch.equal(seen[10].labels_BT[:, :-1], seen[10].ids_BT[:, 1:])
    assert rates[10] == rates[11] == pytest.approx(5 * rates[9])
    assert rates[12] == pytest.approx(rates[9])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flipped_bit_is_one_bit_and_flips_back(dtype: torch.dtype) -> None:
    before = torch.tensor([1.5, -2.25, 0.0], dtype=dtype)
    width = torch.finfo(dtype).bits
    for bit, expected in ((width - 1, 2.25), (width - 3, -2.25 * 2.0**64)):
        tensor = before.clone()
        flip_bit(tensor, 1 + 3, bit)
        assert tensor.tolist() == [1.5, expected, 0.0]
        flip_bit(tensor, 1, bit)
        assert torch.equal(tensor, before)


def test_a_flipped_exponent_bit_makes_the_run_go_back(tmp_path: Path) -> None:
    events: list[str] = []
    fault = {"kind": "bit_flip", "step": 11, "parameter": "model.norm.weight", "bit": 30}
    run = faulty(tmp_path, events, fault)
    reports = list(train(run))
    assert rejected(reports) == [11, 12]
    assert events[-1].startswith("went back to the weights of step 10")
    assert reports[-1].losses["total"] < reports[10].losses["total"]


def test_a_full_disk_costs_one_checkpoint_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    events: list[str] = []
    list(train(faulty(tmp_path, events, {"kind": "full_disk", "step": 14, "n_bytes": 1000}, n_steps=20)))
    assert len(events) == 1 and events[0].startswith("checkpoint of step 15 was not written:")
    assert "File too large" in events[0]  # the kernel's own words, from the real writer
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["faults-rank0.jsonl", "step-00000005", "step-00000010", "step-00000020"]


def test_a_limit_on_files_is_the_kernels_and_ends_with_the_block(tmp_path: Path) -> None:
    with file_size_limit(10), pytest.raises(OSError, match="File too large"):
        (tmp_path / "a").write_bytes(b"x" * 11)
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        save_run(tmp_path, 1, {"x": torch.zeros(1000)})
    (tmp_path / "a").write_bytes(b"x" * 5000)
    save_run(tmp_path, 1, {"x": torch.zeros(1000)})


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_checkpoint_is_the_newest_and_is_passed_over(damage: str, tmp_path: Path) -> None:
    list(train(faulty(tmp_path, [], {"kind": "checkpoint", "step": 22, "damage": damage}, n_steps=24)))
    events: list[str] = []
    run = toy_run(tmp_path, events)
    assert run.supervisor.resume(run)  # pyright: ignore
    assert run.state.step == 15
    assert len(events) == 1 and "step-00000020" in events[0]


def test_a_fault_of_one_rank_does_not_reach_another(tmp_path: Path) -> None:
    table = {"kind": "gradient", "step": 12, "rank": 1}
    assert rejected(list(train(faulty(tmp_path / "0", [], table, rank=0)))) == []
    assert rejected(list(train(faulty(tmp_path / "1", [], table, rank=1)))) == [12]


def test_a_slow_rank_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("modelstack.stability.fault_injection.time.sleep", slept.append)
    list(train(faulty(tmp_path, [], {"kind": "slow", "step": 3, "n_steps": 2, "seconds": 7.5})))
    assert slept == [7.5, 7.5]


def killed_run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    run = faulty(Path(folder), [], {"kind": "sigkill", "step": 17}, {"kind": "gradient", "step": 16})
    run.supervisor.resume(run)  # pyright: ignore
    reports = list(train(run))
    steps = {"steps": [report.step for report in reports], "rejected": rejected(reports)}
    Path(folder, "steps.json").write_text(json.dumps(steps), encoding="utf-8")
    os._exit(0)


@pytest.mark.slow
def test_a_killed_run_goes_past_its_faults_when_it_is_started_again(tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException) as killed:
        run_on_ranks(killed_run, (str(tmp_path),), 1)
    assert killed.value.exit_code == -signal.SIGKILL
    run_on_ranks(killed_run, (str(tmp_path),), 1)
    steps = json.loads((tmp_path / "steps.json").read_text(encoding="utf-8"))
    assert steps == {"steps": list(range(15, 30)), "rejected": []}  # step 16's gradient was bad the first time
    assert read_ledgers(tmp_path) == {"gradient": 1, "sigkill": 1}


def test_a_fault_is_on_for_its_step_and_behind_for_the_same_step_later(tmp_path: Path) -> None:
    ledger, fault = Ledger(tmp_path / "faults-rank0.jsonl"), SigKill(step=3)
    assert [ledger.is_on(fault, 3), ledger.is_on(fault, 3)] == [True, True]
    ledger.end_of_step()
    assert not ledger.is_on(fault, 3)
    assert not Ledger(tmp_path / "faults-rank0.jsonl").is_on(fault, 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "full_disk", "step": 1}, "fault 'full_disk' requires a run with checkpoints"),
        ({"kind": "bit_flip", "step": 1, "parameter": "lm_head.wait"}, "no parameter 'lm_head.wait'"),
        ({"kind": "bit_flip", "step": 1, "parameter": "lm_head.weight", "bit": 32}, "float32 has 32"),
    ],
)
def test_what_a_run_cannot_suffer_is_refused(table: dict[str, Any], message: str, tmp_path: Path) -> None:
    run = toy_run(tmp_path, [])
    run.supervisor = Unsupervised()
    with pytest.raises(UserError, match=message):
        inject(run, parse([table]), tmp_path)
