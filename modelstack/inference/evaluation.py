"""Streams of tokens that are evaluated together: what a loop over replies drives.

An evaluation knows no replies. Each `step` evaluates some tokens of some streams; the loop then decides what
follows each stream whose logits are known. Two loops exist: `batched_engine` writes replies for callers, and
`rows` writes what a model in training writes.

Letters: R streams (with drafts: R of their tokens), V vocabulary size, L layers, D width of their outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError
from modelstack.inference.sequences import common_prefix_length

StreamT = TypeVar("StreamT")
"""Type of an evaluation's streams: the tokens of a request and their place in the cache."""


@dataclass(frozen=True, slots=True)
class Ready(Generic[StreamT]):
    """Streams whose last token was evaluated; each must be extended or removed before the next step."""

    streams: Sequence[StreamT]
    logits_RV: NDArray[np.float32]
    """Logits after their last tokens, valid until the next step. With drafts: for each stream the logits after its
    last token, then those after each token of its draft."""
    failed: Sequence[tuple[StreamT, EngineError]] = ()
    """Streams that cannot go on, each for a reason of its own; each must be removed."""
    drafts: Sequence[Sequence[int]] | None = None
    """Draft tokens of each stream that were evaluated; None: there are none."""
    n_tokens: int = 0
    """Number of tokens that the step evaluated; counted by evaluations that take drafts."""
    states_RLD: NDArray[np.float32] | None = None
    """Outputs of some layers at the tokens of `logits_RV`, valid until the next step; None: none are read."""


def n_kept(draft: Sequence[int], ids: Sequence[int]) -> int:
    """Return how many tokens of an evaluated draft count as evaluated when `ids` are appended to its stream.

    The last one of `ids` never does: its logits decide what follows.
    """
    return max(0, min(common_prefix_length(list(draft), list(ids)), len(ids) - 1))


class Evaluation(Protocol[StreamT]):
    """A model's cache and its streams."""

    def __len__(self) -> int:
        """Return the number of streams."""
        ...

    def step(self) -> Ready[StreamT]:
        """Evaluate the next tokens of the streams; nothing if none can run.

        If the evaluation raises, all streams stay, and can be continued or removed.
        """
        ...

    def extend(self, stream: StreamT, ids: Sequence[int]) -> None:
        """Append tokens to a stream."""
        ...

    def remove(self, stream: StreamT) -> None:
        """Remove a finished or cancelled stream, and free what it holds."""
        ...


class DraftingEvaluation(Evaluation[StreamT], Protocol[StreamT]):
    """An evaluation that takes drafts: guesses of what follows a stream's last token, evaluated with it."""

    @property
    def max_step_tokens(self) -> int:
        """Number of tokens of a step that drafts are part of; 0: the model's past cannot drop wrong drafts."""
        ...

    def draft(self, stream: StreamT, ids: Sequence[int]) -> None:
        """Set what the next step evaluates after a stream's last token, if it evaluates that and has room.

        `extend` keeps the draft tokens that equal the appended ones, and drops the rest.
        """
        ...
