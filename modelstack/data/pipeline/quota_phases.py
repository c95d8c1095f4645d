"""Phases of the step `quota`: candidates of each shard, the limit of each source, a pass over the documents.

The limits are in the record of their single task, where every worker process reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from modelstack.data.documents import Document, Step
from modelstack.data.pipeline.phases import FilterPhase, NamedStep, Phase, Source
from modelstack.data.quota import Quota, Smallest, encoded, rank_of
from modelstack.errors import UserError
from modelstack.files import replacing

OVER = "over_quota"
_CANDIDATE = np.dtype([("source", "<u4"), ("rank", "<u8"), ("n_bytes", "<i8")])


def quota_phases(config: Quota, source: Source, folder: Path) -> tuple[list[Phase], FilterPhase]:
    """Return the preparing phases of the step, and its last phase, the pass over the documents."""
    candidates = _Candidates(config, source, folder)
    limits = _Limits(config, candidates, folder)
    last = FilterPhase(
        folder.name,
        folder / "documents",
        source,
        [config.kind],
        lambda shard: [NamedStep(config.kind, _below(limits.limits(), config.salt))],
    )
    return [candidates, limits], last


class _Candidates(Phase):
    """Phase with one task per shard: finds the documents of each source that may be within its quota."""

    def __init__(self, config: Quota, source: Source, folder: Path) -> None:
        super().__init__(f"{folder.name}/candidates", folder / "candidates", source.n_shards)
        self._config, self._source = config, source

    def perform(self, task: int) -> dict[str, Any]:
        smallest: dict[str, Smallest] = {}
        for item in self._source.read(task):
            if not isinstance(item, Document) or (quota := self._config.n_bytes(item.source)) is None:
                continue
            of_source = smallest.setdefault(item.source, Smallest(quota))
            of_source.add(rank_of(item.text, self._config.salt), len(encoded(item.text)))
        parts = [one.arrays() for one in smallest.values()]
        rows = np.empty(sum(len(ranks) for ranks, _ in parts), _CANDIDATE)
        rows["source"] = np.repeat(np.arange(len(parts)), [len(ranks) for ranks, _ in parts])
        for column, arrays in (("rank", [r for r, _ in parts]), ("n_bytes", [s for _, s in parts])):
            rows[column] = np.concatenate(arrays) if arrays else []
        with replacing(self._path(task)) as temporary, temporary.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
        return {"n": len(rows), "sources": list(smallest)}

    def read(self, task: int) -> list[tuple[str, np.ndarray]]:
        """Return the candidate rows of a shard by source."""
        rows = np.load(self._path(task), allow_pickle=False)
        return [(name, rows[rows["source"] == i]) for i, name in enumerate(self.record(task)["sources"])]

    def _path(self, task: int) -> Path:
        return self.folder / f"{task:05d}.npy"


class _Limits(Phase):
    """Phase with a single task: computes the limit of each source and stores it in the record."""

    def __init__(self, config: Quota, candidates: _Candidates, folder: Path) -> None:
        super().__init__(f"{folder.name}/limits", folder / "limits", 1)
        self._config, self._candidates = config, candidates

    def perform(self, task: int) -> dict[str, Any]:
        smallest: dict[str, Smallest] = {}
        for shard in range(self._candidates.n_tasks):
            for name, rows in self._candidates.read(shard):
                of_source = smallest.setdefault(name, Smallest(self._config.n_bytes(name) or 0))
                for rank, n_bytes in zip(rows["rank"].tolist(), rows["n_bytes"].tolist(), strict=True):
                    of_source.add(rank, n_bytes)
        missing = sorted(self._config.megabytes.keys() - smallest.keys())
        if missing:
            raise UserError(
                f"quota: source {missing[0]!r} has no documents at this step; check the name (the field `source`) "
                f"and what earlier steps dropped, or remove it from `megabytes`"
            )
        return {"limits": {name: one.limit() for name, one in sorted(smallest.items())}}

    def limits(self) -> dict[str, int | None]:
        """Return the limits by source; available when the task is done."""
        return self.record(0)["limits"]


def _below(limits: dict[str, int | None], salt: str) -> Step:
    def step(document: Document) -> str | None:
        limit = limits.get(document.source)
        return OVER if limit is not None and rank_of(document.text, salt) >= limit else None

    return step
