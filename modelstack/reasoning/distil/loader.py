"""Batches of a distillation: examples with their own replies, or with replies sampled from the student.

The choice between the two, and the samples, depend only on the weights, the seed and the position in the data, so
a run that is killed and resumed samples the same replies.

Letters: B rows, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.posttrain.base import Base
from modelstack.posttrain.row_loader import RowLoader, RowOrder, padded_rows
from modelstack.reasoning.distil.recipe import OnPolicy
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Asked
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.sft.tokenised import Tokenised

_NO_TASK = PolicyTask(Item("distillation", None), ())
"""Placeholder task of sampled replies: only the teacher evaluates them."""


@dataclass(frozen=True, slots=True, eq=False)
class DistilBatch(Batch):
    """Batch with one example a row; labels are its targets, at the positions that predict them."""

    documents: tuple[int, ...] | None = field(kw_only=True)
    """Numbers of the examples, which index a stored teacher; None: the student sampled the replies."""

    def to(self, device: torch.device) -> DistilBatch:
        """Return the batch unchanged; its tensors are moved to the device one by one on use."""
        return self


class DistilLoader(RowLoader):
    """`Loader` of a distillation; examples of similar length form a batch."""

    def __init__(
        self,
        data: Tokenised,
        config: RowOrder,
        *,
        rows_per_batch: int,
        on_policy: OnPolicy | None,
        sampler: GroupSampler | None,
    ) -> None:
        """Initialise before the first batch.

        Args:
            data: The examples.
            config: Order of the rows.
            rows_per_batch: Rows of a batch, B.
            on_policy: Plan of sampled replies; None: all replies are the examples' own.
            sampler: Sampler of the student; required with `on_policy`.

        Raises:
            UserError: The shares do not match the sources, or an example is longer than a row.
        """
        super().__init__(data, config, rows_per_batch=rows_per_batch)
        assert (on_policy is None) == (sampler is None)
        self._data, self._on_policy, self._sampler, self._seed = data, on_policy, sampler, config.seed

    def _batch(self, rows: Sequence[Row], position: int) -> DistilBatch:
        numbers = tuple(row[0].document for row in rows)
        if self._on_policy is not None and _draw(self._seed, position, "whose") < self._on_policy.share:
            return DistilBatch(*padded_rows(self._sampled(numbers, position)), position, documents=None)
        return given_batch(self._data, numbers, position)

    def _sampled(self, numbers: Sequence[int], position: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        assert self._sampler is not None
        prompts = [prompt_of(*self._data.document(number)) for number in numbers]
        asked = [
            Asked(_NO_TASK, tuple(prompt.tolist()), int(_draw(self._seed, position, str(b)) * 2**53))
            for b, prompt in enumerate(prompts)
        ]
        found: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = []
        for prompt, (reply,) in zip(prompts, self._sampler.sample(asked, 1), strict=True):
            ids = np.concatenate([prompt, np.array(reply.ids, np.int64)])
            found.append((ids, np.arange(len(ids)) >= len(prompt)))
        return found


def loader_for(
    base: Base, data: Tokenised, order: RowOrder, *, rows_per_batch: int, on_policy: OnPolicy | None
) -> DistilLoader:
    """Return the loader of a base's training, with a sampler of the base itself if replies are sampled."""
    sampler = None
    if on_policy is not None:
        end_ids = frozenset(base.encoder.end_ids)
        sampler = GroupSampler(TorchPolicy(base.model), end_ids, on_policy.max_tokens, on_policy.temperature)
    return DistilLoader(data, order, rows_per_batch=rows_per_batch, on_policy=on_policy, sampler=sampler)


def given_batch(data: Tokenised, numbers: Sequence[int], position: int = 0) -> DistilBatch:
    """Return the batch of the examples with these numbers, with their own replies."""
    rows: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = []
    for number in numbers:
        ids, weights = data.document(number)
        rows.append((ids.astype(np.int64), weights > 0))
    return DistilBatch(*padded_rows(rows), position, documents=tuple(numbers))


def prompt_of(ids: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the tokens of an example before its last reply, which is the end of the example."""
    n_prompt = int(np.flatnonzero(weights == 0)[-1]) + 1
    return ids[:n_prompt].astype(np.int64)


def _draw(seed: int, position: int, what: str) -> float:
    """Return a number from 0 to 1 that depends only on the arguments."""
    digest = hashlib.sha256(f"{seed} {position} {what}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
