"""Outputs of chosen layers, read while llama.cpp computes.

llama.cpp has no function for the states of a layer in the middle, but takes a callback. ggml asks it before each
tensor of the graph whether its values are wanted, and calls it again once they are computed. The output of layer n
is named `l_out-n` in all graphs. Reading a name takes longer than asking, so addresses are remembered: tensors
stay where they are as long as the graph keeps its form. A remembered address counts only if the name there is
right; if layers are missing at the end, the batch is evaluated again and all names are read.

Letters: R tokens whose logits are requested, L layers, D width of the model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError
from modelstack.inference.llama.batch import SequencePart
from modelstack.inference.llama.library import ggml, library


class LayerStates:
    """Reader of the outputs of some layers in each evaluation of a context."""

    def __init__(self, layers: Sequence[int], n_layers: int, width: int) -> None:
        """Prepare the callback.

        Args:
            layers: Layers that are read.
            n_layers: Number of layers of the model.
            width: D.

        Raises:
            EngineError: the model has no such layer, or the layer is the last one, of which only the tokens with
                logits are computed.
        """
        for layer in layers:
            if not 0 <= layer < n_layers - 1:
                raise EngineError(
                    f"state_layers contains {layer}; this model has readable outputs of the layers 0 to "
                    f"{n_layers - 2}"
                )
        self._width = width
        self._name_of = ggml("ggml_get_name", ctypes.c_char_p, ctypes.c_void_p)
        self._n_bytes = ggml("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
        self._get = ggml(
            "ggml_backend_tensor_get", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
        )
        self._places = {f"l_out-{layer}".encode(): place for place, layer in enumerate(layers)}
        self._addresses: set[int] = set()
        self._reads_names = False
        self._n_tokens = 0
        self._rows = np.empty(0, np.intp)
        self._found: list[NDArray[np.float32] | None] = [None] * len(layers)
        addresses = self._addresses

        def called(tensor: int, asks: bool, _user_data: object) -> bool:
            # Asked for each of a thousand tensors of a token: a closure is faster than a method.
            return tensor in addresses if asks and not self._reads_names else self._named(tensor, asks)

        self.callback: Any = library().ggml_backend_sched_eval_callback(called)
        """Function for ggml; it must outlive the context."""

    def expect(self, parts: Sequence[SequencePart]) -> None:
        """Prepare for the evaluation of some parts."""
        rows = list[int]()
        end = 0
        for part in parts:
            end += len(part.ids)
            rows += range(end - part.n_logits, end)
        self._n_tokens, self._rows = end, np.array(rows, np.intp)
        self._found = [None] * len(self._found)

    @property
    def is_complete(self) -> bool:
        """Whether the last evaluation showed all layers."""
        return all(found is not None for found in self._found)

    @contextmanager
    def reading_names(self) -> Iterator[None]:
        """Read the names of all tensors during an evaluation, and remember the addresses of wanted ones."""
        self._reads_names = True
        try:
            yield
        finally:
            self._reads_names = False

    def taken(self) -> NDArray[np.float32]:
        """Return the outputs [R, L, D] of the last evaluation.

        Raises:
            EngineError: the graph of the model has no output of such a layer.
        """
        found = [each for each in self._found if each is not None]
        if len(found) < len(self._found):
            raise EngineError("llama.cpp computes no separate output of the state_layers in this architecture")
        return np.stack([each[self._rows] for each in found], axis=1)

    def _named(self, tensor: int, asks: bool) -> bool:
        if asks:
            is_wanted = self._name_of(tensor) in self._places
            if is_wanted:
                self._addresses.add(tensor)
            return is_wanted
        place = self._places.get(self._name_of(tensor))
        if place is not None and self._n_bytes(tensor) == self._n_tokens * self._width * 4:
            values = np.empty((self._n_tokens, self._width), np.float32)
            self._get(tensor, values.ctypes.data, 0, values.nbytes)
            self._found[place] = values
        return True
