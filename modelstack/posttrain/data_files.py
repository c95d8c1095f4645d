"""Files of training and held-back rows: their records in a stage, and the check that they do not overlap."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.stages.record import DataFile

Item = TypeVar("Item")


def data_file(
    path: str,
    role: Literal["training", "validation"],
    *,
    kinds: Sequence[str],
    licences: Sequence[str],
    sources: Sequence[str] = (),
    share: float | None = None,
) -> DataFile:
    """Return the record of a file for a stage.

    Args:
        path: Path of the file.
        role: Whether the file is trained on or measured on.
        kinds: Kind of each example.
        licences: Licence of each example.
        sources: Source of each example; empty if unknown.
        share: Share of the training tokens, if the recipe has one.
    """
    return DataFile(
        name=Path(path).name,
        role=role,
        sha256=sha256_of(path),
        n_examples=len(kinds),
        share=share,
        kinds=_counted(kinds),
        sources=_counted(sources),
        licences=_counted(licences),
    )


def refuse_both_sides(noun: str, trained: Collection[str], held_back: Iterable[tuple[str, str]]) -> None:
    """Refuse held-back rows that are also training rows.

    Args:
        noun: Plural name of the rows in the error.
        trained: Keys of the training rows.
        held_back: Id and key of each held-back row.

    Raises:
        UserError: A held-back row has a key of `trained`.
    """
    both = [name for name, key in held_back if key in trained]
    if both:
        raise UserError(
            f"{len(both)} {noun} are in training and in validation files, the first is {both[0]!r}: a row is "
            f"either trained on or measured on; remove these from one side"
        )


def drawn(items: Iterable[Item], n_most: int, seed: int, id_of: Callable[[Item], str]) -> list[Item]:
    """Return at most `n_most` items, those with the smallest hash of seed and id.

    Whether an item is ahead of another depends on these two alone.
    """

    def place(item: Item) -> bytes:
        return hashlib.sha256(f"{seed} {id_of(item)}".encode()).digest()

    return sorted(items, key=place)[:n_most]


def _counted(values: Sequence[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
