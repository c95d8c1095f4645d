"""Checkpoints of a run: whole or absent, verified, the last few kept; a broken one is never loaded."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modelstack.errors import UserError
from modelstack.stability import run_checkpoints
from modelstack.stability.checkpoint_folders import INDEX, MANIFEST, REST, TENSORS
from modelstack.stability.run_checkpoints import (
    capture_rng,
    load_run,
    restore_rng,
    save_run,
)

STATE: dict[str, Any] = {
    "model": {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)},
    "optimizer": {"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(2)}}, "betas": (0.9, 0.95)},
    "cursor": {"seed": 2**63, "buffer": [[1, 2], []], "epoch": 0, "name": "é", "none": None, "flag": True},
    "nan": float("nan"),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def test_a_nested_state_comes_back_with_its_types(tmp_path: Path) -> None:
    save_run(tmp_path, 7, STATE)
    loaded = load_run(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.rejected) == (7, ())
    assert same(loaded.state, STATE)


def test_shared_tensors_and_views_are_stored_each(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    save_run(tmp_path, 1, {"a": whole, "b": whole, "c": whole[::2]})
    loaded = load_run(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.state["a"], loaded.state["b"])
    assert loaded.state["c"].tolist() == [0, 2, 4, 6, 8]


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.x7").mkdir()  # what a killed process left
    for step in (1, 2, 30, 4):
        save_run(tmp_path, step, {"x": step}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000030"]
    loaded = load_run(tmp_path)
    assert loaded is not None and loaded.step == 30


def test_no_checkpoint_is_none_and_not_an_error(tmp_path: Path) -> None:
    assert load_run(tmp_path / "nowhere") is None
    (tmp_path / "notes.txt").write_text("not mine")
    assert load_run(tmp_path) is None


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit in the tensors": lambda folder: flip_a_bit(folder / TENSORS),
    "a flipped bit in the rest": lambda folder: flip_a_bit(folder / REST),
    "truncated tensors": lambda folder: (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9]),
    "missing tensors": lambda folder: (folder / TENSORS).unlink(),
    "missing manifest": lambda folder: (folder / MANIFEST).unlink(),
    "broken manifest": lambda folder: (folder / MANIFEST).write_text("{"),
    "foreign manifest": lambda folder: (folder / MANIFEST).write_text(
        json.dumps({"x": {"bytes": 1, "sha256": ""}})
    ),
    "manifest of nothing": lambda folder: (folder / MANIFEST).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage: str, tmp_path: Path) -> None:
    save_run(tmp_path, 1, STATE)
    DAMAGES[damage](save_run(tmp_path, 2, STATE))
    loaded = load_run(tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    assert same(loaded.state, STATE)
    assert len(loaded.rejected) == 1 and "step-00000002" in loaded.rejected[0]


def test_a_renamed_checkpoint_is_not_taken_for_another_step(tmp_path: Path) -> None:
    save_run(tmp_path, 1, STATE)
    save_run(tmp_path, 2, STATE).rename(tmp_path / "step-00000009")
    loaded = load_run(tmp_path)
    assert loaded is not None and loaded.step == 1
    assert "it was renamed" in loaded.rejected[0]


def test_when_none_is_whole_the_run_does_not_start_anew_in_silence(tmp_path: Path) -> None:
    flip_a_bit(save_run(tmp_path, 1, STATE) / TENSORS)
    with pytest.raises(UserError, match="no checkpoint in .* is complete: step-00000001"):
        load_run(tmp_path)


def test_a_roll_back_takes_one_from_before(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_run(tmp_path, step, {"x": step})
    loaded = load_run(tmp_path, before=30)
    assert loaded is not None and loaded.state == {"x": 20}
    assert load_run(tmp_path, before=10) is None


def test_a_failed_write_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run(tmp_path, 1, STATE)

    def full(path: Path, checksum: str) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_checkpoints, "file_facts", full)
    with pytest.raises(OSError, match="No space left"):
        save_run(tmp_path, 2, STATE, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_that_takes_no_more_is_an_os_error_and_leaves_the_older_ones(tmp_path: Path) -> None:
    save_run(tmp_path, 1, {"x": torch.zeros(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_run(tmp_path, 2, {"x": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_sharded_checkpoint_is_called_what_it_is(tmp_path: Path) -> None:
    save_run(tmp_path, 1, {"x": 1})
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000002" / INDEX).write_text("{}")
    with pytest.raises(UserError, match="step-00000002 is a sharded checkpoint .* use a ShardedStore"):
        load_run(tmp_path)


def test_what_cannot_be_stored_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a/b is a set"):
        save_run(tmp_path, 1, {"a": {"b": {1}}})
    assert list(tmp_path.iterdir()) == []


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    torch.manual_seed(4)
    torch.rand(3)
    save_run(tmp_path, 1, {"rng": capture_rng()})
    expected = torch.rand(5)
    loaded = load_run(tmp_path)
    assert loaded is not None
    restore_rng(loaded.state["rng"])
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.slow
def test_a_killed_process_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from modelstack.stability.run_checkpoints import save_run\n"
        "for step in range(1, 10_000):\n"
        "    save_run(sys.argv[1], step, {'x': torch.full((200_000,), float(step))}, keep=3)\n"
        "    print(step, flush=True)\n"
    )
    for n_lines in (3, 4, 6):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(n_lines):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        loaded = load_run(tmp_path)
        assert loaded is not None
        assert loaded.rejected == ()
        assert loaded.state["x"].unique().tolist() == [float(loaded.step)]
