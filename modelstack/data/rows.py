"""The stream of rows: one sequence, numbered from 0, independent of the reader.

Documents are drawn until they fill a window of rows. The window is packed, and its rows are returned in a seeded
order, because packing sorts by length and training must not see that order. Ranks, batches and restarts only
choose positions in the stream, so they can neither lose nor repeat a row.

The cursor is exact and small: the state at the start of the window, its waiting pieces, and the number of rows
taken. The packing buffer of some thousand documents is a function of the cursor and is packed again on resume.

If the end of the training run has its own mix, a window ends at the change. Documents for later rows are drawn by
that mix; only the few pieces that did not fit before come from the old one.
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
    """An endless stream of rows of document pieces."""

    def __init__(
        self,
        mixture: Mixture,
        lengths: NDArray[np.int64],
        *,
        row_tokens: int,
        window_rows: int,
        kind: Kind,
        seed: int,
        anneal_from_row: int | None = None,
    ) -> None:
        """Initialise before the first row; windows from row `anneal_from_row` on use the annealing weights."""
        self.mixture = mixture
        self.n_given = 0
        """Rows returned or skipped so far; the number of the next row."""
        self.n_given_tokens = 0
        """Tokens in those rows, without padding."""
        self._lengths = lengths
        self._row_tokens = row_tokens
        self._window_rows = window_rows
        self._anneal_from_row = anneal_from_row
        self._kind: Kind = kind
        self._seed = seed
        self._waiting: list[Piece] = []
        self._number = -1
        """Number of the current window; the first is 0."""
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
        """Restore a state of the same data and configuration."""
        window = state["window"]
        self.mixture.load_state_dict(window["mixture"])
        self._waiting = [Piece(*numbers) for numbers in window["waiting"]]
        self._number = window["number"] - 1
        self._rows, self._n_taken = [], 0
        self.n_given = state["n_given"] - state["n_taken"]
        self._begin = self._beginning()
        if state["n_taken"]:
            # Use the saved number of rows: a branched run may have another annealing row, which cuts windows
            # elsewhere.
            self._open_window(window.get("n_rows", self._window_rows))
        self._n_taken = state["n_taken"]
        self.n_given, self.n_given_tokens = state["n_given"], state["n_given_tokens"]

    def _open_window(self, n_rows: int | None = None) -> None:
        self._begin = self._beginning()
        if n_rows is None:
            n_rows = self._n_rows_now()
        if n_rows != self._window_rows:
            self._begin["n_rows"] = n_rows
        self._number += 1
        pieces = self._waiting
        missing = n_rows * self._row_tokens - sum(piece.n_tokens for piece in pieces)
        annealing = self._anneal_from_row is not None and self.n_given >= self._anneal_from_row
        while missing > 0:
            document = self.mixture.draw(annealing=annealing)
            piece = Piece(document, 0, int(self._lengths[document]))
            pieces.append(piece)
            missing -= piece.n_tokens
        self._rows, self._waiting = plan_rows(pieces, self._row_tokens, self._kind)
        self._n_taken = 0

    def _beginning(self) -> dict[str, Any]:
        """Return the cursor at the start of the next window."""
        return {
            "number": self._number + 1,
            "mixture": self.mixture.state_dict(),
            "waiting": [list(piece) for piece in self._waiting],
        }

    def _n_rows_now(self) -> int:
        """Return the number of rows of the window that starts now."""
        if self._anneal_from_row is None or self.n_given >= self._anneal_from_row:
            return self._window_rows
        return min(self._window_rows, self._anneal_from_row - self.n_given)
