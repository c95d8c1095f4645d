"""Batches of guard rows: pairs of conversations after one shared policy.

The policy of a batch is drawn from the seed and the position, so a resumed run draws the same. A row whose
categories are all left out of the policy has the answer `safe`; so the guard learns to read the policy.

Letters: B rows of a batch, T tokens of a row, P tokens of the policy.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelstack.align.guard_model.policy import MLCOMMONS, Policy
from modelstack.align.guard_model.tokens import PromptTokens
from modelstack.align.guard_training.recipe import PolicyChanges
from modelstack.align.guard_training.rows import GuardRow
from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.posttrain.row_loader import PADDING, RowLoader, RowOrder


@dataclass(frozen=True, slots=True, eq=False)
class GuardBatch(Batch):
    """A batch whose rows all follow the same tokens."""

    policy_P: Tensor | None = None
    """Tokens of the chat format's opening and of the policy."""
    first_B: Tensor | None = None
    """Place in a row of the label that is the verdict."""
    unsafe_B: Tensor | None = None
    """Whether the answer of a row is `unsafe`, bool."""
    unit_B: Tensor | None = None
    """Number of a row's pair in the batch."""

    def to(self, device: torch.device) -> GuardBatch:
        """Return the batch on `device`."""
        if self.ids_BT.device == device:
            return self
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(
            self, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        )


@dataclass(frozen=True, slots=True, eq=False)
class GuardRows:
    """Rows with their tokens, and the units of the order: pairs of rows. `RowData` of units.

    Nearly all pairs are a harmful and a harmless row, twins if there are any. Without pairs, the shares of both
    kinds in a batch vary, and the gradient of the verdict's bias drowns what tells the rows apart: a 0.5B model
    answered whole batches `safe` or `unsafe` after 45 steps still.
    """

    rows: tuple[GuardRow, ...]
    conversations: tuple[list[int], ...]
    """Tokens of each conversation up to the answer."""
    units: tuple[tuple[int, ...], ...]
    """Numbers of the rows of each unit: two, or one at the end."""
    lengths: NDArray[np.int64]
    """Tokens of the rows of each unit with their answers."""
    source_of: NDArray[np.int64]
    """Number of the source of each unit's first row."""
    sources: tuple[str, ...]
    digest: str
    n_variants: int = 1

    def fingerprint(self) -> str:
        """Return the hash of the content."""
        return self.digest


def paired(rows: Sequence[GuardRow], lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the numbers of rows in pairs: twins, then a harmful and a harmless row of similar length.

    Rows that are left, all of one kind, follow in pairs among themselves.

    Args:
        rows: The rows.
        lengths: Tokens of each row.
    """
    by_name: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row.pair is not None:
            by_name.setdefault(row.pair, []).append(number)
    twins = [tuple(numbers) for numbers in by_name.values() if len(numbers) == 2]
    taken = {number for numbers in twins for number in numbers}
    unsafe, safe = (
        sorted(
            (n for n in range(len(rows)) if n not in taken and rows[n].unsafe == kind), key=lambda n: lengths[n]
        )
        for kind in (True, False)
    )
    fewer, more = sorted((unsafe, safe), key=len)
    places = [at * len(more) // len(fewer) for at in range(len(fewer))] if fewer else []
    matched = [(one, more[place]) for one, place in zip(fewer, places, strict=True)]
    used = set(places)
    left = [number for place, number in enumerate(more) if place not in used]
    return [*twins, *matched, *(tuple(left[at : at + 2]) for at in range(0, len(left), 2))]


class GuardLoader(RowLoader):
    """`Loader` of guard rows."""

    def __init__(
        self,
        data: GuardRows,
        prompts: PromptTokens,
        changes: PolicyChanges,
        config: RowOrder,
        *,
        category_weight: float,
        rows_per_batch: int,
    ) -> None:
        """Initialise before the first batch.

        Args:
            data: The rows.
            prompts: Encodes policies and answers.
            changes: Changes of the policy.
            config: Order of the rows.
            category_weight: Weight of the tokens after the verdict.
            rows_per_batch: Pairs of a micro-batch, which share a policy.

        Raises:
            UserError: The shares do not match the sources, or a row is too long.
        """
        super().__init__(data, config, rows_per_batch=rows_per_batch)
        self._data, self._prompts, self._changes = data, prompts, changes
        self._category_weight = category_weight

    def _batch(self, rows: Sequence[Row], position: int) -> GuardBatch:
        """Return the tokens of planned rows, all judged by one policy."""
        units = [self._data.units[row[0].document] for row in rows]
        policy = drawn_policy(self._changes, self._config.seed, position)
        return guard_batch(self._data, units, self._prompts, policy, position, self._category_weight)


def drawn_policy(changes: PolicyChanges, seed: int, position: int) -> Policy:
    """Return the policy of a batch."""
    draw = random.Random(f"{seed} {position}")
    if draw.random() >= changes.share:
        return MLCOMMONS
    codes = list(MLCOMMONS.codes)
    draw.shuffle(codes)
    return MLCOMMONS.of(codes[draw.randint(1, changes.max_dropped) :])


def guard_batch(
    data: GuardRows,
    units: Sequence[Sequence[int]],
    prompts: PromptTokens,
    policy: Policy,
    position: int = 0,
    category_weight: float = 1.0,
) -> GuardBatch:
    """Return the rows of some units after one policy, padded at their ends; labels are the answers."""
    parts: list[tuple[list[int], list[int]]] = []
    numbers = [number for unit in units for number in unit]
    is_unsafe: list[bool] = []
    for number in numbers:
        row = data.rows[number]
        violated = policy.violated(row.categories)
        is_known = bool(row.categories) or not row.unsafe
        unsafe = bool(violated) if is_known else row.unsafe
        is_unsafe.append(unsafe)
        parts.append((data.conversations[number], prompts.answer(violated, unsafe=unsafe)))
    T = max(len(asked) + len(answer) for asked, answer in parts) - 1
    ids_BT = np.full((len(parts), T), PADDING, np.int64)
    labels_BT = np.full((len(parts), T), IGNORED, np.int64)
    weights_BT = np.zeros((len(parts), T), np.float32)
    first_B = np.zeros(len(parts), np.int64)
    for b, (asked, answer) in enumerate(parts):
        ids = np.array([*asked, *answer])
        start = len(asked) - 1
        ids_BT[b, : len(ids) - 1] = ids[:-1]
        labels_BT[b, start : len(ids) - 1] = answer
        weights_BT[b, start : len(ids) - 1] = category_weight
        weights_BT[b, start] = 1
        row = data.rows[numbers[b]]
        if row.unsafe and not row.categories:
            weights_BT[b, start + 1 :] = 0  # the second line is unknown
        first_B[b] = start
    ids, labels = torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)
    return GuardBatch(
        ids,
        labels,
        torch.zeros_like(ids),
        position,
        weights_BT=torch.from_numpy(weights_BT),
        policy_P=torch.tensor(prompts.prefix(policy)),
        first_B=torch.from_numpy(first_B),
        unsafe_B=torch.tensor(is_unsafe),
        unit_B=torch.tensor([unit for unit, several in enumerate(units) for _ in several]),
    )
