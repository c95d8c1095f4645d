"""Rows of whole examples with an exact position: the base class of loaders that read examples.

Two layouts:

- Packed: several examples share a row of T tokens, chosen by best fit. Attention does not cross examples. No
  example is cut; longer ones were dropped earlier.
- Padded: one example a row. Rows of similar length form a batch, which is as long as its longest row. Attention
  then needs no mask, which is faster for short rows.

Order, shares and epochs are those of pre-training (`data.mixture`, `data.rows`): a seeded permutation in each
epoch, and the source with the largest deficit first. The state is that of the whole run and does not depend on the
rank.

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
from torch import Tensor

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.mixture import Mixture
from modelstack.data.order import Order
from modelstack.data.packing import Piece, Row, plan_rows
from modelstack.data.rows import RowStream
from modelstack.errors import UserError
from modelstack.posttrain.recipe import TuningFiles

WINDOW_ROWS = 256
"""Approximate number of rows that are packed, or sorted by length, together."""
PADDING = 0
"""Token id of padding. Padding has no label, and no labelled position attends to it."""
Layout = Literal["packed", "padded"]


class RowOrder(BaseModel):
    """Configuration of the order of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_tokens: int = Field(ge=2)
    """T: maximum number of tokens in a row."""
    layout: Layout = "packed"
    window_rows: int = Field(default=256, ge=1)
    """W: number of rows that are packed, or sorted by length, together."""
    group_rows: int = Field(default=8, ge=1)
    """G, for the padded layout: rows of similar length, for example those of one optimizer step."""
    seed: int = 0
    shares: dict[str, float] | None = None
    """Share of the tokens by source; None: each example occurs once an epoch."""


class _Rows(Protocol):
    """Sequence of rows with a position that can be saved and restored."""

    n_given: int
    n_given_tokens: int

    def take(self) -> Row: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class RowData(Protocol):
    """Lengths and sources of examples, from which rows are planned."""

    @property
    def source_of(self) -> NDArray[np.int64]:
        """Source of each example, [E]."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources."""
        ...

    @property
    def n_variants(self) -> int:
        """Variants of each example."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example in a row: first variants of all examples, then their second variants."""
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 of all content."""
        ...


class RowLoader(ABC):
    """`Loader` that plans rows of examples; a subclass builds the tensors."""

    def __init__(
        self, data: RowData, config: RowOrder, *, rows_per_batch: int, rank: int = 0, world: int = 1
    ) -> None:
        """Initialise before the first batch.

        Args:
            data: Lengths and sources of the examples.
            config: Order of the rows.
            rows_per_batch: Rows of a batch on this rank.
            rank: This process's number, from 0.
            world: Number of processes.

        Raises:
            UserError: The shares do not match the sources, the rank is not below `world`, or an example is longer
                than a row.
        """
        if rows_per_batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"rank {rank} of {world} with {rows_per_batch} rows: ranks are 0 to world - 1, and a batch has at "
                f"least 1 row"
            )
        longest = int(data.lengths.max())
        if longest > config.row_tokens:
            raise UserError(
                f"an example has {longest} tokens, a row has {config.row_tokens}: tokenise with that limit"
            )
        self._config = config
        self._rows_per_batch = rows_per_batch
        self._rank = rank
        self._world = world
        self._fingerprint = data.fingerprint()
        self._n_examples = len(data.source_of)
        self._lengths = data.lengths
        self.mixture = mixture = Mixture(
            self._lengths, data.source_of, data.sources, config.shares, config.seed, data.n_variants
        )
        """Share of the tokens and number of epochs so far of each source."""
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
        """Return the loader."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch of this rank, skipping the rows of other ranks."""
        position = self._stream.n_given
        rows = [self._stream.take() for _ in range(self._world * self._rows_per_batch)]
        return self._batch(rows[self._rank * self._rows_per_batch :][: self._rows_per_batch], position)

    @property
    def rows_per_epoch(self) -> int:
        """Approximate number of rows that hold all examples once."""
        E = self._n_examples
        if self._config.layout == "padded":
            return E
        pieces = [Piece(n, 0, int(length)) for n, length in enumerate(self._lengths[:E])]
        plan = plan_rows(pieces, self._config.row_tokens, "best_fit")
        return len(plan.rows) + bool(plan.waiting)

    @property
    def n_tokens(self) -> int:
        """Tokens given so far by all ranks, without padding."""
        return self._stream.n_given_tokens

    def state_dict(self) -> dict[str, Any]:
        """Return everything that determines the next batch."""
        return {
            "data": self._fingerprint,
            "config": self._config.model_dump(mode="json"),
            "stream": self._stream.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, which may come from another rank, world size or number of rows per batch.

        Raises:
            UserError: The state belongs to other data or another configuration.
        """
        if state["data"] != self._fingerprint:
            raise UserError(
                "the state belongs to other examples, or to the same examples rendered differently; "
                "a run keeps its data and its rendering until its end"
            )
        ours = self._config.model_dump(mode="json")
        changed = [key for key in ours if state["config"].get(key) != ours[key]]
        if changed:
            key = changed[0]
            raise UserError(
                f"{key} is {ours[key]!r}, the state has {state['config'].get(key)!r}; "
                f"a run keeps the order of its rows until its end"
            )
        self._stream.load_state_dict(state["stream"])

    @abstractmethod
    def _batch(self, rows: Sequence[Row], position: int) -> Batch:
        """Return the tensors of planned rows; `position` is the number of rows given before them."""


def row_order(files: TuningFiles, *, rows: int, seed: int, row_tokens: int, layout: Layout = "padded") -> RowOrder:
    """Return the seeded order of the files' rows, with the files' shares; a group is the `rows` of a step."""
    shares = {file.path: file.share for file in files.training if file.share is not None}
    return RowOrder(
        row_tokens=row_tokens,
        layout=layout,
        window_rows=rows * math.ceil(WINDOW_ROWS / rows),
        group_rows=rows,
        seed=seed,
        shares=shares or None,
    )


def padded_rows(
    rows: Sequence[tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, labels and document numbers, each [B, T], with one example a row.

    Padding follows the example and has the same document number; causal attention hides it from the example.

    Args:
        rows: Token ids of each example, and a mask of the targets. The last token of an example is only a label.
    """
    T = max(len(ids) for ids, _ in rows) - 1
    ids_BT = np.full((len(rows), T), PADDING, np.int64)
    labels_BT = np.full((len(rows), T), IGNORED, np.int64)
    for b, (ids, is_target) in enumerate(rows):
        ids_BT[b, : len(ids) - 1] = ids[:-1]
        labels_BT[b, : len(ids) - 1] = np.where(is_target[1:], ids[1:], IGNORED)
    return torch.from_numpy(ids_BT), torch.from_numpy(labels_BT), torch.zeros(ids_BT.shape, dtype=torch.int64)


class PaddedRows:
    """Rows of one example: sorted by length within a window, then taken in groups in a seeded order."""

    def __init__(self, mixture: Mixture, lengths: Any, config: RowOrder) -> None:
        """Initialise before the first row.

        Raises:
            UserError: A window is not a multiple of a group.
        """
        if config.window_rows % config.group_rows:
            raise UserError(
                f"window_rows is {config.window_rows} and group_rows is {config.group_rows}; "
                f"make window_rows a multiple of group_rows"
            )
        self.mixture = mixture
        self.n_given = 0
        self.n_given_tokens = 0
        self._lengths = lengths
        self._config = config
        self._begin = mixture.state_dict()
        """State of the mixture before the first draw of the current window."""
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
        """Return the position."""
        return {"n_given": self.n_given, "n_given_tokens": self.n_given_tokens, "window": self._begin}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of the same data and configuration."""
        self.n_given, self.n_given_tokens = state["n_given"], state["n_given_tokens"]
        self._begin = dict(state["window"])
        self.mixture.load_state_dict(self._begin)
        self._documents = []
        if self.n_given:
            self._draw()

    def _draw(self) -> None:
        drawn = [self.mixture.draw() for _ in range(self._config.window_rows)]
        self._documents = sorted(drawn, key=lambda document: self._lengths[document])
