"""Batches to distil on: examples with their own replies, or with replies that the student samples now.

Which of the two a batch has, and what is sampled, depends on the weights, the seed and the place in the order
alone: a run that is killed and goes on samples the same again.

Letters: B rows, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.reasoning.distil.recipe import OnPolicy
from modelstack.reasoning.sampling.equal_length_sampler import EqualLengthSampler
from modelstack.reasoning.sampling.sampled import Asked
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.sft.loader import PADDING, RowLoader, SftLoaderConfig
from modelstack.sft.tokenised import Tokenised

_NO_TASK = PolicyTask(Item("distillation", None), ())
"""Nothing judges a student's reply but the teacher."""


@dataclass(frozen=True, slots=True, eq=False)
class DistilBatch(Batch):
    """An example a row; labels are its targets, aligned to the places that predict them."""

    documents: tuple[int, ...] | None = field(kw_only=True)
    """Numbers of the examples, by which a stored teacher is found; None: the replies are the student's."""

    def to(self, device: torch.device) -> DistilBatch:
        """Return the batch, whose tensors go to the device one by one where they are read."""
        return self


class DistilLoader(RowLoader):
    """The `Loader` of a distillation, examples of similar length together."""

    def __init__(
        self,
        data: Tokenised,
        config: SftLoaderConfig,
        *,
        rows_per_batch: int,
        on_policy: OnPolicy | None,
        sampler: EqualLengthSampler | None,
    ) -> None:
        """Stand before the first batch.

        Args:
            data: The examples.
            config: Of the order.
            rows_per_batch: B.
            on_policy: None: all replies are the examples'.
            sampler: Samples from the student; where there is a share on policy.

        Raises:
            UserError: The shares do not fit the sources, or an example not a row.
        """
        super().__init__(data, config.model_copy(update={"layout": "padded"}), rows_per_batch=rows_per_batch)
        assert (on_policy is None) == (sampler is None)
        self._data, self._on_policy, self._sampler, self._seed = data, on_policy, sampler, config.seed

    def _batch(self, rows: Sequence[Row], position: int) -> DistilBatch:
        numbers = tuple(row[0].document for row in rows)
        if self._on_policy is not None and _draw(self._seed, position, "whose") < self._on_policy.share:
            return _batch_of(self._sampled(numbers, position), position, None)
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


def given_batch(data: Tokenised, numbers: Sequence[int], position: int = 0) -> DistilBatch:
    """Return examples with their own replies."""
    rows: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = []
    for number in numbers:
        ids, weights = data.document(number)
        rows.append((ids.astype(np.int64), weights > 0))
    return _batch_of(rows, position, tuple(numbers))


def prompt_of(ids: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return an example up to where its last target begins; it ends with that target."""
    n_prompt = int(np.flatnonzero(weights == 0)[-1]) + 1
    return ids[:n_prompt].astype(np.int64)


def _batch_of(
    rows: Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]], position: int, documents: tuple[int, ...] | None
) -> DistilBatch:
    """Return rows of ids and targets as tensors; padding stands behind and has no label."""
    T = max(len(ids) for ids, _ in rows) - 1  # a last token predicts nothing
    ids_BT = np.full((len(rows), T), PADDING, np.int64)
    labels_BT = np.full((len(rows), T), IGNORED, np.int64)
    for b, (ids, is_target) in enumerate(rows):
        ids_BT[b, : len(ids) - 1] = ids[:-1]
        labels_BT[b, : len(ids) - 1] = np.where(is_target[1:], ids[1:], IGNORED)
    ids, labels = torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)
    return DistilBatch(ids, labels, torch.zeros_like(ids), position, documents=documents)


def _draw(seed: int, position: int, what: str) -> float:
    """Return a number from 0 to 1 that depends on nothing else."""
    digest = hashlib.sha256(f"{seed} {position} {what}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
