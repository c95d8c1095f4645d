"""The stream of rows: one sequence, numbered from 0, whoever reads it.

Documents are drawn until they fill a window of rows, the window is packed, and its rows are given in a seeded
order (packing sorts by length; training must not see that). Ranks, batches and restarts only choose where to read,
so none of them can lose or repeat a row.

The cursor is exact and small: where the window began, what waited for it, and how many of its rows are taken. The
packing buffer, some thousand documents, is a function of that, and is packed again on a resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.data.mixture import Mixture
from modelstack.data.order import Order
from modelstack.data.packing import Kind, Piece, Row, plan_rows


class RowStream:
    """Rows of pieces of documents, without end."""

    def __init__(
        self,
        mixture: Mixture,
        lengths: NDArray[np.int64],
        *,
        row_tokens: int,
        window_rows: int,
        kind: Kind,
        seed: int,
    ) -> None:
        """Stand before the first row."""
        self.mixture = mixture
        self.n_given = 0
        """Rows given or skipped so far: the number of the next one."""
        self.n_given_tokens = 0
        """Tokens in those, padding not counted."""
        self._lengths = lengths
        self._row_tokens = row_tokens
        self._window_rows = window_rows
        self._kind: Kind = kind
        self._seed = seed
        self._waiting: list[Piece] = []
        self._number = -1
        """Of the window; the first is 0."""
        self._begin = self._beginning()
        self._rows: list[Row] = []
        self._n_taken = 0

    def take(self) -> Row:
        """Return the next row."""
        while self._n_taken == len(self._rows):
            self._open_window()
        row = self._rows[Order(len(self._rows), self._seed, self._number, "rows").document(self._n_taken)]
        self._n_taken += 1
        self.n_given += 1
        self.n_given_tokens += sum(piece.n_tokens for piece in row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor."""
        return {
            "n_given": self.n_given,
            "n_given_tokens": self.n_given_tokens,
            "window": self._begin,
            "n_taken": self._n_taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of the same data and configuration."""
        window = state["window"]
        self.mixture.load_state_dict(window["mixture"])
        self._waiting = [Piece(*numbers) for numbers in window["waiting"]]
        self._number = window["number"] - 1
        self._rows, self._n_taken = [], 0
        self._begin = self._beginning()
        if state["n_taken"]:
            self._open_window()
        self._n_taken = state["n_taken"]
        self.n_given, self.n_given_tokens = state["n_given"], state["n_given_tokens"]

    def _open_window(self) -> None:
        self._begin = self._beginning()
        self._number += 1
        pieces = self._waiting
        missing = self._window_rows * self._row_tokens - sum(piece.n_tokens for piece in pieces)
        while missing > 0:
            document = self.mixture.draw()
            piece = Piece(document, 0, int(self._lengths[document]))
            pieces.append(piece)
            missing -= piece.n_tokens
        self._rows, self._waiting = plan_rows(pieces, self._row_tokens, self._kind)
        self._n_taken = 0

    def _beginning(self) -> dict[str, Any]:
        """Return where the next window begins."""
        return {
            "number": self._number + 1,
            "mixture": self.mixture.state_dict(),
            "waiting": [list(piece) for piece in self._waiting],
        }
