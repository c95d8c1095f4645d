"""Batches of states for a training, shuffled in windows, with an exact cursor.

Rows of packed documents run through the model up to the place that is read. The states of a window of tokens stay
in memory, are delivered in a seeded order, and make room for the next window. Nothing is carried from one window
to the next: the cursor is where the window began and how many batches were taken. A resumed run computes one
window again instead of storing it (300 MB at a width of 576).

Left out are padding, special tokens, and the first tokens of a document, which attention uses as sinks: the length
of their states, tens or hundreds of times that of others, would be most of the loss.

Letters: B rows, T tokens, N tokens of a batch or a window, D and O widths of input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelstack.align.sae.hook_point import HookPoint, states_at
from modelstack.architecture.decoder import CausalLM, document_positions
from modelstack.data.batches import Batch
from modelstack.data.loader import PackedLoader
from modelstack.errors import UserError

MAX_EMPTY_BATCHES = 20
"""Batches of rows without a usable token after which a window is given up."""
Told = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, eq=False)
class StateSource:
    """A place in a model, and the tokens whose states are read there."""

    model: CausalLM
    hook: HookPoint
    special_ids: frozenset[int]
    skip_first: int

    def is_read_BT(self, batch: Batch) -> Tensor:
        """Return whether the state of each token is read."""
        special = torch.tensor(sorted(self.special_ids), dtype=torch.int64, device=batch.ids_BT.device)
        is_read_BT = ~torch.isin(batch.ids_BT, special)
        if batch.counted_BT is not None:
            is_read_BT &= batch.counted_BT
        return is_read_BT & (document_positions(batch.documents_BT) >= self.skip_first)

    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return inputs [N, D] and outputs [N, O] of the tokens that are read, in the model's number type."""
        x_BTD, y_BTO = states_at(self.model, self.hook, batch.ids_BT, batch.documents_BT)
        is_read_BT = self.is_read_BT(batch)
        x_ND = x_BTD[is_read_BT]
        return x_ND, x_ND if y_BTO is x_BTD else y_BTO[is_read_BT]


class StateWindows:
    """An endless source of batches of states."""

    def __init__(
        self,
        source: StateSource,
        loader: PackedLoader,
        *,
        window_tokens: int,
        batch_tokens: int,
        seed: int,
        told: Told = lambda done, total: None,
    ) -> None:
        """Initialise before the first batch.

        Args:
            source: Model, place and tokens.
            loader: Rows of documents.
            window_tokens: Tokens that are shuffled together; rounded down to whole batches.
            batch_tokens: Tokens of a batch.
            seed: Seed of the order.
            told: Callback for the tokens of a window that are there, and of all.
        """
        self._source, self._loader = source, loader
        self._n_batch = batch_tokens
        self._n_batches = window_tokens // batch_tokens
        self._seed, self._told = seed, told
        self._number = 0
        self._n_taken = 0
        self._begin = loader.state_dict()
        self._window: tuple[Tensor, Tensor] | None = None
        self._order_N = torch.empty(0, dtype=torch.int64)

    def peek(self) -> tuple[Tensor, Tensor]:
        """Return the states of the current window in the order of delivery, [N, D] and [N, O]."""
        x_ND, y_NO = self._filled()
        return x_ND[self._order_N], y_NO[self._order_N]

    def take(self) -> tuple[Tensor, Tensor]:
        """Return the next batch of states, [N, D] and [N, O]; the same tensor twice where output is input."""
        if self._n_taken == self._n_batches:
            self._window, self._n_taken = None, 0
            self._number += 1
            self._begin = self._loader.state_dict()
        x_ND, y_NO = self._filled()
        places = self._order_N[self._n_taken * self._n_batch :][: self._n_batch]
        self._n_taken += 1
        batch_ND = x_ND[places]
        return batch_ND, batch_ND if y_NO is x_ND else y_NO[places]

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor."""
        if self._n_taken == self._n_batches:  # the loader stands at the next window
            return {"begin": self._loader.state_dict(), "number": self._number + 1, "n_taken": 0}
        return {"begin": self._begin, "number": self._number, "n_taken": self._n_taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a cursor; the window is computed again when the next batch is taken.

        Raises:
            UserError: The cursor belongs to other text.
        """
        self._loader.load_state_dict(state["begin"])
        self._begin, self._number, self._n_taken = dict(state["begin"]), state["number"], state["n_taken"]
        self._window = None

    def _filled(self) -> tuple[Tensor, Tensor]:
        if self._window is None:
            self._window = self._computed()
            generator = torch.Generator().manual_seed(self._seed + self._number)
            order_N = torch.randperm(self._n_batches * self._n_batch, generator=generator)
            self._order_N = order_N.to(self._window[0].device)
        return self._window

    def _computed(self) -> tuple[Tensor, Tensor]:
        n_wanted = self._n_batches * self._n_batch
        found: tuple[Tensor, Tensor] | None = None
        n_found, n_empty = 0, 0
        device = self._source.model.lm_head.weight.device
        self._told(0, n_wanted)
        while n_found < n_wanted:
            x_ND, y_NO = self._source.states(next(self._loader).to(device))
            if found is None:
                first = x_ND.new_empty(n_wanted, x_ND.shape[1])
                found = first, first if y_NO is x_ND else y_NO.new_empty(n_wanted, y_NO.shape[1])
            n_empty = 0 if len(x_ND) else n_empty + 1
            if n_empty == MAX_EMPTY_BATCHES:
                raise UserError(
                    f"{MAX_EMPTY_BATCHES} batches of rows hold no token that is read: lower data.skip_first, or "
                    f"give text with longer documents"
                )
            n_new = min(len(x_ND), n_wanted - n_found)
            found[0][n_found : n_found + n_new] = x_ND[:n_new]
            if y_NO is not x_ND:
                found[1][n_found : n_found + n_new] = y_NO[:n_new]
            n_found += n_new
            self._told(n_found, n_wanted)
        assert found is not None
        return found
