"""Training state with some trainable parameters: checkpoints hold these, never the frozen ones.

Otherwise a base of 500 MB with an adapter of 20 MB would be written every few minutes. The run's recipe identifies
the base by its hash.
"""

from __future__ import annotations

from typing import Any

import torch

from modelstack.errors import UserError
from modelstack.train.step import TrainState


class AdapterState(TrainState):
    """`TrainState` whose checkpoints hold only the trained parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return trainable parameters, optimizer state and counts."""
        return {
            "model": {name: parameter.detach() for name, parameter in _trained(self).items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "n_tokens": self.n_tokens,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            UserError: The state belongs to other parameters or another optimizer.
        """
        own, saved = _trained(self), state["model"]
        if _shapes(own) != _shapes(saved):
            differing = sorted(dict(_shapes(own).items() ^ _shapes(saved).items()))
            raise UserError(
                f"the checkpoint belongs to another adapter: {len(differing)} parameters differ, the first is "
                f"{differing[0]!r}; resume with the recipe that the run started with"
            )
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"the checkpoint belongs to another optimizer: {error}") from error
        for name, parameter in own.items():
            parameter.copy_(saved[name])
        self.step, self.n_tokens = state["step"], state["n_tokens"]


def _trained(state: TrainState) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in state.model.named_parameters() if parameter.requires_grad}


def _shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
