"""States of the form that a `GuardedRun` saves, with models and optimizers of choice."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from modelstack.stability.named_state import named
from modelstack.stability.run_checkpoints import capture_rng


def run_state(model: nn.Module, optimizer: Any, step: int) -> dict[str, Any]:
    """Return a state with everything that a run's has."""
    train = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "n_tokens": 100 * step,
    }
    loader = {"n_given": 4 * step, "window": [[1, 2], []]}
    guard = {"losses": [float(step)], "pair": (1, None)}
    return {"run": {"train": train, "loader": loader, "hooks": {}}, "guard": guard, "rng": capture_rng()}


def take_steps(model: nn.Module, optimizer: Any, steps: range) -> None:
    """Take steps on batches that their numbers decide."""
    for step in steps:
        ids = torch.randint(0, 128, (2, 16), generator=torch.Generator().manual_seed(step))
        model(ids).logits_BTV.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def flat(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return copies of weights and moments by name, whole; every rank calls it."""
    tensors = named(state, rank=0).tensors.items()
    wholes = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors}
    return {name: whole.clone() for name, whole in wholes.items() if not name.startswith("rng/")}


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether names, types and values are equal, bit for bit."""
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and a[name].equal(b[name]) for name in a)


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file of this process grow past so many bytes: a real failure of the write, in every thread."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
