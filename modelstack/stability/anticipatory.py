"""Anticipatory routing: for some time after a loss spike, experts are selected by the weights of earlier steps.

DeepSeek-V4 (arXiv 2606.19348): outliers in MoE layers and the routing that follows them amplify each other, and a
plain roll-back leads to the next spike. The batch of step t is therefore routed by the weights of step t - dt,
computed in advance and stored. Features and the weights of the selected experts are the current ones. Anticipatory
routing is switched on after a spike and its roll-back, and off after some time. The report does not state dt.

A queue holds the batches of the next dt steps with their selections. A batch that enters it is routed by the
current weights. Each layer's selection needs the layer's input, so routing a batch is a whole forward pass,
without head, loss or gradients. Three properties are exact:

- The saved state is the data cursor before the queue, and the queue's selections: the weights that made them no
  longer exist, so they could not be recomputed. A resumed run is bit-equal. The state holds the selections of all
  ranks, in the order of the rows, so a run can be resumed with another number of ranks.
- A roll-back restores other weights than those that made the queue's selections, which were damaged. So the queued
  batches are routed again by the restored weights.
- After switching off, queued selections are still used: the delay is dt until the last of them, and no work is
  lost.

Layers that route by a hash select by the token alone and are excluded. Multi-token prediction modules are routed
in advance too, if they are trained.

Letters: B rows, T tokens, k experts per token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.data.batches import Batch, Loader
from modelstack.errors import UserError
from modelstack.train.loop import Run
from modelstack.train.step import StepReport

Choices = Mapping[int, Tensor]
"""Experts [B * T, k] by layer."""
STORED = torch.int32
"""Type of stored selections, half the size of the index type; neither gloo nor NCCL sends 16-bit integers."""


class AnticipatoryConfig(BaseModel, frozen=True, extra="forbid"):
    """Delay and duration of anticipatory routing."""

    delay_steps: int = Field(default=8, gt=0)
    """dt. The report does not state it. It should exceed the build-up time of a spike, and needs memory for dt
    batches.
    """
    healthy_steps: int = Field(default=100, gt=0)
    """Number of consecutive taken steps after which routing returns to normal."""


def chosen_now(model: CausalLM, batch: Batch) -> dict[int, Tensor]:
    """Return the experts that a model's current weights select for a batch; without gradients and head."""
    config = model.config
    with torch.no_grad():
        output = model(
            batch.ids_BT,
            documents_BT=batch.documents_BT,
            with_logits=False,
            with_mtp=config.mtp_loss_coef > 0,
        )
    by_hash = {layer for layer, kind in enumerate(config.mlp_layer_types) if kind == "hash_moe"}
    return {
        layer: routing.experts_Nk.to(STORED) for layer, routing in output.routing.items() if layer not in by_hash
    }


@dataclass(slots=True)
class _Waiting:
    batch: Batch
    cursor: dict[str, Any]
    """The inner loader's state before this batch."""
    choices: Choices


class AnticipatoryLoader:
    """A `Loader` around another that routes the batches of the next steps in advance while switched on.

    While it is off and the queue is empty, batches pass through and nothing is stored.
    """

    def __init__(
        self,
        inner: Loader,
        choose: Callable[[Batch], Choices],
        n_ahead: int,
        *,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> None:
        """Create the loader, switched off.

        Args:
            inner: Source of batches: each rank's rows of one stream, as from `PackedLoader`.
            choose: `chosen_now` of the run's model, called when a batch enters the queue.
            n_ahead: Number of batches between selection and use: dt times the micro-batches of a step.
            rank: Index of this rank among the ranks with different batches.
            world: Number of these ranks.
            gather: Concatenates all ranks' tensors along the first axis, on each rank.

        Raises:
            UserError: `n_ahead` is not positive.
        """
        if n_ahead < 1:
            raise UserError(f"n_ahead is {n_ahead}; it must be at least 1")
        self.inner = inner
        self.is_on = False
        self._choose = choose
        self._n_ahead = n_ahead
        self._rank, self._world, self._gather = rank, world, gather
        self._batches = iter(inner)
        self._waiting: deque[_Waiting] = deque()

    def __iter__(self) -> Iterator[Batch]:
        """Return the loader itself; it continues with the next batch."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch; a batch routed in advance has its selections."""
        if not self.is_on and not self._waiting:
            return next(self._batches)
        while self.is_on and len(self._waiting) <= self._n_ahead:
            cursor, batch = self.inner.state_dict(), next(self._batches)
            self._waiting.append(_Waiting(batch, cursor, self._choose(batch)))
        first = self._waiting.popleft()
        device = first.batch.ids_BT.device
        choices = {layer: experts_Nk.to(device, torch.int64) for layer, experts_Nk in first.choices.items()}
        return replace(first.batch, forced_experts=choices)

    def switch_on(self) -> None:
        """Route in advance from now on; queued batches are routed again, by the current weights."""
        self.is_on = True
        for one in self._waiting:
            one.choices = self._choose(one.batch)

    def switch_off(self) -> None:
        """Stop routing in advance; queued batches keep their selections."""
        self.is_on = False

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor before the queue, and the queued selections; every rank must call it.

        The selections are [n_rows, tokens, k] by layer, of all ranks, in the order of the stream.
        """
        n_rows = self._world * sum(len(one.batch.ids_BT) for one in self._waiting)
        return {
            "inner": self._waiting[0].cursor if self._waiting else self.inner.state_dict(),
            "is_on": self.is_on,
            "n_rows": n_rows,
            "choices": {
                str(layer): torch.cat([self._gather(one.choices[layer]) for one in self._waiting]).unflatten(
                    0, (n_rows, -1)
                )
                for layer in (self._waiting[0].choices if self._waiting else ())
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state: the queued batches are read again, their selections come from the state.

        Raises:
            UserError: The state belongs to other data or another configuration, or its queue is not a whole number
                of this run's batches, or exceeds `n_ahead`.
        """
        self.inner.load_state_dict(state["inner"])
        self._batches = iter(self.inner)
        self.is_on = state["is_on"]
        self._waiting.clear()
        n_rows, n_taken = state["n_rows"], 0
        while n_taken < n_rows:
            cursor, batch = self.inner.state_dict(), next(self._batches)
            B = len(batch.ids_BT)
            if n_rows % (self._world * B) or n_rows > self._world * B * self._n_ahead:
                raise UserError(
                    f"the state has {n_rows} rows routed in advance, but a batch has {self._world * B} on "
                    f"{self._world} ranks, and at most {self._n_ahead} are queued; keep delay_steps and the rows "
                    f"of a step"
                )
            own = slice(n_taken + self._rank * B, n_taken + (self._rank + 1) * B)
            choices = {int(layer): whole[own].flatten(0, 1) for layer, whole in state["choices"].items()}
            self._waiting.append(_Waiting(batch, cursor, choices))
            n_taken += self._world * B


class AnticipatoryRouting:
    """Switch for a loader: on after a roll-back, off after enough healthy steps.

    It is a `Hook` of the run, because it counts steps; pass its `after_roll_back` to the supervisor.
    """

    def __init__(
        self,
        loader: AnticipatoryLoader,
        config: AnticipatoryConfig,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Create the switch; `on_event` receives a message at every change."""
        self.loader = loader
        self.config = config
        self._on_event = on_event
        self._n_healthy = 0

    def after_roll_back(self, run: Run) -> None:
        """Switch on; call it after the run's weights were restored from a checkpoint."""
        self.loader.switch_on()
        self._n_healthy = 0
        self._on_event(
            f"anticipatory routing on from step {run.state.step}: experts are chosen "
            f"{self.config.delay_steps} steps ahead"
        )

    def after_step(self, run: Run, report: StepReport) -> None:
        """Count consecutive healthy steps; switch off after enough of them."""
        if not self.loader.is_on:
            return
        self._n_healthy = 0 if report.rejected else self._n_healthy + 1
        if self._n_healthy >= self.config.healthy_steps:
            self.loader.switch_off()
            self._on_event(
                f"anticipatory routing off after step {report.step}: {self._n_healthy} healthy steps in a row; "
                f"the batches that wait keep their choices"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the number of consecutive healthy steps."""
        return {"n_healthy": self._n_healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of consecutive healthy steps."""
        self._n_healthy = state["n_healthy"]
