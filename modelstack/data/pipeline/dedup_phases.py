"""Phases of the deduplication steps, which compare documents with each other.

Duplicates of whole documents pass through keys, pairs of each bucket, clusters and copies
(`modelstack.data.dedup`). Repeated lines and spans pass through keys and repeats. Both end in a pass over the
documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modelstack.data.dedup.clusters import write_clusters
from modelstack.data.dedup.copies import lengths_of, read_copies, write_copies
from modelstack.data.dedup.exact import ExactConfig, write_exact_keys
from modelstack.data.dedup.lines import LinesConfig, without_repeats, write_line_keys
from modelstack.data.dedup.minhash import MinHashConfig, write_signatures
from modelstack.data.dedup.pairs import pairs_of_bucket
from modelstack.data.dedup.repeats import write_repeats
from modelstack.data.dedup.substring import KEYS, SubstringConfig, repeated_spans, without_spans, write_windows
from modelstack.data.documents import Document, Step
from modelstack.data.pipeline.phases import FilterPhase, NamedStep, Phase, Source
from modelstack.errors import UserError

DUPLICATE, EMPTIED = "duplicate", "nothing_left"


class ExactStep(ExactConfig, frozen=True, extra="forbid"):
    """Drops documents with the same text as another."""

    keep: Literal["longest", "first"] = "first"
    """Document kept of a group of equal texts."""
    earlier: tuple[Path, ...] = ()
    """Folders `keys` of earlier runs; documents equal to one of theirs are dropped too."""


class MinHashStep(MinHashConfig, frozen=True, extra="forbid"):
    """Drops documents that are near-duplicates of another."""

    keep: Literal["longest", "first"] = "longest"
    """Document kept of a group of near-duplicates."""
    earlier: tuple[Path, ...] = ()
    """Folders `keys` of earlier runs; near-duplicates of their documents are dropped too."""


class LinesStep(LinesConfig, frozen=True, extra="forbid"):
    """Removes lines or paragraphs that occurred before, and drops documents with too little text left."""

    min_left: int = Field(default=1, ge=0)
    """Minimum characters left in a changed document."""
    earlier: tuple[Path, ...] = ()
    """Folders `keys` of earlier runs; lines that occur in them are removed too."""


class SubstringStep(SubstringConfig, frozen=True, extra="forbid"):
    """Removes long word spans that occurred before, and drops documents with too little text left."""

    min_left: int = Field(default=1, ge=0)
    """Minimum characters left in a changed document."""


CorpusStepConfig = ExactStep | MinHashStep | LinesStep | SubstringStep
Phases = tuple[list[Phase], FilterPhase]


def dedup_phases(config: CorpusStepConfig, source: Source, folder: Path) -> Phases:
    """Return the preparing phases of a step, and its last phase, the pass over the documents.

    Raises:
        UserError: A folder in `earlier` contains no key file.
    """
    if isinstance(config, SubstringStep):
        return _spans(config, source, folder)
    if isinstance(config, LinesStep):
        return _lines(config, source, folder)
    return _documents(config, source, folder)


class _Shards(Phase):
    """Phase with one task per shard: writes the keys of the shard's texts to a file or folder."""

    def __init__(
        self, name: str, folder: Path, suffix: str, source: Source, write: Callable[[Iterator[str], Path], int]
    ) -> None:
        super().__init__(name, folder, source.n_shards)
        self._suffix, self._source, self._write = suffix, source, write

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"{task:05d}{self._suffix}" for task in range(self.n_tasks)]

    @cached_property
    def n_documents(self) -> list[int]:
        """Number of documents of each shard; available when all tasks are done."""
        return [self.record(task)["n"] for task in range(self.n_tasks)]

    def perform(self, task: int) -> dict[str, Any]:
        return {"n": self._write(_texts(self._source, task), self.paths[task])}


class _Tasks(Phase):
    """Phase of tasks that are functions of their number."""

    def __init__(self, name: str, folder: Path, n_tasks: int, perform: Callable[[int], int]) -> None:
        super().__init__(name, folder, n_tasks)
        self._perform = perform

    def perform(self, task: int) -> dict[str, Any]:
        return {"n": self._perform(task)}


def _documents(config: ExactStep | MinHashStep, source: Source, folder: Path) -> Phases:
    own = {"keep", "earlier"}
    if isinstance(config, MinHashStep):
        signed, n_buckets = MinHashConfig(**config.model_dump(exclude=own)), config.n_buckets
        keys = _keys(folder, ".keys", source, lambda texts, out: write_signatures(texts, out, signed))
    else:
        compared, n_buckets = ExactConfig(**config.model_dump(exclude=own)), 1
        keys = _keys(folder, ".keys", source, lambda texts, out: write_exact_keys(texts, out, compared))
    earlier = _earlier(config.earlier)

    def pairs_file(bucket: int) -> Path:
        return folder / "pairs" / f"{bucket:05d}.pairs"

    clusters_file, copies_file = folder / "clusters" / "clusters.npy", folder / "copies" / "copies.npy"

    def copies(task: int) -> int:
        score = lengths_of(keys.paths) if config.keep == "longest" else _all_equal(keys.n_documents)
        return write_copies(clusters_file, keys.n_documents, score, copies_file)

    pairs = _Tasks(
        f"{folder.name}/pairs",
        folder / "pairs",
        n_buckets,
        lambda bucket: pairs_of_bucket(keys.paths, bucket, pairs_file(bucket), earlier=earlier),
    )
    clusters = _Tasks(
        f"{folder.name}/clusters",
        folder / "clusters",
        1,
        lambda task: write_clusters([pairs_file(i) for i in range(n_buckets)], keys.n_documents, clusters_file),
    )
    chosen = _Tasks(f"{folder.name}/copies", folder / "copies", 1, copies)
    last = _pass(
        config.kind, folder, source, lambda shard: _keeping(read_copies(copies_file, keys.n_documents, shard))
    )
    return [keys, pairs, clusters, chosen], last


def _lines(config: LinesStep, source: Source, folder: Path) -> Phases:
    compared = LinesConfig(**config.model_dump(exclude={"min_left", "earlier"}))
    keys = _keys(folder, ".keys", source, lambda texts, out: write_line_keys(texts, out, compared))
    repeats = _repeats(folder, lambda: keys.paths, _earlier(config.earlier))

    def step_of(shard: int) -> Step:
        texts = without_repeats(_texts(source, shard), repeats.folder / "repeats", shard, compared)
        return _editing(lambda text: next(texts), config.min_left)

    return [keys, repeats], _pass(config.kind, folder, source, step_of)


def _spans(config: SubstringStep, source: Source, folder: Path) -> Phases:
    compared = SubstringConfig(**config.model_dump(exclude={"min_left"}))
    keys = _keys(folder, "", source, lambda texts, out: write_windows(texts, out, compared))
    repeats = _repeats(folder, lambda: [path / KEYS for path in keys.paths], [])

    def step_of(shard: int) -> Step:
        spans = repeated_spans(keys.paths, shard, repeats.folder / "repeats", compared)
        return _editing(lambda text: without_spans(text, next(spans)), config.min_left)

    return [keys, repeats], _pass(config.kind, folder, source, step_of)


def _keys(folder: Path, suffix: str, source: Source, write: Callable[[Iterator[str], Path], int]) -> _Shards:
    return _Shards(f"{folder.name}/keys", folder / "keys", suffix, source, write)


def _repeats(folder: Path, key_files: Callable[[], Sequence[Path]], earlier: Sequence[Path]) -> Phase:
    out = folder / "repeats" / "repeats"
    return _Tasks(
        f"{folder.name}/repeats", out.parent, 1, lambda task: write_repeats(key_files(), out, earlier=earlier)
    )


def _pass(kind: str, folder: Path, source: Source, step_of: Callable[[int], Step]) -> FilterPhase:
    return FilterPhase(
        folder.name, folder / "documents", source, [kind], lambda shard: [NamedStep(kind, step_of(shard))]
    )


def _texts(source: Source, shard: int) -> Iterator[str]:
    return (item.text for item in source.read(shard) if isinstance(item, Document))


def _earlier(folders: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        found = sorted(folder.glob("*.keys"))
        if not found:
            raise UserError(f"earlier={str(folder)!r} holds no .keys file; name `keys` of an earlier run")
        files += found
    return files


def _all_equal(n_documents: Sequence[int]) -> Callable[[int], np.ndarray]:
    return lambda shard: np.zeros(n_documents[shard])


def _keeping(copies: np.ndarray) -> Step:
    """Return a step for the documents of one shard, in order, that drops duplicates."""
    numbers = iter(copies.tolist())

    def keep(document: Document) -> str | None:
        n_copies = next(numbers)
        if n_copies > 1:
            document.metadata["n_copies"] = n_copies
        return None if n_copies else DUPLICATE

    return keep


def _editing(edited: Callable[[str], str], min_left: int) -> Step:
    """Return a step for the documents of one shard, in order, that replaces each text by its edited form."""

    def edit(document: Document) -> str | None:
        before, document.text = document.text, edited(document.text)
        if document.text == before:
            return None
        return EMPTIED if len(document.text) < min_left else None

    return edit
