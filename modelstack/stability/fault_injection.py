"""Faults injected into a run from outside the loop, by wrapping its passes, loader, schedule and store.

The step, the optimizer and the supervisor are unchanged. A wrapper acts where the real fault would occur: before
the passes (a process dies, a weight flips, a rank is slow), after them (gradients and losses), in the batch, in
the written file. A full disk is enforced by the kernel: a limit on the size of files, which makes the real writer
fail in the middle of its write.

Each fault happens once. It is recorded in a ledger, synced, before it happens, so a run that the fault killed
skips it after a restart. Each rank has its own ledger, because any rank may die.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch, Loader
from modelstack.errors import UserError
from modelstack.files import json_lines
from modelstack.stability.faults import (
    BadGradient,
    BadLoss,
    BitFlip,
    DamagedCheckpoint,
    Fault,
    Faults,
    FullDisk,
    RandomTokens,
    SigKill,
    SlowRank,
    key_of,
)
from modelstack.stability.run_checkpoints import CheckpointStore, Loaded
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.loop import Run
from modelstack.train.passes import Passes

_BITS: dict[torch.dtype, tuple[torch.dtype, int]] = {
    torch.float32: (torch.int32, 32),
    torch.bfloat16: (torch.int16, 16),
    torch.float16: (torch.int16, 16),
}


class Ledger:
    """Faults that have already happened on this rank, in any process of the run."""

    def __init__(self, path: Path) -> None:
        """Read the records of earlier processes of the run."""
        self._path = path
        lines = json_lines(path) if path.exists() else []
        self._keys = {json.loads(line)["fault"] for line in lines}
        self._now: set[str] = set()

    def begins(self, fault: Fault, step: int) -> bool:
        """Return whether a fault happens now.

        It is recorded and does not happen again, however the process ends.
        """
        key = key_of(fault, step)
        if key in self._keys:
            return False
        self._keys.add(key)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"fault": key, "kind": fault.kind, "time": time.time()}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def is_on(self, fault: Fault, step: int) -> bool:
        """Return whether a fault happens in this step; the answer does not change until `end_of_step`."""
        key = key_of(fault, step)
        if key not in self._now and self.begins(fault, step):
            self._now.add(key)
        return key in self._now

    def end_of_step(self) -> None:
        """Forget the faults of this step; if the step is repeated after a roll-back, they do not happen again."""
        self._now.clear()


def read_ledgers(folder: Path) -> dict[str, int]:
    """Return the number of faults of each kind in all ranks' ledgers; a fault on all ranks counts once."""
    records = [json.loads(line) for path in sorted(folder.glob("faults-rank*.jsonl")) for line in json_lines(path)]
    kinds = [kind for _, kind in sorted({(record["fault"], record["kind"]) for record in records})]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def inject(run: Run, faults: Faults, folder: Path, rank: int = 0) -> Ledger:
    """Add faults to a run, before it is resumed and before an `EventLog` watches its store.

    Args:
        run: The run; its passes, loader, schedule and the supervisor's store are wrapped.
        faults: The faults, identical on every rank.
        folder: Folder of the ledgers; use the run's own.
        rank: Number of this process.

    Returns:
        This rank's ledger.

    Raises:
        UserError: A fault concerns checkpoints and the run has none, or a parameter or bit does not exist.
    """
    about_files = [fault for fault in faults.schedule if isinstance(fault, DamagedCheckpoint | FullDisk)]
    if isinstance(run.supervisor, GuardedRun):
        store = run.supervisor.store
    elif about_files:
        raise UserError(
            f"fault {about_files[0].kind!r} requires a run with checkpoints; use a GuardedRun as supervisor"
        )
    else:
        store = None
    _check_bit_flips(run, faults)
    plan = _Plan(run, faults, Ledger(folder / f"faults-rank{rank}.jsonl"), rank, store)
    if isinstance(run.supervisor, GuardedRun) and store is not None:
        run.supervisor.store = _FaultyStore(store, plan)
    run.state.passes = _FaultyPasses(run.state.passes, plan)
    run.loader = _FaultyLoader(run.loader, plan)
    run.schedule = _raised(run.schedule, plan)
    return plan.ledger


@dataclass(slots=True)
class _Plan:
    """Data shared by the wrappers."""

    run: Run
    faults: Faults
    ledger: Ledger
    rank: int
    store: CheckpointStore | None
    armed: int | None = None
    """Step of the last fetched batch. Passes without a new batch, which only examine the state, get no faults."""

    def now(self) -> list[Fault]:
        """Return the faults of the current step on this rank."""
        step = self.run.state.step
        if step != self.armed:
            return []
        return [
            fault
            for fault in self.faults.schedule
            if fault.rank in (None, self.rank)
            and not isinstance(fault, DamagedCheckpoint | FullDisk)
            and fault.step <= step < fault.step + getattr(fault, "n_steps", 1)
            and self.ledger.is_on(fault, step)
        ]


@dataclass(frozen=True, slots=True)
class _FaultyPasses:
    """Passes with faults before and after them."""

    inner: Passes
    plan: _Plan

    def total(self, n: float) -> float:
        return self.inner.total(n)

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        model = self.plan.run.state.model
        self._damage_checkpoint()
        now = self.plan.now()
        for fault in now:
            if isinstance(fault, SigKill):
                os.kill(os.getpid(), signal.SIGKILL)
            elif isinstance(fault, SlowRank):
                time.sleep(fault.seconds)
            elif isinstance(fault, BitFlip):
                flip_bit(_own(model.get_parameter(fault.parameter).data), fault.index, fault.bit)
        losses = self.inner.backward(batches, n_labels)
        for fault in now:
            if isinstance(fault, BadLoss):
                losses = {name: loss * fault.factor for name, loss in losses.items()}
                for gradient in _gradients(model):
                    gradient.mul_(fault.factor)
            elif isinstance(fault, BadGradient):
                largest = max(_gradients(model), key=Tensor.numel)  # a rank's share may be empty
                largest.view(-1)[:1] = fault.value
        return losses

    def clip(self, max_norm: float) -> float:
        return self.inner.clip(max_norm)

    def settle(self, taken: bool) -> None:
        self.inner.settle(taken)
        self.plan.armed = None
        self.plan.ledger.end_of_step()

    def _damage_checkpoint(self) -> None:
        plan = self.plan
        for fault in plan.faults.schedule:
            if not isinstance(fault, DamagedCheckpoint) or fault.rank != plan.rank or plan.store is None:
                continue
            if plan.run.state.step < fault.step:
                continue
            newest = max(plan.store.folder.glob("step-*"), default=None)
            if newest is not None and plan.ledger.begins(fault, fault.step):
                damage_checkpoint(newest, fault.damage)


@dataclass(slots=True)
class _FaultyLoader:
    """A loader that sometimes yields noise."""

    inner: Loader
    plan: _Plan
    _generator: torch.Generator = field(default_factory=torch.Generator)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.inner:
            self.plan.armed = self.plan.run.state.step
            is_noise = any(isinstance(fault, RandomTokens) for fault in self.plan.now())
            yield self._noise_like(batch) if is_noise else batch

    def _noise_like(self, batch: Batch) -> Batch:
        # Seeded by position: different noise in each step, but the same in a repeated run.
        self._generator.manual_seed((self.plan.faults.seed << 32) + (batch.position << 8) + self.plan.rank)
        config: Any = self.plan.run.state.model.config
        noise = torch.randint(0, config.vocab_size, batch.ids_BT.shape, generator=self._generator)
        noise = noise.to(batch.ids_BT.device)
        labels = noise.roll(-1, dims=1)
        labels[batch.labels_BT == IGNORED] = IGNORED
        return replace(batch, ids_BT=noise, labels_BT=labels)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


@dataclass(frozen=True, slots=True)
class _FaultyStore:
    """A store whose disk is sometimes full."""

    inner: CheckpointStore
    plan: _Plan

    @property
    def folder(self) -> Path:
        return self.inner.folder

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        # Every rank records every full disk, even of other ranks, because all must wait for the write that fails.
        due = [
            fault
            for fault in self.plan.faults.schedule
            if isinstance(fault, FullDisk) and fault.step <= step and self.plan.ledger.begins(fault, fault.step)
        ]
        if not due:
            self.inner.save(step, state)
            return
        mine = [fault.n_bytes for fault in due if fault.rank in (None, self.plan.rank)]
        with file_size_limit(min(mine, default=None)):
            self.inner.save(step, state)
            self.inner.wait()

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        return self.inner.load(like, before=before)

    def wait(self) -> None:
        self.inner.wait()


def _raised(schedule: Callable[[int], float], plan: _Plan) -> Callable[[int], float]:
    def raised(step: int) -> float:
        now = plan.now() if step == plan.run.state.step else []
        factors = [fault.lr_factor for fault in now if isinstance(fault, RandomTokens)]
        return schedule(step) * max(factors, default=1.0)

    return raised


@contextmanager
def file_size_limit(n_bytes: int | None) -> Iterator[None]:
    """Make the kernel reject every write beyond `n_bytes` of a file with an error; None: no limit.

    It applies to the whole process. It needs no root, unlike a small file system.
    """
    if n_bytes is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def damage_checkpoint(folder: Path, damage: str) -> Path:
    """Halve a checkpoint's largest file ("truncate") or flip a bit in its middle ("flip"); return its path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = max(files, key=lambda each: each.stat().st_size)
    middle = path.stat().st_size // 2
    with path.open("r+b") as file:
        if damage == "truncate":
            file.truncate(middle)
        else:
            file.seek(middle)
            byte = file.read(1)[0]
            file.seek(middle)
            file.write(bytes([byte ^ 1]))
    return path


def flip_bit(tensor: Tensor, index: int, bit: int) -> None:
    """Flip a bit of an element, in place; 0 is the lowest bit of the mantissa."""
    integer, width = _BITS[tensor.dtype]
    mask = 1 << bit
    if bit == width - 1:
        mask -= 1 << width  # the sign bit as a signed integer
    flat = tensor.view(-1).view(integer)
    if flat.numel():
        flat[index % flat.numel()] ^= mask


def _check_bit_flips(run: Run, faults: Faults) -> None:
    for fault in faults.schedule:
        if not isinstance(fault, BitFlip):
            continue
        try:
            dtype = run.state.model.get_parameter(fault.parameter).dtype
        except AttributeError as error:
            raise UserError(f"the model has no parameter {fault.parameter!r} for a bit flip") from error
        width = _BITS[dtype][1] if dtype in _BITS else 0
        if fault.bit >= width:
            raise UserError(f"bit {fault.bit} of {fault.parameter}: {dtype} has {width} bits that can be flipped")


def _own(tensor: Tensor) -> Tensor:
    """Return this rank's share of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _gradients(model: nn.Module) -> list[Tensor]:
    return [_own(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
