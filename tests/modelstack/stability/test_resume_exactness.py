"""A run that was killed and goes on is the run that was not: losses, weights and data, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from modelstack.data.shards import Shards
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.sharded_checkpoints import ShardedStore
from modelstack.train.loop import train
from modelstack.train.parallel.mesh import Mesh, make_mesh
from tests.modelstack.stability.resumable_runs import (
    N_STEPS,
    ROWS_PER_STEP,
    check_data,
    go_on,
    layout,
    losses,
    make_run,
    make_shards,
    read_log,
    rows_of_ranks,
    weights,
    what_counted,
)
from tests.modelstack.stability.run_states import full_disk, same_tensors
from tests.processes import start

pytestmark = pytest.mark.slow

KILLED_AT = 13
CLOSE, WEIGHTS_CLOSE = 1e-6, 1e-5
"""Of losses and of weights at another number of processes: sums are in another order, and Muon's iteration makes
more of that than AdamW."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """The parent computes too, and sums depend on the number of threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def killed_alone(shards: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    go_on(make_run(Shards(shards), LocalStore(folder), []), folder / "killed.jsonl", kill_after=KILLED_AT)


def test_one_process_killed_at_step_13_goes_on_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    process = start(killed_alone, shards, folder)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    whole = make_run(Shards(shards), LocalStore(tmp_path / "whole"), [])
    go_on(whole, tmp_path / "whole.jsonl")
    resumed = make_run(Shards(shards), LocalStore(folder), [], seed=9)
    go_on(resumed, folder / "resumed.jsonl")
    expected = read_log(tmp_path / "whole.jsonl")
    attempts = [read_log(folder / "killed.jsonl"), read_log(folder / "resumed.jsonl")]
    assert [len(attempt) for attempt in attempts] == [KILLED_AT, 10]
    lines = what_counted(attempts)
    assert losses(lines) == losses(expected)
    assert len(set(losses(expected))) == N_STEPS
    assert same_tensors(weights(resumed), weights(whole))
    check_data(rows_of_ranks([lines]), rows_of_ranks([expected]))


def test_a_checkpoint_that_fails_in_the_background_is_told_of_and_the_run_goes_on(
    shards: Path, tmp_path: Path
) -> None:
    events: list[str] = []
    store = ShardedStore(tmp_path, in_background=True)
    run = make_run(Shards(shards), store, events)
    steps = train(run)
    with full_disk(1000):
        for _ in range(5):
            next(steps)
        assert store.load(run.state_dict()) is None  # waited for, and not there
    assert events == []
    assert len(list(steps)) == N_STEPS - 5
    [event] = events
    assert event.startswith("a checkpoint was not written: step-00000005: rank-00000.safetensors: ")
    assert "File too large" in event
    store.wait()
    assert sorted(path.name[-2:] for path in tmp_path.iterdir()) == ["10", "15", "20"]


def kill_while_writing() -> None:
    """Let this process kill itself when its share of step 10 is written and not yet hashed."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and ".step-00000010.partial/rank-00001" in str(arguments[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def two(rank: int, rendezvous: str, parts: Sequence[str], shards: Path, folder: Path) -> None:
    """Do some parts of the story, as one of 2 processes; the last one may end in a kill."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = make_mesh(layout(2))
    for part in parts:
        play(part, mesh, rank, shards, folder)
    dist.barrier()
    os._exit(0)  # gloo's teardown now and then aborts a process


def play(part: str, mesh: Mesh, rank: int, shards: Path, folder: Path) -> None:
    """Run until the end or a kill; a part's first word is its run, its last one the step of the kill."""
    name, kill_after = part.split()[0], int(part.split()[-1]) if part[-1].isdigit() else None
    if "while writing" in part and rank == 1:
        kill_while_writing()
    store = ShardedStore(folder / name, in_background="background" in part)
    events: list[str] = []
    run = make_run(Shards(shards), store, events, mesh=mesh, seed=1 if (folder / name).exists() else 0)
    if name == "spoiled":
        spoil(run, rank)
    go_on(run, file_of(folder, part, f"{rank}.jsonl"), kill_after=kill_after)
    finals = weights(run)
    if rank == 0:
        save_file(finals, file_of(folder, part, "safetensors"))
    file_of(folder, part, f"{rank}.events").write_text("\n".join(events), encoding="utf-8")


def spoil(run: Any, rank: int) -> None:
    """Let rank 1's second layer give NaN at step 7."""

    def hook(module: Any, arguments: Any, output: Any) -> Any:
        is_spoiled = rank == 1 and run.state.step == 7
        return output * float("nan") if is_spoiled else output

    run.state.model.get_submodule("model.layers.1").register_forward_hook(hook)


def run_two(parts: Sequence[str], shards: Path, folder: Path) -> list[int | None]:
    """Run 2 processes to their end; when one was killed, the other is too, as torchrun does. Return exit codes.

    Gloo's own threads very rarely crash a process in the middle of a run (seen once in some hundred: "malloc():
    unaligned tcache chunk" in torch 2.13). A start that ended so is made once more, from what was there before it.
    """
    before = folder.with_name(f"{folder.name}-before-{parts[0].replace(' ', '-')}")
    shutil.copytree(folder, before)
    codes = start_two(parts, shards, folder)
    if not {-signal.SIGABRT, -signal.SIGSEGV}.isdisjoint(codes):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        codes = start_two(parts, shards, folder)
    return codes


def start_two(parts: Sequence[str], shards: Path, folder: Path) -> list[int | None]:
    """Run 2 processes as `run_two` says, once."""
    rendezvous = file_of(folder, parts[0], "rendezvous")
    processes = [start(two, rank, str(rendezvous), parts, shards, folder) for rank in range(2)]
    processes[1].join()
    if processes[1].exitcode != 0:
        processes[0].join(timeout=5)  # dies by itself, or waits for the other
        processes[0].kill()
    processes[0].join()
    return [process.exitcode for process in processes]


def file_of(folder: Path, part: str, ending: str) -> Path:
    return folder / f"{part.replace(' ', '-')}.{ending}"


def log_of(folder: Path, part: str, rank: int) -> list[dict[str, Any]]:
    return read_log(file_of(folder, part, f"{rank}.jsonl"))


def finals_of(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(file_of(folder, part, "safetensors"))


STORIES: dict[str, list[tuple[str, set[int]]]] = {
    "foreground": [("foreground killed at 13", {0}), ("foreground resumed", {10})],
    "background": [
        ("background killed while writing", {0}),
        ("background killed at 18", {5}),
        ("background resumed", {10, 15}),
    ],
}
"""Parts of a run, and the steps that each may begin with: what is in the background at a kill may be lost."""


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """An uninterrupted run of one process with a sharded store, and its weights."""
    folder = tmp_path_factory.mktemp("alone")
    run = make_run(Shards(shards), ShardedStore(folder / "alone"), [])
    go_on(run, folder / "alone.jsonl")
    return folder, weights(run)


@pytest.fixture(scope="module")
def told(shards: Path, alone: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of 2 processes, in as few starts as kills allow."""
    folder = tmp_path_factory.mktemp("two")
    at_10(alone[0] / "alone", folder / "doubled")
    first, second = ["whole", "spoiled", "foreground killed at 13"], ["foreground resumed"]
    assert run_two(first, shards, folder)[1] == -signal.SIGKILL
    assert run_two([*second, "background killed while writing"], shards, folder)[1] == -signal.SIGKILL
    assert run_two(["background killed at 18"], shards, folder)[1] == -signal.SIGKILL
    assert run_two(["background resumed", "doubled"], shards, folder) == [0, 0]
    return folder


def at_10(source: Path, target: Path) -> None:
    """Copy a run's checkpoint of step 10."""
    target.mkdir()
    shutil.copytree(source / "step-00000010", target / "step-00000010")


@pytest.mark.parametrize("story", STORIES)
def test_two_processes_killed_go_on_bit_for_bit(story: str, told: Path) -> None:
    parts = [part for part, _ in STORIES[story]]
    counted, expected = [], []
    for rank in range(2):
        attempts = [log_of(told, part, rank) for part in parts]
        for attempt, (_, begins) in zip(attempts, STORIES[story], strict=True):
            assert attempt[0]["step"] in begins
        lines = what_counted(attempts)
        assert losses(lines) == losses(log_of(told, "whole", rank))
        counted.append(lines)
        expected.append(log_of(told, "whole", rank))
    assert same_tensors(finals_of(told, parts[-1]), finals_of(told, "whole"))
    check_data(rows_of_ranks(counted), rows_of_ranks(expected))


def test_two_processes_go_on_as_one_with_the_same_stream(shards: Path, told: Path, tmp_path: Path) -> None:
    at_10(told / "whole", tmp_path / "halved")
    run = make_run(Shards(shards), ShardedStore(tmp_path / "halved"), [], seed=1)
    go_on(run, tmp_path / "halved.jsonl")
    lines = read_log(tmp_path / "halved.jsonl")
    expected = [log_of(told, "whole", rank) for rank in range(2)]
    assert [line["step"] for line in lines] == list(range(10, N_STEPS))
    check_close(losses(lines), losses(expected[0])[10:])
    check_same_weights(weights(run), finals_of(told, "whole"))
    check_data(first_half(expected) | rows_of_ranks([lines]), rows_of_ranks(expected))


def test_one_process_goes_on_as_two_with_the_same_stream(
    told: Path, alone: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    folder, finals = alone
    expected, lines = read_log(folder / "alone.jsonl"), [log_of(told, "doubled", rank) for rank in range(2)]
    assert [line["step"] for line in lines[0]] == list(range(10, N_STEPS))
    check_close(losses(lines[0]), losses(expected)[10:])
    check_same_weights(finals_of(told, "doubled"), finals)
    check_data(first_half([expected]) | rows_of_ranks(lines), rows_of_ranks([expected]))


def first_half(of_ranks: list[list[dict[str, Any]]]) -> dict[int, list[int]]:
    """Return the rows of the first 10 steps."""
    return {n: row for n, row in rows_of_ranks(of_ranks).items() if n < 10 * ROWS_PER_STEP}


def check_close(a: list[str], b: list[str]) -> None:
    assert len(a) == len(b) == 10
    assert max(abs(float.fromhex(x) - float.fromhex(y)) for x, y in zip(a, b, strict=True)) < CLOSE


def check_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < WEIGHTS_CLOSE


def test_nan_on_one_rank_is_the_same_verdict_on_both(told: Path) -> None:
    logs = [log_of(told, "spoiled", rank) for rank in range(2)]
    for log in logs:
        assert [line["step"] for line in log if line["rejected"]] == [7]
    assert losses(logs[0]) == losses(logs[1])
    assert all(tensor.isfinite().all() for tensor in finals_of(told, "spoiled").values())
    events = [file_of(told, "spoiled", f"{rank}.events").read_text(encoding="utf-8") for rank in range(2)]
    assert events[0] == events[1] == "step 7 skipped: loss is nan"
