"""Anticipatory routing: for a while after a loss spike, experts are chosen by weights of some steps before.

DeepSeek-V4 (arXiv 2606.19348): outliers in MoE layers and the routing that follows them amplify each other, and a
plain roll-back runs into the next spike. So the batch of step t is routed by the weights of step t - dt, computed
ahead and kept; features and the weights of the chosen experts are the current ones. It is switched on after a
spike and its roll-back, and off again after a while. The report does not give dt.

A queue holds the batches of the next dt steps with their choices. What enters it is routed by the weights as they
are then. Each layer's choice needs the layer's input, so "routing" a batch is a whole forward pass, without head,
loss or gradients. Three things are exact:
- The state is the data cursor before the queue, and the queue's choices: the weights that made them are gone, so
  they could not be made again. A resumed run is bit-equal. It holds the choices of all ranks, in the order of the
  rows, so a run goes on at another world size.
- A roll-back comes with weights that the queue's choices are not from, and those that they are from were damaged:
  what waits is routed anew, by the restored weights.
- When it is switched off, what waits is still used: the delay is dt until the last of them, and no work is lost.

Layers that route by a hash choose by the token alone and are left to themselves. Modules of multi-token prediction
are routed ahead too, where they train.

Letters: B rows, T tokens, k experts a token.
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
"""Half of what indexing takes; neither gloo nor NCCL sends 16-bit integers."""


class AnticipatoryConfig(BaseModel, frozen=True, extra="forbid"):
    """How far ahead experts are chosen, and for how long."""

    delay_steps: int = Field(default=8, gt=0)
    """dt. The report gives none; it should outlast a spike's build-up, and costs dt steps' batches in memory."""
    healthy_steps: int = Field(default=100, gt=0)
    """Steps taken in a row after which experts are chosen as usual again."""


def chosen_now(model: CausalLM, batch: Batch) -> dict[int, Tensor]:
    """Return the experts that a model as it is chooses for a batch; no gradients, no head."""
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
    """A `Loader` around another, with the batches of the next steps routed ahead while it is switched on.

    While it is off and nothing waits, batches pass through and nothing is kept.
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
        """Begin switched off.

        Args:
            inner: Where batches come from: each rank's rows of one stream, as `PackedLoader` gives them.
            choose: `chosen_now` of the run's model: called when a batch enters the queue.
            n_ahead: Batches between choice and use: dt times the micro-batches of a step.
            rank: Among those that have different batches.
            world: How many they are.
            gather: All ranks' tensors one after the other along the first axis, on each of them.

        Raises:
            UserError: `n_ahead` is not positive.
        """
        if n_ahead < 1:
            raise UserError(f"n_ahead is {n_ahead}; experts are chosen at least 1 batch ahead")
        self.inner = inner
        self.is_on = False
        self._choose = choose
        self._n_ahead = n_ahead
        self._rank, self._world, self._gather = rank, world, gather
        self._batches = iter(inner)
        self._waiting: deque[_Waiting] = deque()

    def __iter__(self) -> Iterator[Batch]:
        """Go on with the next batch."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch; one that was routed ahead has its choices."""
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
        """Route ahead from now on; what waits already is routed anew, by the weights as they are now."""
        self.is_on = True
        for one in self._waiting:
            one.choices = self._choose(one.batch)

    def switch_off(self) -> None:
        """Route no further batch ahead; those that wait keep their choices."""
        self.is_on = False

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor before what waits, and the choices of what waits; every rank calls it.

        The choices are [n_rows, tokens, k] by layer, of all ranks, in the order of the stream.
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
        """Go back to a state: the batches that waited are read again, their choices are taken from it.

        Raises:
            UserError: It is of other data or another configuration; or what waited is not a whole number of this
                run's batches, or more of them than `n_ahead`.
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
                    f"the state has {n_rows} rows routed ahead, a batch of this run has {self._world * B} on "
                    f"{self._world} ranks and at most {self._n_ahead} of them wait: keep delay_steps and the rows "
                    f"of a step"
                )
            own = slice(n_taken + self._rank * B, n_taken + (self._rank + 1) * B)
            choices = {int(layer): whole[own].flatten(0, 1) for layer, whole in state["choices"].items()}
            self._waiting.append(_Waiting(batch, cursor, choices))
            n_taken += self._world * B


class AnticipatoryRouting:
    """Switches a loader on after a roll-back and off after healthy steps.

    A `Hook` of the run, for it counts steps; its `after_roll_back` goes to the supervisor.
    """

    def __init__(
        self,
        loader: AnticipatoryLoader,
        config: AnticipatoryConfig,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Begin; `on_event` is told of every switch."""
        self.loader = loader
        self.config = config
        self._on_event = on_event
        self._n_healthy = 0

    def after_roll_back(self, run: Run) -> None:
        """Switch on: the run's weights are a checkpoint's again."""
        self.loader.switch_on()
        self._n_healthy = 0
        self._on_event(
            f"anticipatory routing on from step {run.state.step}: experts are chosen "
            f"{self.config.delay_steps} steps ahead"
        )

    def after_step(self, run: Run, report: StepReport) -> None:
        """Count healthy steps in a row; enough of them switch off."""
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
        """Return the count."""
        return {"n_healthy": self._n_healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the count."""
        self._n_healthy = state["n_healthy"]
