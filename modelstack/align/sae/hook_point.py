"""Place in a model whose states an autoencoder reads and rewrites.

`residual` is the output of a layer, which steering and monitors use, too. `attention` and `mlp` are what the two
parts of a layer add to it. `transcoder` is an MLP from its input to its output.

Letters: B rows, T tokens, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError

Point = Literal["residual", "attention", "mlp", "transcoder"]
_PARTS = {"attention": "self_attn", "mlp": "mlp", "transcoder": "mlp"}
_NAMES = {
    "residual": ("hook_resid_post", "hook_resid_post"),
    "attention": ("hook_attn_out", "hook_attn_out"),
    "mlp": ("hook_mlp_out", "hook_mlp_out"),
    "transcoder": ("mlp.hook_in", "mlp.hook_out"),
}
"""TransformerLens' names of input and output, below `blocks.LAYER.`."""


class HookPoint(BaseModel, frozen=True, extra="forbid"):
    """Place in a model."""

    layer: int = Field(ge=0)
    """Layer, from 0."""
    point: Point = "residual"
    """States: the output of the layer, what its attention or MLP adds, or the MLP from input to output."""

    @property
    def is_transcoder(self) -> bool:
        """Whether the input is another state than the output."""
        return self.point == "transcoder"

    @property
    def names(self) -> tuple[str, str]:
        """TransformerLens' names of input and output."""
        first, second = _NAMES[self.point]
        return f"blocks.{self.layer}.{first}", f"blocks.{self.layer}.{second}"

    def module(self, model: CausalLM) -> nn.Module:
        """Return the module whose output is the place.

        Raises:
            UserError: The model has no such layer, or keeps several streams.
        """
        n_layers = model.config.num_hidden_layers
        if self.layer >= n_layers:
            raise UserError(f"layer {self.layer} of a model with {n_layers}: layers are 0 to {n_layers - 1}")
        if model.config.norm_placement == "hyper":
            raise UserError("a model with hyper-connections keeps several streams; autoencoders read one")
        block = model.model.layers[self.layer]
        return block if self.point == "residual" else getattr(block, _PARTS[self.point])


class _Enough(Exception):
    """The state that is read was computed."""


@torch.no_grad()
def states_at(model: CausalLM, hook: HookPoint, ids_BT: Tensor, documents_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return input and output of a place, [B, T, D] each; the forward pass ends there.

    Raises:
        UserError: The model has no such place.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        found.append((arguments[0] if hook.is_transcoder else output, output))
        raise _Enough

    with _removed(hook.module(model).register_forward_hook(keep)), suppress(_Enough):
        model(ids_BT, documents_BT=documents_BT, with_logits=False)
    return found[0]


@contextmanager
def replaced(model: CausalLM, hook: HookPoint, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Put `change(input, output)` in place of a place's output while the context lasts.

    Raises:
        UserError: The model has no such place.
    """

    def put(_module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return change(arguments[0] if hook.is_transcoder else output, output).to(output.dtype)

    with _removed(hook.module(model).register_forward_hook(put)):
        yield


@contextmanager
def _removed(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
