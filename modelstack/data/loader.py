"""Batches of packed rows for one rank, with an exact cursor.

One step of the run takes `world * rows_per_batch` consecutive rows of the stream, and each rank uses its slice of
them. Every rank plans all rows, which is arithmetic on lengths, and reads only the tokens of its own rows. The
state describes the stream and names no rank, so a run resumes with the next row at any world size.

Tokens come from memory-mapped files at well under a millisecond per row, so no thread prefetches. Prefetched rows
would have to be part of the state.

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
    """Source weights for the last part of a training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, float]
    """Share of the tokens by source."""
    from_row: int = Field(ge=0)
    """Row of the stream from which these weights apply; pieces already waiting are placed in its first rows."""


class PackingConfig(BaseModel):
    """Configuration of the row stream; with the data, it determines every row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_tokens: int = Field(ge=2)
    """Row length T, in tokens."""
    kind: Kind = "best_fit"
    window_rows: int = Field(default=256, ge=1)
    """Number of rows packed together: the size of the packing buffer."""
    seed: int = 0
    weights: dict[str, float] | None = None
    """Share of the tokens by source; None: every document once per epoch."""
    anneal: AnnealingMix | None = None


class PackedLoader:
    """`Loader` over token shards."""

    def __init__(
        self, shards: Shards, config: PackingConfig, *, rows_per_batch: int, rank: int = 0, world: int = 1
    ) -> None:
        """Initialise before the first batch of `rows_per_batch` rows for this rank.

        Raises:
            UserError: The weights do not match the sources, or `rank` is outside `world`.
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
        """Iterate from the current position."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch of this rank and skip the rows of the other ranks."""
        position = self._stream.n_given
        rows = [self._stream.take() for _ in range(self._world * self._rows_per_batch)]
        own = rows[self._rank * self._rows_per_batch :][: self._rows_per_batch]
        return batch_of_rows(own, self._shards, self._config.row_tokens, position)

    def skip(self, n_rows: int) -> None:
        """Skip `n_rows` rows of the whole run without reading their tokens.

        Raises:
            UserError: The number is negative.
        """
        if n_rows < 0:
            raise UserError(f"skip of {n_rows} rows; to go back, load an earlier state")
        for _ in range(n_rows):
            self._stream.take()

    def report(self) -> dict[str, Any]:
        """Return statistics so far: returned rows and their padding share, shares and epochs of drawn sources."""
        n_places = self._stream.n_given * self._config.row_tokens
        return {
            "n_rows": self._stream.n_given,
            "padding_share": 1 - self._stream.n_given_tokens / n_places if n_places else 0.0,
            "shares": self._stream.mixture.shares(),
            "epochs": self._stream.mixture.epochs(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all state that the next batch depends on."""
        return {
            "data": self._shards.fingerprint,
            "config": self._config.model_dump(mode="json"),
            "stream": self._stream.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state saved at any rank, world size or rows per batch.

        The annealing mix may differ from the state's as long as neither has begun; this allows a run to branch.

        Raises:
            UserError: The state belongs to other data or another configuration.
        """
        if state["data"] != self._shards.fingerprint:
            raise UserError(
                f"the state was saved with other token shards than {self._shards.folder}; "
                f"use the shards that the run started with"
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
                f"a run cannot change its packing when it is resumed"
            )
        self._stream.load_state_dict(state["stream"])


def batch_of_rows(rows: Sequence[Row], shards: Shards, row_tokens: int, position: int) -> Batch:
    """Return the tensors of planned rows.

    A label is the next token of the same document, even when it lies in another row; only the last token of a
    document has no label. Padding is the end-of-text token without a label, numbered as a separate document and
    not counted.
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
