"""The training loop: batches in, steps taken, everything else a hook.

All that a run needs to go on lies in one state dict: weights, moments, balancing counts, the data cursor with
what was read and not yet given, random numbers, and what the hooks remember. Nothing lives in globals. A
supervisor (`modelstack.stability`) judges each step before it moves anything, and may put the run back
afterwards.
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
    """How far a run goes, and what a step is made of."""

    n_steps: int = Field(gt=0)
    micro_batches: int = Field(default=1, gt=0)
    """Batches whose gradients make one step."""
    max_norm: float = Field(default=1.0, gt=0)


class Hook(Protocol):
    """Something that watches a run: metrics, samples, plots. With a state, so that it survives a resume."""

    def after_step(self, run: Run, report: StepReport) -> None:
        """See a step, taken or rejected."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what it remembered."""
        ...


class Supervisor(Protocol):
    """Decides on steps, and what becomes of a run where they go wrong."""

    def judge(self, loss: float, norm: float) -> str:
        """Return "" or why the step must not be taken."""
        ...

    def after_step(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        """See a step, taken or rejected; may save the run, put it back or end it by an exception."""
        ...


class Unsupervised:
    """Takes every step: for comparisons."""

    def judge(self, loss: float, norm: float) -> str:
        """Return ""."""
        return always(loss, norm)

    def after_step(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        """Do nothing."""


def always_sparse(step: int) -> IndexStage:
    """Let indexers choose from the first step on."""
    return "sparse"


@dataclass(slots=True)
class Run:
    """One training under way."""

    config: LoopConfig
    state: TrainState
    loader: Loader
    schedule: Callable[[int], float]
    """Share of the learning rates at a step."""
    supervisor: Supervisor = field(default_factory=Unsupervised)
    hooks: dict[str, Hook] = field(default_factory=dict[str, Hook])
    index_stage: Callable[[int], IndexStage] = always_sparse
    """What lightning indexers do at a step."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on; the supervisor's memory is the supervisor's."""
        return {
            "train": self.state.state_dict(),
            "loader": self.loader.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in self.hooks.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; hooks that it does not know begin anew.

        Raises:
            UserError: It is of another model, other data or another configuration.
        """
        self.state.load_state_dict(state["train"])
        self.loader.load_state_dict(state["loader"])
        for name, hook in self.hooks.items():
            if name in state["hooks"]:
                hook.load_state_dict(state["hooks"][name])


def train(run: Run) -> Iterator[StepReport]:
    """Take the steps that are left, giving a report after each; stop asking and the run stands where it is."""
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
