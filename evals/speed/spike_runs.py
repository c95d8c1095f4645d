"""A run of the spike benchmark: a rule, a fault, a seed; in one process, or in two that each hold the model.

With two processes, gradients and losses are averaged before the fault is injected, so a fault on one rank is
visible to that rank only. This is the hard case: ranks that decide separately diverge permanently.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from evals.speed.byte_runs import ByteRows, held_out_bits, model_keys, new_model
from evals.speed.results import write_whole
from evals.speed.spike_rules import OlmoRule, PalmRule, SkipStepAdamW
from modelstack.data.batches import Batch
from modelstack.stability.agreement import Ranks
from modelstack.stability.fault_injection import Ledger, inject
from modelstack.stability.faults import BadGradient, BadLoss, Faults, RandomTokens
from modelstack.stability.goodput import account
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.run_events import EVENTS_FILE, EventLog, read_events
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import LoopConfig, Run, Supervisor, Unsupervised, train
from modelstack.train.passes import LocalPasses
from modelstack.train.schedules import ScheduleConfig, schedule
from modelstack.train.step import StepReport, TrainState

UNGUARDED, OLMO, PALM, OURS = "no guard", "OLMo-core rule", "PaLM by hand", "modelstack"
RULES = (UNGUARDED, OLMO, PALM, OURS)
CLEAN, RANK_LOCAL = "none", "rank-local NaN"
LR, BETAS, WEIGHT_DECAY = 2e-3, (0.9, 0.95), 0.1
WORLD = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the runs."""

    n_steps: int = 400
    fault_step: int = 210
    width: int = 128
    layers: int = 4
    rows: int = 8
    row_tokens: int = 64
    save_every: int = 20
    evaluate_every: int = 10
    evaluated_rows: int = 64
    final_rows: int = 512


@dataclass(frozen=True, slots=True)
class Spec:
    """Identifies a run."""

    rule: str
    fault: str
    seed: int
    world: int = 1

    @property
    def file_name(self) -> str:
        """Return the file name of its outcome."""
        return f"{self.rule}-{self.fault}-{self.seed}-{self.world}.json".replace(" ", "_")


@dataclass(slots=True)
class Outcome:
    """Result of a run; non-finite numbers are written as Python's, also in JSON."""

    final_bits: float = 0.0
    """Bits per byte of held-out text."""
    losses: list[float] = field(default_factory=list[float])
    norms: list[float] = field(default_factory=list[float])
    curve: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])
    """Tuples of batches trained on, step, and bits per byte of held-out text."""
    skipped: list[int] = field(default_factory=list[int])
    """Steps whose batch changed no weights."""
    n_undone: int = 0
    """Number of steps whose work was discarded."""
    n_passed_over: int = 0
    """Number of batches skipped without training on them."""

    @property
    def n_trained(self) -> int:
        """Return the number of computed batches."""
        return len(self.losses)


def faults_of(name: str, at: int) -> Faults:
    """Return the schedule of a named fault."""
    schedules = {
        CLEAN: (),
        "NaN gradient": (BadGradient(step=at),),
        "infinite loss": (BadLoss(step=at, factor=float("inf")),),
        "loss x 1000": (BadLoss(step=at, factor=1000.0),),
        "random tokens": (RandomTokens(step=at, n_steps=10, lr_factor=5.0),),
        RANK_LOCAL: (BadGradient(step=at, rank=1),),
    }
    return Faults(schedule=schedules[name])


FAULTS = ("NaN gradient", "infinite loss", "loss x 1000", "random tokens")
"""Faults of the runs in one process."""


@dataclass(frozen=True, slots=True)
class ReplicatedPasses(LocalPasses):
    """The whole model on each of several processes, with different rows."""

    def total(self, n: int) -> int:
        """Return the sum over the ranks."""
        number = torch.tensor(n)
        dist.all_reduce(number)
        return int(number)

    def backward(self, batches: Sequence[Batch], n_labels: int) -> dict[str, float]:
        """Sum gradients and losses over the ranks; they are already divided by the total number of labels."""
        losses = LocalPasses.backward(self, batches, n_labels)
        flat = torch.cat([p.grad.view(-1) for p in self.model.parameters() if p.grad is not None])
        values = torch.cat([flat, torch.tensor(list(losses.values()))])
        dist.all_reduce(values)
        at = 0
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad.copy_(values[at : at + p.grad.numel()].view_as(p.grad))
                at += p.grad.numel()
        return dict(zip(losses, values[at:].tolist(), strict=True))


@dataclass(slots=True)
class _Watch:
    """Hook that records the curves of an outcome."""

    outcome: Outcome
    sizes: Sizes

    def after_step(self, run: Run, report: StepReport) -> None:
        self.outcome.losses.append(report.losses["total"])
        self.outcome.norms.append(report.gradient_norm)
        if report.rejected:
            self.outcome.skipped.append(report.step)
        if run.state.step % self.sizes.evaluate_every == 0:
            bits = held_out_bits(run.state.model, self.sizes.evaluated_rows, self.sizes.row_tokens)
            self.outcome.curve.append((self.outcome.n_trained, run.state.step, bits))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def run_one(spec: Spec, sizes: Sizes, ranks: Ranks | None = None) -> Outcome:
    """Train once and return the outcome."""
    model = new_model(model_keys(width=sizes.width, layers=sizes.layers), spec.seed)
    settings: dict[str, Any] = {"lr": LR, "betas": BETAS, "weight_decay": WEIGHT_DECAY}
    optimizer = (SkipStepAdamW if spec.rule == OLMO else torch.optim.AdamW)(model.parameters(), **settings)
    passes = LocalPasses(model) if ranks is None else ReplicatedPasses(model)
    rank = 0 if ranks is None else ranks.rank
    loader = ByteRows(sizes.rows // spec.world, sizes.row_tokens, spec.seed, rank, spec.world)
    rates = ScheduleConfig(warmup_steps=20, total_steps=sizes.n_steps, decay_steps=sizes.n_steps // 5)
    outcome = Outcome()
    run = Run(LoopConfig(n_steps=sizes.n_steps), TrainState(model, optimizer, passes), loader, schedule(rates))
    run.hooks["watch"] = _Watch(outcome, sizes)
    faults = faults_of(spec.fault, sizes.fault_step)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if spec.rule == OURS:
            guard = Guard(GuardConfig(), (lambda own: own) if ranks is None else ranks.worst)
            run.supervisor = GuardedRun(
                guard, LocalStore(folder, keep=3), SupervisorConfig(save_every=sizes.save_every)
            )
        ledger = inject(run, faults, folder, rank)
        run.supervisor = _supervised(spec.rule, run, loader, faults, ledger, folder)
        for _ in train(run):
            pass
        _count_losses(run.supervisor, outcome, folder)
    outcome.final_bits = held_out_bits(model, sizes.final_rows, sizes.row_tokens)
    return outcome


def _supervised(rule: str, run: Run, loader: ByteRows, faults: Faults, ledger: Ledger, folder: Path) -> Supervisor:
    if rule == OURS and isinstance(run.supervisor, GuardedRun):
        log = EventLog(folder / EVENTS_FILE)
        run.hooks["events"] = log
        run.supervisor.store = log.watching(run.supervisor.store)
        return run.supervisor
    if rule == OLMO and isinstance(run.state.optimizer, SkipStepAdamW):
        return OlmoRule(run.state.optimizer)
    return PalmRule(loader, faults, ledger) if rule == PALM else Unsupervised()


def _count_losses(supervisor: Supervisor, outcome: Outcome, folder: Path) -> None:
    if isinstance(supervisor, GuardedRun):
        outcome.n_undone = account(read_events(folder / EVENTS_FILE)).counts["steps rolled back"]
    elif isinstance(supervisor, OlmoRule):
        outcome.skipped = supervisor.skipped
    elif isinstance(supervisor, PalmRule):
        outcome.n_undone, outcome.n_passed_over = supervisor.n_undone, supervisor.n_passed_over


def run_on_two(specs: Sequence[Spec], sizes: Sizes, folder: Path) -> None:
    """Run specifications one after another on one pair of processes, and write the outcomes to the folder."""
    with tempfile.TemporaryDirectory() as rendezvous:
        spawn(_of_rank, (f"file://{rendezvous}/rendezvous", specs, sizes, str(folder)), nprocs=WORLD)


def _of_rank(rank: int, rendezvous: str, specs: Sequence[Spec], sizes: Sizes, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=WORLD)
    ranks = Ranks.of_run()
    for spec in specs:
        outcome = run_one(spec, sizes, ranks)
        if rank == 0:
            write_outcome(Path(folder) / spec.file_name, outcome)
    dist.barrier()
    os._exit(0)  # gloo's teardown sometimes aborts a process that has finished its work


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write an outcome atomically."""
    write_whole(path, json.dumps(asdict(outcome)))


def read_outcome(path: Path) -> Outcome:
    """Read an outcome."""
    return Outcome(**json.loads(path.read_text(encoding="utf-8")))
