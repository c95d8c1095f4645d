"""Guarded runs over real shards that note what they did, losses bit by bit, rows and documents, until killed.

Every row of tokens is read back into the documents that it holds: each begins with its number.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from modelstack.architecture.config import build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.data.loader import PackedLoader, PackingConfig
from modelstack.data.shard_writing import SourcedText
from modelstack.data.shards import Shards
from modelstack.decide.memory import Layout
from modelstack.stability.agreement import Ranks
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import CheckpointStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import LoopConfig, Run, train
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.mesh import Mesh, ParallelConfig
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.spread_passes import ShardedPasses
from modelstack.train.step import TrainState, local_state
from tests.modelstack.data.toy_shards import toy_shards

N_STEPS, ROWS_PER_STEP, ROW_TOKENS = 20, 8, 64
N_DOCUMENTS = 900
"""More than all steps read, so that within a run none may come twice."""
MODEL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "layer_types": ("full_attention",) * 2,
    "mlp_layer_types": ("dense",) * 2,
}
OPTIMIZER = OptimizerConfig(lr=3e-3, newton_schulz_dtype="float32")


def make_shards(folder: Path) -> Shards:
    """Documents of a number and up to 30 letters, each shorter than a row."""
    texts = [SourcedText(f"{n:04d}" + "abcdefgh "[n % 7 :] * (n % 6), "all") for n in range(N_DOCUMENTS)]
    return toy_shards(folder, texts)


def make_run(
    shards: Shards,
    store: CheckpointStore,
    events: list[str],
    *,
    every: int = 5,
    mesh: Mesh | None = None,
    seed: int = 0,
) -> Run:
    """Return a run of 20 steps of 8 rows, over as many ranks as the mesh has."""
    model = initialise(CausalLM(build(MODEL)), seed)
    rank, world = (0, 1) if mesh is None else (mesh.data_rank, mesh.layout.shard)
    if mesh is not None:
        parallelize(model, mesh, ParallelConfig(layout=mesh.layout, precision="fp32"))
    optimizer = build_optimizer(model, OPTIMIZER)
    state = local_state(model, optimizer)
    if mesh is not None:
        state = TrainState(model, optimizer, ShardedPasses(model, mesh))
    loader = PackedLoader(
        shards,
        PackingConfig(row_tokens=ROW_TOKENS, window_rows=24, seed=3),
        rows_per_batch=ROWS_PER_STEP // world,
        rank=rank,
        world=world,
    )
    guard = Guard(GuardConfig(), Ranks.of_run().worst)
    supervisor = GuardedRun(guard, store, SupervisorConfig(save_every=every), events.append)
    return Run(LoopConfig(n_steps=N_STEPS), state, Noting(loader), lambda step: 1 - step / 30, supervisor)


def layout(world: int) -> Layout:
    """Return that of FSDP alone."""
    return Layout(shard=world)


class Noting:
    """A loader that remembers the last batch it gave."""

    def __init__(self, loader: PackedLoader) -> None:
        self.loader = loader
        self.last: Any = None

    def __iter__(self) -> Noting:
        return self

    def __next__(self) -> Any:
        self.last = next(self.loader)
        return self.last

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)


def go_on(run: Any, log: Path, *, kill_after: int | None = None) -> None:
    """Resume and take the steps that are left, writing a line for each; kill this process after one of them."""
    run.supervisor.resume(run)
    with log.open("a", encoding="utf-8") as file:
        for report in train(run):
            batch = run.loader.last
            line = {
                "step": report.step,
                "loss": report.losses["total"].hex(),
                "rejected": report.rejected,
                "position": batch.position,
                "rows": [documents_in(row) for row in batch.ids_BT.tolist()],
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            if report.step + 1 == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
    run.supervisor.store.wait()


def documents_in(row: Iterable[int]) -> list[int]:
    """Return the numbers that a row's documents begin with."""
    found, digits = [], ""
    for token in row:
        digits = digits + chr(token) if ord("0") <= token <= ord("9") else ""
        if len(digits) == 4:
            found.append(int(digits))
    return found


def weights(run: Run) -> dict[str, Tensor]:
    """Return whole parameters; every rank calls it."""
    parameters = {name: p.detach() for name, p in run.state.model.named_parameters()}
    return {name: (p.full_tensor() if isinstance(p, DTensor) else p).clone() for name, p in parameters.items()}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def what_counted(attempts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the steps that the final weights are made of: each attempt's until the next one took up."""
    kept: list[dict[str, Any]] = []
    for attempt in attempts:
        if attempt:
            kept = [line for line in kept if line["step"] < attempt[0]["step"]] + attempt
    return kept


def losses(lines: list[dict[str, Any]]) -> list[str]:
    """Return losses, exactly."""
    return [line["loss"] for line in lines]


def rows_of_ranks(of_ranks: list[list[dict[str, Any]]]) -> dict[int, list[int]]:
    """Return the documents of each row of the stream, by its number.

    Raises:
        AssertionError: A row came twice.
    """
    found: dict[int, list[int]] = {}
    for rank, lines in enumerate(of_ranks):
        for line in lines:
            for n, documents in enumerate(line["rows"]):
                number = line["position"] + rank * len(line["rows"]) + n
                assert number not in found, f"row {number} was used twice"
                found[number] = documents
    return found


def check_data(rows: dict[int, list[int]], whole: dict[int, list[int]]) -> None:
    """Hold the rows that a run used against the uninterrupted one's: none lost, no document repeated."""
    assert sorted(rows) == list(range(N_STEPS * ROWS_PER_STEP))
    assert rows == whole
    documents = [document for row in rows.values() for document in row]
    assert len(documents) > 300
    assert len(documents) == len(set(documents))
