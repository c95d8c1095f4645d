"""Sharded checkpoints in one process: names, damage, a kill at any moment, the background, the other store."""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelstack.architecture.checkpoint import load_checkpoint, save_checkpoint
from modelstack.errors import UserError
from modelstack.stability import sharded_storage
from modelstack.stability.checkpoint_folders import INDEX, MANIFEST, Checksum
from modelstack.stability.run_checkpoints import CheckpointStore, LocalStore, capture_rng, restore_rng
from modelstack.stability.sharded_checkpoints import ShardedStore, model_tensors
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.precision import with_fp32_masters
from tests.modelstack.stability.run_states import flat, full_disk, run_state, same_tensors, take_steps
from tests.modelstack.train.toys import family_model

MUON = OptimizerConfig(lr=0.01, newton_schulz_dtype="float32")
RANK_FILE = "rank-00000.safetensors"


def small_state(step: int) -> dict[str, Any]:
    """A state that names its step everywhere, the model of 2 tensors."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.named_parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
    return run_state(model, optimizer, step) | {"notes": {"t": torch.full((4,), float(step)), "pair": (1, step)}}


def is_of(loaded: dict[str, Any], step: int) -> bool:
    tensors = [*loaded["run"]["train"]["model"].values(), loaded["notes"]["t"]]
    return all(bool((tensor == step).all()) for tensor in tensors) and loaded["notes"]["pair"] == (1, step)


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3"])
def test_a_run_comes_back_with_moments_cursor_and_random_numbers(family: str, tmp_path: Path) -> None:
    model, other = family_model(family), family_model(family, seed=1)
    optimizer, of_other = build_optimizer(model, MUON), build_optimizer(other, MUON)
    take_steps(model, optimizer, range(2))
    ShardedStore(tmp_path).save(2, run_state(model, optimizer, 2))
    expected = torch.rand(3)
    loaded = ShardedStore(tmp_path).load(run_state(other, of_other, 0))
    assert loaded is not None and (loaded.step, loaded.rejected) == (2, ())
    other.load_state_dict(loaded.state["run"]["train"]["model"])
    of_other.load_state_dict(loaded.state["run"]["train"]["optimizer"])
    restore_rng(loaded.state["rng"])
    assert torch.equal(torch.rand(3), expected)
    assert loaded.state["run"]["loader"] == {"n_given": 8, "window": [[1, 2], []]}
    assert loaded.state["guard"] == {"losses": [2.0], "pair": (1, None)}
    take_steps(model, optimizer, range(2, 4))
    take_steps(other, of_other, range(2, 4))
    assert same_tensors(flat(run_state(model, optimizer, 4)), flat(run_state(other, of_other, 4)))


def test_masters_in_fp32_come_back_beside_a_model_in_bf16(tmp_path: Path) -> None:
    def make(seed: int) -> tuple[nn.Module, Any]:
        model = family_model("llama", seed=seed)
        return model, with_fp32_masters(model, lambda m: build_optimizer(m, MUON))

    model, masters = make(0)
    take_steps(model, masters, range(2))
    ShardedStore(tmp_path).save(2, run_state(model, masters, 2))
    other, of_other = make(1)
    loaded = ShardedStore(tmp_path).load(run_state(other, of_other, 0))
    assert loaded is not None
    other.load_state_dict(loaded.state["run"]["train"]["model"])
    of_other.load_state_dict(loaded.state["run"]["train"]["optimizer"])
    restored = flat(run_state(other, of_other, 2))
    assert same_tensors(flat(run_state(model, masters, 2)), restored)
    assert {tensor.dtype for name, tensor in restored.items() if name.startswith("model/")} == {torch.bfloat16}
    assert {tensor.dtype for name, tensor in restored.items() if name.startswith("masters/")} == {torch.float32}


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    ShardedStore(tmp_path).save(1, small_state(1))
    names = sorted(path.name for path in (tmp_path / "step-00000001").iterdir())
    assert names == [MANIFEST, RANK_FILE, INDEX]
    assert json.loads((tmp_path / "step-00000001" / INDEX).read_text())["world"] == 1


def test_an_optimizer_without_names_is_refused_with_the_fix(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    state = run_state(model, torch.optim.AdamW(model.parameters()), 1)
    with pytest.raises(UserError, match="does not name its parameters.*build_optimizer"):
        ShardedStore(tmp_path).save(1, state)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def point_elsewhere(folder: Path) -> None:
    """Let the index name a file that the manifest does not know, with all hashes right."""
    index = json.loads((folder / INDEX).read_text())
    index["tensors"]["model/weight"][2][0][2] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[INDEX] = sharded_storage.file_facts(folder / INDEX)
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the tensors": lambda folder: flip_a_bit(folder / RANK_FILE),
    "a flipped bit in the index": lambda folder: flip_a_bit(folder / INDEX),
    "truncated tensors": lambda folder: os.truncate(folder / RANK_FILE, 100),
    "an empty index": lambda folder: os.truncate(folder / INDEX, 0),
    "missing tensors": lambda folder: (folder / RANK_FILE).unlink(),
    "missing index": lambda folder: (folder / INDEX).unlink(),
    "missing manifest": lambda folder: (folder / MANIFEST).unlink(),
    "a manifest of nothing": lambda folder: (folder / MANIFEST).write_text("{}"),
    "an index that leads out of the folder": point_elsewhere,
    "a renamed folder": lambda folder: folder.rename(folder.with_name("step-00000009")),
}


@pytest.mark.parametrize("checksum", ["sha256", "crc32"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    damage: str, checksum: Checksum, tmp_path: Path
) -> None:
    store = ShardedStore(tmp_path, checksum=checksum)
    store.save(1, small_state(1))
    store.save(2, small_state(2))
    DAMAGES[damage](tmp_path / "step-00000002")
    loaded = store.load(small_state(0))
    assert loaded is not None and loaded.step == 1
    assert is_of(loaded.state, 1)
    assert len(loaded.rejected) == 1


def test_when_none_is_whole_the_run_does_not_start_anew_in_silence(tmp_path: Path) -> None:
    store = ShardedStore(tmp_path)
    assert store.load(small_state(0)) is None
    store.save(1, small_state(1))
    flip_a_bit(tmp_path / "step-00000001" / RANK_FILE)
    with pytest.raises(UserError, match="no checkpoint in .* is complete: step-00000001: rank-00000.safetensors"):
        store.load(small_state(0))


def test_the_newest_few_are_kept_and_a_roll_back_takes_one_from_before(tmp_path: Path) -> None:
    store = ShardedStore(tmp_path, keep=2)
    (tmp_path / ".step-00000001.partial").mkdir(parents=True)  # what a killed run left
    for step in (10, 20, 30):
        store.save(step, small_state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000030"]
    loaded = store.load(small_state(0), before=30)
    assert loaded is not None and is_of(loaded.state, 20)
    assert store.load(small_state(0), before=20) is None


def test_the_other_store_s_checkpoint_is_called_what_it_is(tmp_path: Path) -> None:
    LocalStore(tmp_path / "a").save(1, {"x": 1})
    with pytest.raises(UserError, match="step-00000001 is a local checkpoint .*resume in one process"):
        ShardedStore(tmp_path / "a").load({"x": 0})
    ShardedStore(tmp_path / "b").save(1, {"x": 1})
    with pytest.raises(UserError, match="step-00000001 is a sharded checkpoint .*use a ShardedStore"):
        LocalStore(tmp_path / "b").load({"x": 0})


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another size": (lambda: nn.Linear(3, 4), r"model/weight is \[2, 3\], the run's is \[4, 3\]"),
    "one part less": (lambda: nn.Linear(3, 2, bias=False), "it has model/bias, .*which the run does not have"),
    "one part more": (lambda: nn.Sequential(nn.Linear(3, 2)), "it lacks model/0.weight"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_model_is_refused_and_not_passed_over(other: str, tmp_path: Path) -> None:
    store = ShardedStore(tmp_path)
    store.save(1, small_state(1))
    make, complaint = OTHERS[other]
    model = make()
    with pytest.raises(UserError, match=f"to another model or optimizer: {complaint}"):
        store.load(run_state(model, torch.optim.AdamW(model.named_parameters()), 0))


def test_a_full_disk_is_an_os_error_and_leaves_the_older_ones(tmp_path: Path) -> None:
    store = ShardedStore(tmp_path)
    store.save(1, small_state(1))
    with full_disk(100), pytest.raises(OSError, match="File too large"):
        store.save(2, small_state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    store.save(3, small_state(3))
    loaded = store.load(small_state(0))
    assert loaded is not None and is_of(loaded.state, 3)


def test_a_failure_in_the_background_is_told_once_and_not_lost(tmp_path: Path) -> None:
    store = ShardedStore(tmp_path, in_background=True)
    with full_disk(100):
        store.save(1, small_state(1))
        assert store.load(small_state(0)) is None  # waited for, and not there
        with pytest.raises(OSError, match="File too large"):
            store.save(2, small_state(2))
    store.wait()
    store.save(3, small_state(3))
    store.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_the_state_may_change_while_it_is_written_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), sharded_storage.write_tensors

    def held(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        may_write.wait()
        write(path, tensors)

    monkeypatch.setattr(sharded_storage, "write_tensors", held)
    store, state = ShardedStore(tmp_path, in_background=True), small_state(1)
    store.save(1, state)
    assert not (tmp_path / "step-00000001").exists()
    for tensor in (*state["run"]["train"]["model"].values(), state["notes"]["t"]):
        tensor.fill_(7)
    state["run"]["loader"]["window"].append("later")
    may_write.set()
    loaded = store.load(small_state(0))  # waits
    assert loaded is not None and is_of(loaded.state, 1)
    assert loaded.state["run"]["loader"]["window"] == [[1, 2], []]


def kill_at_event(number: int, folder: Path) -> None:
    """Let this process kill itself before the given one of its file operations in a folder."""
    n_seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_seen
        if event.startswith(("open", "os.", "shutil.")) and any(str(folder) in str(one) for one in arguments):
            if n_seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            n_seen += 1

    sys.addaudithook(watch)


def survives(number: int, store: CheckpointStore, step: int, state: dict[str, Any]) -> bool:
    """Whether a save gets through without reaching its file operation of a number."""
    child = os.fork()
    if child == 0:
        kill_at_event(number, store.folder)
        store.save(step, state)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return status == 0


@pytest.mark.parametrize("kind", [LocalStore, ShardedStore])
@pytest.mark.parametrize("is_there_already", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_between_any_two_file_operations_leaves_a_whole_checkpoint(
    kind: Callable[[Path], CheckpointStore], is_there_already: bool, tmp_path: Path
) -> None:
    template, states = tmp_path / "template", {step: small_state(step) for step in (0, 10, 20)}
    for step in (10, 20) if is_there_already else (10,):
        kind(template).save(step, states[step])
    number, outcomes = 0, []
    while True:
        store = kind(tmp_path / "run")
        shutil.rmtree(store.folder, ignore_errors=True)
        shutil.copytree(template, store.folder)
        is_done = survives(number, store, 20, states[20])
        loaded = store.load(states[0])
        assert loaded is not None and loaded.rejected == ()
        assert is_of(loaded.state, loaded.step)
        outcomes.append(loaded.step)
        if is_done:
            break
        store.save(30, states[0])  # what was left over is no obstacle
        number += 1
    assert number > 8
    assert set(outcomes) == {10, 20}
    assert outcomes[-1] == 20


def test_whole_weights_are_taken_out_for_a_model_s_own_folder(tmp_path: Path) -> None:
    model = family_model("qwen3")
    optimizer = build_optimizer(model, MUON)
    take_steps(model, optimizer, range(1))
    ShardedStore(tmp_path / "run").save(1, run_state(model, optimizer, 1))
    exported = family_model("qwen3", seed=1)
    exported.load_state_dict(model_tensors(tmp_path / "run" / "step-00000001"))
    save_checkpoint(exported, tmp_path / "model")
    restored = load_checkpoint(tmp_path / "model").state_dict()
    assert same_tensors(dict(model.state_dict()), restored)
    with pytest.raises(UserError, match="not a sharded checkpoint"):
        model_tensors(tmp_path / "run")


def test_random_numbers_of_another_number_of_ranks_are_left_alone(tmp_path: Path) -> None:
    store, state = ShardedStore(tmp_path), small_state(1)
    store.save(1, state)
    index = json.loads((tmp_path / "step-00000001" / INDEX).read_text())
    (tmp_path / "step-00000001" / INDEX).write_text(json.dumps(index | {"world": 2}))
    manifest = json.loads((tmp_path / "step-00000001" / MANIFEST).read_text())
    manifest[INDEX] = sharded_storage.file_facts(tmp_path / "step-00000001" / INDEX)
    (tmp_path / "step-00000001" / MANIFEST).write_text(json.dumps(manifest))
    torch.rand(1)
    now = capture_rng()
    loaded = store.load(small_state(0) | {"rng": now})
    assert loaded is not None
    assert torch.equal(loaded.state["rng"]["cpu"], now["cpu"])
    assert not torch.equal(loaded.state["rng"]["cpu"], state["rng"]["cpu"])
