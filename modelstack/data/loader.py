"""Batches of packed rows for one rank, with an exact cursor.

A step of the whole run takes `world * rows_per_batch` rows of the stream in one piece, and each rank its part of
that. Every rank plans all rows, which is arithmetic on lengths, and reads the tokens of its own ones only. The
state is the stream's: it names no rank, so a run goes on at another world size with the next row.

Reading is from memory-mapped files and takes well under a millisecond a row, so no thread reads ahead: what was
read and not yet given would be one more thing that a state must hold.

Letters: B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.mixture import Mixture
from modelstack.data.packing import Kind, Row
from modelstack.data.rows import RowStream
from modelstack.data.shards import Shards
from modelstack.errors import UserError


class AnnealingMix(BaseModel):
    """A mix of its own for the end of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, float]
    """Share of the tokens for each source."""
    from_row: int = Field(ge=0)
    """Row of the stream with which it begins; what waited for a place by then comes in the first rows of it."""


class PackingConfig(BaseModel):
    """What the stream of rows depends on, beside the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_tokens: int = Field(ge=2)
    """T."""
    kind: Kind = "best_fit"
    window_rows: int = Field(default=256, ge=1)
    """Rows that are packed together: the packing buffer."""
    seed: int = 0
    weights: dict[str, float] | None = None
    """Share of the tokens for each source; without it, each document once in an epoch."""
    anneal: AnnealingMix | None = None


class PackedLoader:
    """The `Loader` of token shards."""

    def __init__(
        self, shards: Shards, config: PackingConfig, *, rows_per_batch: int, rank: int = 0, world: int = 1
    ) -> None:
        """Stand before the first batch of `rows_per_batch` rows for this rank.

        Raises:
            UserError: The weights do not fit the sources, or the rank not the world.
        """
        if rows_per_batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"rank {rank} of {world} with {rows_per_batch} rows; ranks are 0 to world - 1, rows from 1"
            )
        self._shards = shards
        self._config = config
        self._rows_per_batch = rows_per_batch
        self._rank = rank
        self._world = world
        anneal = config.anneal
        mixture = Mixture(
            shards.lengths,
            shards.source_of,
            shards.sources,
            config.weights,
            config.seed,
            anneal_weights=anneal.weights if anneal else None,
        )
        self._stream = RowStream(
            mixture,
            shards.lengths,
            row_tokens=config.row_tokens,
            window_rows=config.window_rows,
            kind=config.kind,
            seed=config.seed,
            anneal_from_row=anneal.from_row if anneal else None,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Go on with the next batch."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch of this rank; the rows of the others are passed over."""
        position = self._stream.n_given
        rows = [self._stream.take() for _ in range(self._world * self._rows_per_batch)]
        own = rows[self._rank * self._rows_per_batch :][: self._rows_per_batch]
        return batch_of_rows(own, self._shards, self._config.row_tokens, position)

    def skip(self, n_rows: int) -> None:
        """Pass over a window of rows of the whole run; nothing of them is read.

        Raises:
            UserError: The number is negative.
        """
        if n_rows < 0:
            raise UserError(f"skip of {n_rows} rows; to go back, load an earlier state")
        for _ in range(n_rows):
            self._stream.take()

    def report(self) -> dict[str, Any]:
        """Return what was given so far: rows, share of padding; and drawn: each source's share and epochs."""
        n_places = self._stream.n_given * self._config.row_tokens
        return {
            "n_rows": self._stream.n_given,
            "padding_share": 1 - self._stream.n_given_tokens / n_places if n_places else 0.0,
            "shares": self._stream.mixture.shares(),
            "epochs": self._stream.mixture.epochs(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next batch depends on."""
        return {
            "data": self._shards.fingerprint,
            "config": self._config.model_dump(mode="json"),
            "stream": self._stream.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state, of whatever rank, world size and rows per batch.

        The annealing mix may be another than the state's while neither has begun: so a run branches off.

        Raises:
            UserError: It is of other data or another configuration.
        """
        if state["data"] != self._shards.fingerprint:
            raise UserError(
                f"the state is of other token shards than {self._shards.folder}; "
                f"name the ones that the run began with"
            )
        ours = self._config.model_dump(mode="json")
        changed = [key for key in ours if state["config"].get(key) != ours[key]]
        n_given = state["stream"]["n_given"]
        ends = [anneal["from_row"] for anneal in (ours["anneal"], state["config"].get("anneal")) if anneal]
        if "anneal" in changed and all(n_given <= row for row in ends):
            changed.remove("anneal")
        if changed:
            key = changed[0]
            raise UserError(
                f"{key} is {ours[key]!r}, the state has {state['config'].get(key)!r}; "
                f"a run keeps its packing to its end"
            )
        self._stream.load_state_dict(state["stream"])


def batch_of_rows(rows: Sequence[Row], shards: Shards, row_tokens: int, position: int) -> Batch:
    """Return the tensors of planned rows.

    A label is the next token of the same document, also where that lies in another row: only a document's last
    token has none. Padding is the end-of-text token with no label, a document of its own, and not counted.
    """
    shape = (len(rows), row_tokens)
    ids_BT = np.full(shape, shards.index.end_id, np.int64)
    labels_BT = np.full(shape, IGNORED, np.int64)
    documents_BT = np.empty(shape, np.int64)
    counted_BT = np.ones(shape, np.bool_)
    for b, row in enumerate(rows):
        at = 0
        for number, piece in enumerate(row):
            end = at + piece.n_tokens
            tokens = shards.tokens(piece.document, piece.start, piece.start + piece.n_tokens + 1)
            ids_BT[b, at:end] = tokens[: piece.n_tokens]
            labels_BT[b, at : at + len(tokens) - 1] = tokens[1:]
            documents_BT[b, at:end] = number
            at = end
        documents_BT[b, at:] = len(row)
        counted_BT[b, at:] = False
    return Batch(
        torch.from_numpy(ids_BT),
        torch.from_numpy(labels_BT),
        torch.from_numpy(documents_BT),
        position,
        counted_BT=None if counted_BT.all() else torch.from_numpy(counted_BT),
    )
