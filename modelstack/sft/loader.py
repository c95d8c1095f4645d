"""Batches of whole examples, with an exact cursor: the `Loader` of fine-tuning.

Packed: several examples share a row of T tokens, found by best fit, and attention does not look from one to
another; no example is cut, longer ones were dropped. Padded: an example a row, rows of similar length together,
each batch as long as its longest; attention then needs no mask at all, which is faster where rows are short.

Order, shares and epochs are those of pre-training (`data.mixture`, `data.rows`): a seeded permutation in each
epoch, sources by the largest deficit. The state is of the whole run, it names no rank.

Letters: B rows of a batch, T tokens of a row, W rows of a window, G rows of similar length.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.mixture import Mixture
from modelstack.data.order import Order
from modelstack.data.packing import Piece, Row, plan_rows
from modelstack.data.rows import RowStream
from modelstack.errors import UserError
from modelstack.posttrain.recipe import TuningFiles
from modelstack.sft.tokenised import Tokenised

WINDOW_ROWS = 256
"""About so many are packed, or sorted by length, together."""
PADDING = 0
"""The token that stands where there is none; it has no label, and nothing that has one sees it."""


class SftLoaderConfig(BaseModel):
    """What the stream of rows depends on, beside the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_tokens: int = Field(ge=2)
    """T, the most that a row holds."""
    layout: Literal["packed", "padded"] = "packed"
    window_rows: int = Field(default=256, ge=1)
    """W: rows that are packed, or sorted by length, together."""
    group_rows: int = Field(default=8, ge=1)
    """G, of the padded layout: the rows of one optimizer step, if one is to have rows of similar length."""
    seed: int = 0
    shares: dict[str, float] | None = None
    """Of the tokens for each source; without it, each example once in an epoch."""


class _Rows(Protocol):
    """A sequence of rows that can be stopped and continued."""

    mixture: Mixture
    n_given: int
    n_given_tokens: int

    def take(self) -> Row: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class RowData(Protocol):
    """What a loader has to know of its data to plan rows."""

    @property
    def source_of(self) -> NDArray[np.int64]:
        """Of each example, [E]."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Names that shares are given to."""
        ...

    @property
    def n_dropped(self) -> Mapping[str, int]:
        """By source, what no row could hold."""
        ...

    @property
    def n_variants(self) -> int:
        """Of each example."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Places in a row, of all examples' first variants, then of the second."""
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything."""
        ...


class RowLoader(ABC):
    """A `Loader` that plans rows of examples; what a batch is made of them is the subclass's."""

    def __init__(
        self, data: RowData, config: SftLoaderConfig, *, rows_per_batch: int, rank: int = 0, world: int = 1
    ) -> None:
        """Stand before the first batch of `rows_per_batch` rows for this rank.

        Raises:
            UserError: The shares do not fit the sources, the rank not the world, or an example not a row.
        """
        if rows_per_batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"rank {rank} of {world} with {rows_per_batch} rows; ranks are 0 to world - 1, rows from 1"
            )
        longest = int(data.lengths.max())
        if longest > config.row_tokens:
            raise UserError(
                f"an example takes {longest} places, a row has {config.row_tokens}: tokenise with these row_tokens"
            )
        self._config = config
        self._rows_per_batch = rows_per_batch
        self._rank = rank
        self._world = world
        self._fingerprint = data.fingerprint()
        self._n_examples, self._n_dropped = len(data.source_of), dict(data.n_dropped)
        self._lengths = data.lengths
        mixture = Mixture(self._lengths, data.source_of, data.sources, config.shares, config.seed, data.n_variants)
        self._stream: _Rows = (
            PaddedRows(mixture, self._lengths, config)
            if config.layout == "padded"
            else RowStream(
                mixture,
                self._lengths,
                row_tokens=config.row_tokens,
                window_rows=config.window_rows,
                kind="best_fit",
                seed=config.seed,
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        """Go on with the next batch."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch of this rank; the rows of the others are passed over."""
        position = self._stream.n_given
        rows = [self._stream.take() for _ in range(self._world * self._rows_per_batch)]
        return self._batch(rows[self._rank * self._rows_per_batch :][: self._rows_per_batch], position)

    @property
    def rows_per_epoch(self) -> int:
        """Return about how many rows hold as many tokens as all examples together."""
        E = self._n_examples
        if self._config.layout == "padded":
            return E
        pieces = [Piece(n, 0, int(length)) for n, length in enumerate(self._lengths[:E])]
        plan = plan_rows(pieces, self._config.row_tokens, "best_fit")
        return len(plan.rows) + bool(plan.waiting)

    def report(self) -> dict[str, Any]:
        """Return what was given so far, and drawn: each source's share and epochs; and what was dropped."""
        return {
            "n_rows": self._stream.n_given,
            "n_tokens": self._stream.n_given_tokens,
            "shares": self._stream.mixture.shares(),
            "epochs": self._stream.mixture.epochs(),
            "n_dropped": self._n_dropped,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next batch depends on."""
        return {
            "data": self._fingerprint,
            "config": self._config.model_dump(mode="json"),
            "stream": self._stream.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state, of whatever rank, world size and rows per batch.

        Raises:
            UserError: It is of other data or another configuration.
        """
        if state["data"] != self._fingerprint:
            raise UserError(
                "the state is of other examples, or of the same ones rendered in another way; "
                "a run keeps its data and its rendering to its end"
            )
        ours = self._config.model_dump(mode="json")
        changed = [key for key in ours if state["config"].get(key) != ours[key]]
        if changed:
            key = changed[0]
            raise UserError(
                f"{key} is {ours[key]!r}, the state has {state['config'].get(key)!r}; "
                f"a run keeps its rows to its end"
            )
        self._stream.load_state_dict(state["stream"])

    @abstractmethod
    def _batch(self, rows: Sequence[Row], position: int) -> Batch:
        """Return the tensors of planned rows; `position` is how many were given before."""


def row_order(
    files: TuningFiles, *, rows: int, seed: int, row_tokens: int, layout: Literal["packed", "padded"]
) -> SftLoaderConfig:
    """Return the order of rows: by a seed, those of a step together, the files' shares kept."""
    shares = {file.path: file.share for file in files.training if file.share is not None}
    return SftLoaderConfig(
        row_tokens=row_tokens,
        layout=layout,
        window_rows=rows * math.ceil(WINDOW_ROWS / rows),
        group_rows=rows,
        seed=seed,
        shares=shares or None,
    )


class SftLoader(RowLoader):
    """The `Loader` of tokenised examples."""

    def __init__(
        self, data: Tokenised, config: SftLoaderConfig, *, rows_per_batch: int, rank: int = 0, world: int = 1
    ) -> None:
        """Stand before the first batch of `rows_per_batch` rows for this rank.

        Raises:
            UserError: The shares do not fit the sources, the rank not the world, or an example not a row.
        """
        super().__init__(data, config, rows_per_batch=rows_per_batch, rank=rank, world=world)
        self._data = data
        self._is_weighted = not data.are_weights_one

    def _batch(self, rows: Sequence[Row], position: int) -> Batch:
        """Return the tensors of planned rows.

        A batch ends with its longest row. Padding behind packed examples is a document of its own. In a row of
        one example it counts to that one: nothing in front looks back at it, and where all of a batch is one
        document a row, no mask is made.
        """
        is_padded = self._config.layout == "padded"
        T = max(sum(piece.n_tokens for piece in row) for row in rows)
        shape = (len(rows), T)
        ids_BT = np.full(shape, PADDING, np.int64)
        labels_BT = np.full(shape, IGNORED, np.int64)
        weights_BT = np.zeros(shape, np.float32)
        documents_BT = np.zeros(shape, np.int64)
        counted_BT = np.ones(shape, np.bool_)
        for b, row in enumerate(rows):
            at = 0
            for number, piece in enumerate(row):
                end = at + piece.n_tokens
                ids, weights = self._data.document(piece.document)
                ids_BT[b, at:end] = ids[:-1]
                labels_BT[b, at:end] = np.where(weights[1:] > 0, ids[1:], IGNORED)
                weights_BT[b, at:end] = weights[1:]
                documents_BT[b, at:end] = number
                at = end
            if not is_padded:
                documents_BT[b, at:] = len(row)
            counted_BT[b, at:] = False
        return Batch(
            torch.from_numpy(ids_BT),
            torch.from_numpy(labels_BT),
            torch.from_numpy(documents_BT),
            position,
            weights_BT=torch.from_numpy(weights_BT) if self._is_weighted else None,
            counted_BT=None if counted_BT.all() else torch.from_numpy(counted_BT),
        )


class PaddedRows:
    """An example a row; a window's rows by length, in groups of similar length, the groups in a seeded order."""

    def __init__(self, mixture: Mixture, lengths: Any, config: SftLoaderConfig) -> None:
        """Stand before the first row.

        Raises:
            UserError: A window is not of whole groups.
        """
        if config.window_rows % config.group_rows:
            raise UserError(
                f"window_rows is {config.window_rows} and group_rows {config.group_rows}; "
                f"a window is of whole groups: make it a multiple"
            )
        self.mixture = mixture
        self.n_given = 0
        self.n_given_tokens = 0
        self._lengths = lengths
        self._config = config
        self._begin = mixture.state_dict()
        """Of the mixture, before the window's first draw."""
        self._documents: list[int] = []

    def take(self) -> Row:
        """Return the next row."""
        W, G = self._config.window_rows, self._config.group_rows
        window, at = divmod(self.n_given, W)
        if at == 0:
            self._begin = self.mixture.state_dict()
            self._draw()
        group = Order(W // G, self._config.seed, window, "groups").document(at // G)
        document = self._documents[group * G + at % G]
        piece = Piece(document, 0, int(self._lengths[document]))
        self.n_given += 1
        self.n_given_tokens += piece.n_tokens
        return [piece]

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor."""
        return {"n_given": self.n_given, "n_given_tokens": self.n_given_tokens, "window": self._begin}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of the same data and configuration."""
        self.n_given, self.n_given_tokens = state["n_given"], state["n_given_tokens"]
        self._begin = dict(state["window"])
        self.mixture.load_state_dict(self._begin)
        self._documents = []
        if self.n_given:
            self._draw()

    def _draw(self) -> None:
        drawn = [self.mixture.draw() for _ in range(self._config.window_rows)]
        self._documents = sorted(drawn, key=lambda document: self._lengths[document])
