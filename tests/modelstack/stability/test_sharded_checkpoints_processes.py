"""Sharded checkpoints of 1, 2 and 4 processes, each loaded at the others; what fails on one rank fails on all."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from modelstack.decide.memory import Layout
from modelstack.errors import UserError
from modelstack.stability.agreement import Ranks
from modelstack.stability.guard import Guard, GuardConfig, Verdict
from modelstack.stability.run_checkpoints import restore_rng
from modelstack.stability.sharded_checkpoints import ShardedStore, model_tensors
from modelstack.stability.sharded_storage import read_index, whole_tensors
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.mesh import ParallelConfig, make_mesh
from modelstack.train.parallel.parallelize import parallelize
from tests.modelstack.stability.run_states import flat, full_disk, run_state, same_tensors, take_steps
from tests.modelstack.train.toys import family_model
from tests.processes import run_on_ranks

pytestmark = pytest.mark.slow

MUON = OptimizerConfig(lr=0.01, newton_schulz_dtype="float32")


def make(seed: int, mesh: Any = None) -> tuple[nn.Module, Any]:
    """A model with fused and packed matrices, sharded where there is a mesh; one parameter has 3 elements."""
    model = family_model("gpt_oss", seed)
    model.register_parameter("odd", nn.Parameter(torch.randn(3)))
    if mesh is not None:
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, build_optimizer(model, MUON)


GRIDS = {
    "replicated": ("llama", Layout(replicate=2, shard=2)),
    "tensor parallel": ("llama", Layout(shard=2, tp=2)),
    "expert parallel": ("qwen3_moe", Layout(shard=4, ep=2)),
}


def make_spread(seed: int, family: str, layout: Layout | None = None) -> tuple[nn.Module, Any]:
    """A model, spread over 4 ranks where there is a layout."""
    model = family_model(family, seed)
    if layout is not None:
        parallelize(model, make_mesh(layout), ParallelConfig(layout=layout, precision="fp32"))
    return model, build_optimizer(model, MUON)


def loaded_into(store: ShardedStore, model: nn.Module, optimizer: Any) -> int:
    loaded = store.load(run_state(model, optimizer, 0))
    assert loaded is not None
    model.load_state_dict(loaded.state["run"]["train"]["model"])
    optimizer.load_state_dict(loaded.state["run"]["train"]["optimizer"])
    restore_rng(loaded.state["rng"])
    return loaded.step


def restores(folder: Path, mesh: Any = None, made: tuple[nn.Module, Any] | None = None) -> bool:
    """Whether a fresh model, sharded or not, becomes what was saved: weights and moments, bit for bit."""
    model, optimizer = made or make(7, mesh)
    loaded_into(ShardedStore(folder), model, optimizer)
    return same_tensors(flat(run_state(model, optimizer, 0)), load_file(folder / "expected.safetensors"))


def save_and_keep(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Take a step, save, and keep beside it what a load has to give."""
    take_steps(model, optimizer, range(1))
    ShardedStore(folder).save(1, run_state(model, optimizer, 1))
    keep_expected(folder, run_state(model, optimizer, 1))


def keep_expected(folder: Path, state: dict[str, Any]) -> dict[str, Tensor]:
    """Write weights and moments, whole, by the first rank; return them."""
    expected = flat(state)
    if not dist.is_initialized() or dist.get_rank() == 0:
        folder.mkdir(exist_ok=True)
        save_file(expected, folder / "expected.safetensors")
    return expected


def equal_files(one: Path, other: Path) -> bool:
    """Whether two checkpoints are the same byte by byte."""
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def error_of(act: Callable[[], object]) -> str:
    try:
        act()
    except (OSError, UserError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def two_write(rank: int, mesh: Any, folder: Path) -> dict[str, Any]:
    """Save at 2 processes, in the foreground and in the background; fail; be damaged; continue."""
    model, optimizer = make(0, mesh)
    take_steps(model, optimizer, range(2))
    torch.manual_seed(100 + rank)
    background = ShardedStore(folder / "two", in_background=True)
    background.save(2, run_state(model, optimizer, 2))
    snapshot = keep_expected(folder / "two", run_state(model, optimizer, 2))
    drawn = torch.rand(2).tolist()
    take_steps(model, optimizer, range(2, 4))  # while it is written
    background.wait()
    found: dict[str, Any] = {}
    moved = flat(run_state(model, optimizer, 4))
    found["training went on"] = not same_tensors(snapshot, moved)
    found["restores"] = restores(folder / "two", mesh)
    found["own random numbers"] = torch.rand(2).tolist() == drawn
    resumed, of_resumed = make(3, mesh)
    loaded_into(background, resumed, of_resumed)
    take_steps(resumed, of_resumed, range(2, 4))
    found["goes on bit for bit"] = same_tensors(flat(run_state(resumed, of_resumed, 4)), moved)
    found["sharded"] = sum(isinstance(p, DTensor) for p in resumed.parameters())

    store = ShardedStore(folder / "faults", keep=2)
    for step in (1, 2):
        store.save(step, run_state(model, optimizer, step))
    ShardedStore(folder / "anew").save(2, run_state(model, optimizer, 2))
    dist.barrier()
    found["second save"] = equal_files(*(folder / name / "step-00000002" for name in ("faults", "anew")))
    other = ShardedStore(folder / "other", checksum="crc32")
    other.save(1, run_state(model, optimizer, 1))
    other.save(2, run_state(model, optimizer, 2) | {"new": torch.ones(3)})  # of the first rank alone
    other.save(3, run_state(model, optimizer, 3) | {"new": torch.zeros(3)})
    dist.barrier()
    found["new tensor"] = [
        whole_tensors(path, read_index(path, step), ["rest/new"])["rest/new"].tolist()
        for step in (2, 3)
        for path in [folder / "other" / f"step-{step:08d}"]
    ]
    loaded = other.load(run_state(model, optimizer, 0))
    found["whole by CRC-32"] = loaded is not None and [loaded.step, *loaded.rejected]
    if rank == 0:
        damaged = folder / "faults" / "step-00000002" / "rank-00001.safetensors"
        os.truncate(damaged, damaged.stat().st_size - 1)
    dist.barrier()
    loaded = store.load(run_state(model, optimizer, 0))
    assert loaded is not None
    found["falls back"] = [loaded.step, *loaded.rejected]
    with full_disk(100_000 if rank == 1 else resource.RLIM_INFINITY):  # enough for the rendezvous
        found["full disk"] = error_of(lambda: store.save(3, run_state(model, optimizer, 3)))
        in_background = ShardedStore(folder / "faults", in_background=True)
        in_background.save(4, run_state(model, optimizer, 4))
        found["full disk in the background"] = error_of(in_background.wait)
    dist.barrier()
    found["left"] = sorted(path.name for path in (folder / "faults").iterdir())

    guard = Guard(GuardConfig(), Ranks.of_run().worst)
    verdicts = [guard.judge(2.0, 1.0), guard.judge(float("nan") if rank == 1 else 2.0, 1.0), guard.judge(2.0, 1.0)]
    found["verdicts"] = [judgement.verdict.name for judgement in verdicts]
    found["memory"] = guard.state_dict()
    found["texts"] = Ranks.of_run().texts("é" * rank)
    return found


def stages_write(rank: int, folder: Path) -> dict[str, Any]:
    """Save as two stages of a pipeline do: each rank has a half of the model, and numbers it from 0."""
    model: Any = make(0)[0]
    own = nn.Module()
    own.add_module("model", nn.Module())
    stage: Any = own.model
    stage.add_module("layers", nn.ModuleDict({str(rank): model.model.layers[rank]}))
    if rank == 0:
        stage.add_module("embed_tokens", model.model.embed_tokens)
    else:
        stage.add_module("norm", model.model.norm)
        own.add_module("lm_head", model.lm_head)
        own.register_parameter("odd", model.odd)
    optimizer = build_optimizer(own, MUON)
    for number, parameter in enumerate(own.parameters()):
        parameter.grad = torch.full_like(parameter, 0.1 * number + rank)
    optimizer.step()
    ShardedStore(folder / "stages").save(1, run_state(own, optimizer, 1))
    wholes = flat(run_state(own, optimizer, 1))
    return {"n": len(wholes), "sums": {name: float(tensor.double().sum()) for name, tensor in wholes.items()}}


def work(rank: int, world: int, what: str, folder: Path, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{results}.rendezvous", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    found: dict[str, Any] = {}
    if what == "two write":
        found = two_write(rank, mesh, folder) | {"stages": stages_write(rank, folder)}
    elif what == "four read and write":
        found = {"from two": restores(folder / "two", mesh), "from one": restores(folder / "one", mesh)}
        save_and_keep(folder / "four", *make(5, mesh))
        for name, (family, layout) in GRIDS.items():
            found[name] = restores(folder / family, made=make_spread(7, family, layout))
            save_and_keep(folder / name, *make_spread(8, family, layout))
    elif what == "two read":
        found = {"from one": restores(folder / "one", mesh), "from four": restores(folder / "four", mesh)}
    Path(f"{results}.{rank}").write_text(json.dumps(found), encoding="utf-8")
    os._exit(0)  # gloo's teardown now and then aborts a process


def run(world: int, what: str, folder: Path) -> list[dict[str, Any]]:
    results = folder / what.replace(" ", "-")
    run_on_ranks(work, (world, what, folder, str(results)), world)
    return [json.loads(Path(f"{results}.{rank}").read_text(encoding="utf-8")) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where 2 processes have written, and 1."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    """What 2 processes saw."""
    return run(2, "two write", folder)


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    """A checkpoint of one process, with no process group."""
    save_and_keep(folder / "one", *make(2))
    for family in ("llama", "qwen3_moe"):
        save_and_keep(folder / family, *make_spread(2, family))
    return folder / "one"


def test_two_processes_resume_bit_for_bit_while_the_writing_went_on_beside_training(
    two: list[dict[str, Any]],
) -> None:
    for found in two:
        assert found["training went on"]
        assert found["restores"]
        assert found["own random numbers"]
        assert found["goes on bit for bit"]
        assert found["sharded"] > 10


def test_all_ranks_take_the_same_older_checkpoint_when_one_rank_s_file_is_broken(
    two: list[dict[str, Any]],
) -> None:
    assert two[0]["falls back"] == two[1]["falls back"]
    step, reason = two[0]["falls back"]
    assert step == 1
    assert reason.startswith("step-00000002: rank-00001.safetensors has ")


def test_later_saves_follow_the_first_one_s_plan_until_a_rank_s_tensors_change(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["second save"]
        assert found["new tensor"] == [[1.0] * 3, [0.0] * 3]
        assert found["whole by CRC-32"] == [3]


def test_a_full_disk_of_one_rank_fails_the_checkpoint_on_all_and_leaves_the_older_ones(
    two: list[dict[str, Any]],
) -> None:
    for found in two:
        assert found["full disk"].startswith("OSError: step-00000003: rank 1: rank-00001.safetensors:")
        assert found["full disk in the background"].startswith("OSError: step-00000004: rank 1: rank-00001")
        assert "File too large" in found["full disk"]
        assert found["left"] == ["step-00000001", "step-00000002"]


def test_what_one_rank_alone_rejects_all_reject_and_remember_alike(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["verdicts"] == [Verdict.GO.name, Verdict.SKIP.name, Verdict.GO.name]
        assert found["texts"] == ["", "é"]
    assert two[0]["memory"] == two[1]["memory"]


def test_stages_of_a_pipeline_load_as_one_model(two: list[dict[str, Any]], folder: Path) -> None:
    model, optimizer = make(9)
    loaded_into(ShardedStore(folder / "stages"), model, optimizer)
    whole = {name: float(tensor.double().sum()) for name, tensor in flat(run_state(model, optimizer, 1)).items()}
    assert whole == two[0]["stages"]["sums"] | two[1]["stages"]["sums"]
    assert len(whole) == two[0]["stages"]["n"] + two[1]["stages"]["n"]


def test_a_checkpoint_loads_at_another_number_of_processes(
    two: list[dict[str, Any]], one: Path, folder: Path
) -> None:
    assert restores(one)
    assert restores(folder / "two")
    expected = load_file(folder / "two" / "expected.safetensors")
    weights = {f"model/{name}": tensor for name, tensor in model_tensors(folder / "two" / "step-00000002").items()}
    assert same_tensors(weights, {name: tensor for name, tensor in expected.items() if name.startswith("model/")})
    for found in run(4, "four read and write", folder):
        assert found == dict.fromkeys(("from two", "from one", *GRIDS), True)
    assert restores(folder / "four")
    assert all(restores(folder / name, made=make_spread(9, family)) for name, (family, _) in GRIDS.items())
    for found in run(2, "two read", folder):
        assert found == {"from one": True, "from four": True}
