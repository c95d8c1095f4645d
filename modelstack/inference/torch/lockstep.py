"""The rows of one prompt in one cache, for models whose past is not kept in blocks.

A model's own cache has one length for all rows, so no row can run ahead. Each row has tokens that it has yet to
read: a token that it drew, a block forced by a grammar, or the result of a tool. In each step every row reads as
many tokens as the row with the fewest has. Nothing is read twice, and there are at most as many steps as the
longest row has tokens. Models of the usual kinds are evaluated in batches of any lengths (`stream_batch`).

Letters: R rows, K tokens in a step, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modelstack.architecture.cache import Cache, repeated
from modelstack.architecture.decoder import CausalLM
from modelstack.inference.evaluation import Ready


@dataclass(slots=True, eq=False)
class LockstepRow:
    """The tokens that one row has yet to read; None after its end."""

    unread: list[int] | None


class LockstepBatch:
    """An `Evaluation` of the rows of one prompt after another."""

    def __init__(self, model: CausalLM) -> None:
        """Evaluate `model`, which is in evaluation mode, on its own device."""
        self._model = model
        self._device = next(model.parameters()).device
        self._prompt: tuple[int, ...] = ()
        self._cache = Cache([])
        self._rows: list[LockstepRow] = []
        """Rows of the cache. One that has ended goes on unrecorded, since all have one length."""
        self._n_cached = 0
        """Number of rows that the cache has; more begin with a copy of its first."""

    def __len__(self) -> int:
        """Return the number of rows that have not ended."""
        return sum(row.unread is not None for row in self._rows)

    def submit(self, prompt: Sequence[int], ids: Sequence[int]) -> LockstepRow:
        """Append a row.

        Args:
            prompt: At least one token. While other rows run, it is theirs, and they have read nothing else.
            ids: What follows the prompt.

        Raises:
            ValueError: Rows of another prompt are running, or they have read more than the prompt.
        """
        if not len(self):
            self._prompt, self._cache, self._rows = tuple(prompt), self._model.new_cache(), []
            self._n_cached = 1
            row = LockstepRow([*prompt, *ids])
        elif tuple(prompt) == self._prompt and self._cache.n_tokens == len(prompt):
            row = LockstepRow(list(ids))
        else:
            raise ValueError("a row in lockstep begins with the others of its prompt, or after their end")
        self._rows.append(row)
        return row

    def extend(self, stream: LockstepRow, ids: Sequence[int]) -> None:
        """Append tokens to a row."""
        assert stream.unread is not None
        stream.unread.extend(ids)

    def remove(self, stream: LockstepRow) -> None:
        """End a row."""
        stream.unread = None

    @torch.no_grad()
    def step(self) -> Ready[LockstepRow]:
        """Read the next tokens of all rows; return the rows that have read all of theirs."""
        if self._n_cached < len(self._rows):
            self._cache = repeated(self._cache, len(self._rows))
            self._n_cached = len(self._rows)
        K = min(len(row.unread) for row in self._rows if row.unread is not None)
        ids_RK = torch.tensor([(row.unread or [0] * K)[:K] for row in self._rows], device=self._device)
        output = self._model(ids_RK, cache=self._cache, last_only=True)
        for row in self._rows:
            if row.unread is not None:
                del row.unread[:K]
        ready = [place for place, row in enumerate(self._rows) if row.unread == []]
        logits_RV = output.logits_BTV[:, -1].float().cpu().numpy()
        return Ready([self._rows[place] for place in ready], logits_RV[ready])
