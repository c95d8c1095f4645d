"""A run so small that a step takes a millisecond: one layer, rows that count up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modelstack.architecture.config import build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import next_token_labels
from modelstack.data.batches import Batch
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import LoopConfig, Run
from modelstack.train.step import StepReport, local_state

TOY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "layer_types": ("full_attention",),
    "mlp_layer_types": ("dense",),
}


class Counting:
    """A loader: rows that count up from a number that its position decides."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            start = torch.randint(0, 32, (4, 1), generator=torch.Generator().manual_seed(self.position))
            ids = (start + torch.arange(10)) % 32
            self.position += 4
            yield Batch(ids, next_token_labels(ids), torch.zeros_like(ids), self.position - 4)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Seen:
    """A hook with a memory."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def after_step(self, run: Run, report: StepReport) -> None:
        self.steps.append(report.step)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = list(state["steps"])


def toy_run(folder: Path, events: list[str], *, seed: int = 0, n_steps: int = 30, **guard: Any) -> Run:
    """Return a run that saves every fifth step and tells `events` what is not ordinary."""
    model = initialise(CausalLM(build(TOY)), seed)
    state = local_state(model, torch.optim.AdamW(model.parameters(), lr=3e-3))
    config = GuardConfig(**{"window": 16, "warmup": 4, "skips_in_a_row": 2, **guard})
    supervisor = GuardedRun(
        Guard(config), LocalStore(folder, keep=4), SupervisorConfig(save_every=5), events.append
    )
    loop = LoopConfig(n_steps=n_steps)
    return Run(loop, state, Counting(), lambda step: 1 - step / 60, supervisor, {"seen": Seen()})
