"""A run under a guard: bad steps are skipped; a damaged state is restored from a checkpoint, after the bad data.

Before a roll-back, the state is tested on the last batches that it learnt from. If its loss on them is as good as
before, the state is not damaged, and the window of bad data is skipped instead.

A roll-back restores weights, moments and balancing counts. The data cursor and the step counter are not restored:
the data that led to the damage are not repeated in this epoch, and the learning rate follows the data. A second
roll-back before a new checkpoint uses an older checkpoint, because the newest may already contain the damage. If
nothing helps, the run stops and saves the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel, Field

from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.stability.guard import Guard, Judgement, Verdict
from modelstack.stability.memory_checkpoints import MemoryCheckpoints
from modelstack.stability.run_checkpoints import CheckpointStore, Loaded, capture_rng, restore_rng
from modelstack.train.loop import Run
from modelstack.train.step import StepReport, count_labels, judged_loss

_OUTCOMES = {Verdict.SKIP: "skipped", Verdict.ROLL_BACK: "rolled back", Verdict.STOP: "stopped the run"}
"""Words for what happens after a rejected step."""


class TrainingStopped(Exception):
    """Raised when the guard ends a run; the message states the reason and the path of the saved batch."""


class SupervisorConfig(BaseModel, frozen=True, extra="forbid"):
    """Interval of checkpoints."""

    save_every: int = Field(default=100, gt=0)
    """Steps between checkpoints."""


class GuardedRun:
    """Supervisor of a run: guard, checkpoints, roll-backs."""

    def __init__(
        self,
        guard: Guard,
        store: CheckpointStore,
        config: SupervisorConfig | None = None,
        on_event: Callable[[str], None] = lambda text: None,
        on_roll_back: Callable[[Run], None] = lambda run: None,
        memory: MemoryCheckpoints | None = None,
    ) -> None:
        """Store the parts; `on_event` receives messages on unusual events.

        `on_roll_back` is called with the run after its weights were restored, before the next batch is taken.
        `memory` has additional checkpoints between those of the store.
        """
        self.guard = guard
        self.store = store
        self.config = config or SupervisorConfig()
        self._on_event = on_event
        self.on_roll_back = on_roll_back
        self.memory = memory
        self._judgement = Judgement(Verdict.GO, "")
        self._restored: int | None = None
        """Step of the last roll-back's checkpoint; None once a newer one was written."""
        self._saved_step: int | None = None
        self._good_batches: Sequence[Batch] = ()

    def resume(self, run: Run) -> bool:
        """Restore the newest complete checkpoint of a run; return False if there is none.

        Raises:
            UserError: There are checkpoints but none is complete, or they belong to another run.
        """
        loaded = self._load(run)
        if loaded is None:
            return False
        self.take_up(run, loaded)
        return True

    def take_up(self, run: Run, loaded: Loaded) -> None:
        """Restore a checkpoint, of the run itself or of the run that it branches from.

        Raises:
            UserError: The checkpoint belongs to another run.
        """
        for reason in loaded.rejected:
            self._on_event(f"checkpoint skipped: {reason}")
        run.load_state_dict(loaded.state["run"])
        self.guard.load_state_dict(loaded.state["guard"])
        restore_rng(loaded.state["rng"])

    def judge(self, loss: float, norm: float) -> str:
        """Return "" to take the step, or the reason to reject it."""
        self._judgement = self.guard.judge(loss, norm)
        return self._judgement.reason

    def after_step(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        """Save, skip, roll back or stop.

        Raises:
            TrainingStopped: The guard ended the run.
        """
        verdict = self._judgement.verdict
        if verdict is Verdict.GO:
            self._good_batches = batches
        elif verdict is not Verdict.SKIP and self._is_sound(run, report.step):
            self._on_event(f"step {report.step}: the loss of an earlier batch is unchanged, so the data is bad")
            verdict = Verdict.SKIP
        if verdict is not Verdict.GO:
            self._on_event(f"step {report.step} {_OUTCOMES[verdict]}: {report.rejected}")
        if verdict is Verdict.ROLL_BACK:
            self._roll_back(run, report, batches)
        elif verdict is Verdict.STOP:
            self._stop(report, batches)
        elif verdict is Verdict.GO:
            self._save_where_due(run)

    def _save_where_due(self, run: Run) -> None:
        step = run.state.step
        if step % self.config.save_every == 0:
            self.save(run)
        if (
            self.memory is not None
            and step % self.memory.every == 0
            and self.memory.save(step, self.state_of(run))
        ):
            self._restored = None

    def save(self, run: Run) -> None:
        """Write a checkpoint; a full disk is reported and costs the checkpoint, not the run."""
        self._finish_last()
        try:
            self.store.save(run.state.step, self.state_of(run))
        except OSError as error:
            self._on_event(f"checkpoint of step {run.state.step} was not written: {error}")
            return
        self._restored = None
        self._saved_step = run.state.step

    def close(self, run: Run) -> None:
        """Save the current state unless it is already saved, and wait until it is written.

        Raises:
            OSError: It could not be written.
        """
        self._finish_last()
        if self._saved_step != run.state.step:
            self.store.save(run.state.step, self.state_of(run))
        self.store.wait()
        if self.memory is not None:
            self.memory.discard()

    def _finish_last(self) -> None:
        """Wait for a checkpoint in progress; a failure is reported as an event."""
        try:
            self.store.wait()
        except OSError as error:
            self._on_event(f"a checkpoint was not written: {error}")
            self._saved_step = None

    def state_of(self, run: Run) -> dict[str, Any]:
        """Return the content of a checkpoint of the run."""
        return {"run": run.state_dict(), "guard": self.guard.state_dict(), "rng": capture_rng()}

    def _is_sound(self, run: Run, step: int) -> bool:
        """Return whether the state still has a good loss on the last batches that it learnt from."""
        if not self._good_batches or not self.guard.is_patient:
            return False
        passes, next_step = run.state.passes, run.state.step
        run.state.step = step  # values that depend on it must be those of the rejected step
        n_labels = passes.total(count_labels(self._good_batches))
        loss = judged_loss(passes.backward(self._good_batches, n_labels))
        norm = passes.clip(math.inf)
        passes.settle(taken=False)
        run.state.optimizer.zero_grad(set_to_none=True)
        run.state.step = next_step
        return self.guard.is_sound(loss, norm)

    def _load(self, run: Run, before: int | None = None) -> Loaded | None:
        """Return the newest complete checkpoint in memory or on disk.

        Raises:
            UserError: There are checkpoints on disk but none is complete, or they belong to another run.
        """
        like = self.state_of(run)
        if self.memory is not None:
            return self.memory.load(like, self.store, before=before)
        return self.store.load(like, before=before)

    def _roll_back(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        try:
            loaded = self._load(run, self._restored)
        except UserError as error:
            self._on_event(str(error))
            loaded = None
        if loaded is None:
            self._stop(report, batches)
            return
        step, n_tokens = run.state.step, run.state.n_tokens
        run.state.load_state_dict(loaded.state["run"]["train"])
        run.state.step, run.state.n_tokens = step, n_tokens
        self.guard.roll_back(loaded.state["guard"])
        self._restored = loaded.step
        self._on_event(f"went back to the weights of step {loaded.step}; the data continues from step {step}")
        self.on_roll_back(run)

    def _stop(self, report: StepReport, batches: Sequence[Batch]) -> None:
        from safetensors.torch import save_file

        self.store.folder.mkdir(parents=True, exist_ok=True)
        is_one_of_many = dist.is_available() and dist.is_initialized()
        of_rank = f"-rank-{dist.get_rank():05d}" if is_one_of_many else ""  # each rank has different rows
        path = self.store.folder / f"bad-batch-{report.step:08d}{of_rank}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for n, batch in enumerate(batches):
            tensors |= {
                f"{n}.ids": batch.ids_BT,
                f"{n}.labels": batch.labels_BT,
                f"{n}.documents": batch.documents_BT,
            }
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
        raise TrainingStopped(f"step {report.step}: {report.rejected}; its batch is in {path}")
