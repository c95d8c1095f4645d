"""A training run on several gloo processes beside the same run in one: what tests of parallel layouts compare."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from modelstack.architecture.attention.compressed import IndexStage
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.architecture.moe.balancing import BiasBalancer
from modelstack.data.batches import Batch
from modelstack.decide.memory import Layout
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.mesh import Mesh, ParallelConfig, make_mesh
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.spread_passes import ShardedPasses
from modelstack.train.precision import with_fp32_masters
from modelstack.train.step import Judge, StepReport, TrainState, always, local_state, train_step
from tests.modelstack.train.toys import family_config
from tests.processes import run_on_ranks

# AdamW divides a gradient by its own size: where that is rounding noise, eps keeps the noise from becoming a step.
ADAMW = OptimizerConfig(name="adamw", lr=0.01, eps=1e-4)
MUON = OptimizerConfig(lr=0.01, newton_schulz="quintic_5", newton_schulz_dtype="float32")
B, T, V = 2, 16, 128


class SpreadCase(Protocol):
    """A training on several ranks."""

    @property
    def layout(self) -> Layout:
        """Ranks of the training."""
        ...

    def alone(self) -> Self:
        """Return the same training on one rank."""
        ...


AnyCase = TypeVar("AnyCase", bound=SpreadCase)


@dataclass(frozen=True)
class Case:
    """One layout of one model, trained for some steps."""

    family: str
    layout: Layout
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the toy's config."""
    optimizer: OptimizerConfig = ADAMW
    options: dict[str, Any] = field(default_factory=lambda: {"precision": "fp32"})
    """Of `ParallelConfig`."""
    hold_whole_gradients: bool = False
    micro_batches: int = 1
    n_steps: int = 2
    """The second one has what the first one left in the optimizer."""
    max_norm: float = 0.05
    judge: Judge = always
    index_stage: IndexStage = "sparse"
    alter: Callable[[Batch], Batch] = lambda batch: batch

    def alone(self) -> Case:
        """Return the case with all settings at their defaults that a run of one process does not read."""
        layout, options = Layout(shard=self.layout.data_ranks), {"precision": self.options["precision"]}
        return replace(self, layout=layout, options=options, hold_whole_gradients=False)


def toy(case: Case) -> CausalLM:
    """Return the case's model, the same in every process."""
    torch.manual_seed(0)
    return CausalLM(family_config(case.family).with_(**case.changes))


def make_batch(number: int) -> Batch:
    """Return a batch of two documents a row; batches have different numbers of labels."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(0, V, (B, T), generator=generator)
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[:, : 1 + number % 5] = IGNORED
    documents = (torch.arange(T) >= 5 + number % 7).long().expand(B, T)
    return Batch(ids, labels, documents, number)


def with_replies(batch: Batch) -> Batch:
    """Return a batch of few labelled tokens; every other one has weights, every fifth no label at all."""
    number = batch.position
    labels = batch.labels_BT.clone()
    labels[:, : T if number % 5 == 4 else 10 + number % 4] = IGNORED
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(number)) * 3
    return replace(batch, labels_BT=labels, weights_BT=weights if number % 2 else None)


def with_padding(batch: Batch) -> Batch:
    """Return the batch with an end that is padding, of another length in each."""
    counted = (torch.arange(T) < T - 2 - batch.position % 3).expand(B, T)
    labels = batch.labels_BT.masked_fill(~counted, IGNORED)
    documents = batch.documents_BT.masked_fill(~counted, 2)
    return replace(batch, labels_BT=labels, documents_BT=documents, counted_BT=counted)


def train_whole(case: Case) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
    """Return the reports and the weights of one process that takes the batches of all ranks."""
    model = toy(case)

    def build(model: torch.nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(model, case.optimizer)

    is_fp32 = case.options["precision"] == "fp32"
    state = local_state(model, build(model) if is_fp32 else with_fp32_masters(model, build))
    return _train(case, state, list(range(case.layout.data_ranks)), case.layout.data_ranks)


def train_spread(case: Case, mesh: Mesh) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
    """Return the reports and the whole weights of this rank's run."""
    model = toy(case)
    has_bias = model.config.has_experts and model.config.score_correction_bias
    parallelize(model, mesh, ParallelConfig(layout=case.layout, **case.options))
    balancer = BiasBalancer(model) if has_bias else None
    passes = ShardedPasses(model, mesh, balancer, case.hold_whole_gradients)
    state = TrainState(model, build_optimizer(model, case.optimizer), passes)
    return _train(case, state, [mesh.data_rank], case.layout.data_ranks)


def _train(
    case: Case, state: TrainState, ranks: list[int], n_ranks: int
) -> tuple[list[StepReport], dict[str, Any]]:
    reports = []
    for step in range(case.n_steps):
        first = step * case.micro_batches
        batches = [
            case.alter(make_batch((first + micro) * n_ranks + rank))
            for micro in range(case.micro_batches)
            for rank in ranks
        ]
        reports.append(
            train_step(state, batches, max_norm=case.max_norm, judge=case.judge, index_stage=case.index_stage)
        )
    return reports, whole_values(state.model)


def whole_values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer, gathered."""
    values = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in values.items()}


def all_differences(cases: Mapping[str, Case]) -> dict[str, dict[str, float]]:
    """Return `differences` of each case; a collective operation of all ranks."""
    return compared(cases, train_whole, differences)


def compared(
    cases: Mapping[str, AnyCase], train: Callable[[AnyCase], Any], differ: Callable[..., dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Return `differ(case, mesh, *train(case.alone()))` of each case; a collective operation of all ranks."""
    expected = trained_once(train, [case.alone() for case in cases.values()])
    meshes = {case.layout: make_mesh(case.layout) for case in cases.values()}
    return {
        name: differ(case, meshes[case.layout], *each)
        for (name, case), each in zip(cases.items(), expected, strict=True)
    }


def differences(
    case: Case, mesh: Mesh, expected: list[StepReport], whole: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return how far losses and norms (relative) and weights are from one process's, and how far those moved."""
    reports, spread = train_spread(case, mesh)
    assert whole.keys() == spread.keys()
    assert [report.n_tokens for report in reports] == [report.n_tokens for report in expected]
    assert reports[0].losses.keys() == expected[0].losses.keys()
    initial = dict(toy(case).named_parameters())
    pairs = list(zip(reports, expected, strict=True))
    return {
        "loss": max(abs(a.losses[name] / b.losses[name] - 1) for a, b in pairs for name in b.losses),
        "norm": max(abs(a.gradient_norm / b.gradient_norm - 1) for a, b in pairs),
        "weights": max((whole[name] - spread[name]).abs().max().item() for name in whole),
        "moved": max((whole[name] - value).abs().max().item() for name, value in initial.items()),
    }


def trained_once(train: Callable[[AnyCase], Any], cases: Sequence[AnyCase]) -> list[Any]:
    """Return `train(case)` of each case on every rank, where one rank alone trains each distinct case."""
    distinct: list[AnyCase] = []
    for case in cases:
        if case not in distinct:
            distinct.append(case)
    rank, n_ranks = dist.get_rank(), dist.get_world_size()
    of_ranks: list[Any] = [None] * n_ranks
    dist.all_gather_object(of_ranks, [train(case) for case in distinct[rank::n_ranks]])
    places = [distinct.index(case) for case in cases]
    return [of_ranks[place % n_ranks][place // n_ranks] for place in places]


def on_ranks(n_ranks: int, folder: Path, body: Callable[[int], Any]) -> list[Any]:
    """Return what `body(rank)`, a function of a module, gives as JSON on each of some processes."""
    run_on_ranks(_child, (n_ranks, str(folder), body), n_ranks)
    return [json.loads((folder / str(rank)).read_text(encoding="utf-8")) for rank in range(n_ranks)]


def _child(rank: int, n_ranks: int, folder: str, body: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=n_ranks)
    result = body(rank)
    Path(folder, str(rank)).write_text(json.dumps(result), encoding="utf-8")
    # gloo's threads now and then abort a process on its way out; what is tested is written by now.
    os._exit(0)
