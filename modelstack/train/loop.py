"""The training loop: take steps on batches; everything else is a hook.

One state dict holds everything that a run needs to resume: weights, moments, balancing counts, the data cursor
with the data read but not yet used, random states, and the hooks' states. There are no globals. A supervisor
(`modelstack.stability`) judges each step before anything changes, and may restore an earlier state afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from pydantic import BaseModel, Field

from modelstack.architecture.attention.compressed import IndexStage
from modelstack.data.batches import Batch, Loader
from modelstack.train.step import StepReport, TrainState, always, train_step


class LoopConfig(BaseModel, frozen=True, extra="forbid"):
    """Length of a run and composition of a step."""

    n_steps: int = Field(gt=0)
    micro_batches: int = Field(default=1, gt=0)
    """Batches whose gradients are added for one step."""
    max_norm: float = Field(default=1.0, gt=0)


class Hook(Protocol):
    """Observer of a run, for example metrics, samples or plots. Its state is saved and restored with the run."""

    def after_step(self, run: Run, report: StepReport) -> None:
        """Process a step, taken or rejected."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the hook's state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the hook's state."""
        ...


class Supervisor(Protocol):
    """Judge of steps, which also handles failing runs."""

    def judge(self, loss: float, norm: float) -> str:
        """Return "" to take the step, or the reason to reject it."""
        ...

    def after_step(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        """Process a step, taken or rejected; may save the run, restore an earlier state or raise to end it."""
        ...


class Unsupervised:
    """Supervisor that accepts every step, for comparisons."""

    def judge(self, loss: float, norm: float) -> str:
        """Return ""."""
        return always(loss, norm)

    def after_step(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        """Do nothing."""


def always_sparse(step: int) -> IndexStage:
    """Return "sparse": indexers select entries from the first step on."""
    return "sparse"


@dataclass(slots=True)
class Run:
    """A training run in progress."""

    config: LoopConfig
    state: TrainState
    loader: Loader
    schedule: Callable[[int], float]
    """Factor on the learning rates at a step."""
    supervisor: Supervisor = field(default_factory=Unsupervised)
    hooks: dict[str, Hook] = field(default_factory=dict[str, Hook])
    index_stage: Callable[[int], IndexStage] = always_sparse
    """Stage of lightning indexers at a step."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, except the supervisor's state."""
        return {
            "train": self.state.state_dict(),
            "loader": self.loader.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in self.hooks.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state; hooks without a saved state start new.

        Raises:
            UserError: The state belongs to another model, other data or another configuration.
        """
        self.state.load_state_dict(state["train"])
        self.loader.load_state_dict(state["loader"])
        for name, hook in self.hooks.items():
            if name in state["hooks"]:
                hook.load_state_dict(state["hooks"][name])


def train(run: Run) -> Iterator[StepReport]:
    """Take the remaining steps and yield a report after each. If iteration stops, the run stays at that step."""
    run.state.model.train()
    batches = iter(run.loader)
    while run.state.step < run.config.n_steps:
        micro_batches = list(islice(batches, run.config.micro_batches))
        report = train_step(
            run.state,
            micro_batches,
            lr_factor=run.schedule(run.state.step),
            max_norm=run.config.max_norm,
            judge=run.supervisor.judge,
            index_stage=run.index_stage(run.state.step),
        )
        for hook in run.hooks.values():
            hook.after_step(run, report)
        run.supervisor.after_step(run, report, micro_batches)
        yield report
