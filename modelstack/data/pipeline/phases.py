"""Phases of a run: numbered tasks that write their files atomically and their record last."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modelstack.data.documents import Broken, Document, Step
from modelstack.data.pipeline.counting import READ, Counts
from modelstack.data.pipeline.records import Writer, read_documents
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of

Item = Document | Broken


@dataclass(frozen=True, slots=True)
class NamedStep:
    """A step with its name in the counts."""

    name: str
    step: Step


class Phase(ABC):
    """Tasks that depend on earlier phases only, not on each other."""

    def __init__(self, name: str, folder: Path, n_tasks: int) -> None:
        """Set the name, and the folder for the files of the tasks."""
        self.name = name
        self.folder = folder
        self.n_tasks = n_tasks

    def record_path(self, task: int) -> Path:
        """Return the path of a task's record, which is written when the task is done."""
        return self.folder / f"{task:05d}.json"

    def is_done(self, task: int) -> bool:
        """Return whether a task is done."""
        return self.record_path(task).exists()

    def run(self, task: int) -> None:
        """Run a task unless it is done, and write its record."""
        if self.is_done(task):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.perform(task)
        with replacing(self.record_path(task)) as temporary:
            temporary.write_text(json.dumps(record, ensure_ascii=True, indent=1) + "\n", encoding="utf-8")

    def record(self, task: int) -> dict[str, Any]:
        """Return the record of a finished task."""
        return json.loads(self.record_path(task).read_text(encoding="utf-8"))

    @abstractmethod
    def perform(self, task: int) -> dict[str, Any]:
        """Run a task, regardless of what an earlier attempt left behind, and return its record."""


class Source(ABC):
    """Source of the documents of a phase, one shard per task."""

    n_shards: int

    @abstractmethod
    def read(self, shard: int) -> Iterator[Item]:
        """Read a shard; every call yields the same documents in the same order."""


class FilterPhase(Phase):
    """Phase that passes documents through steps; kept and dropped documents go to separate files."""

    def __init__(
        self,
        name: str,
        folder: Path,
        source: Source,
        step_names: Sequence[str],
        steps_of: Callable[[int], Sequence[NamedStep]],
    ) -> None:
        """Pass the documents of `source` through `steps_of(shard)`, whose names are `step_names`."""
        super().__init__(name, folder, source.n_shards)
        self.step_names = (READ, *step_names)
        self._source = source
        self._steps_of = steps_of

    def kept_path(self, task: int) -> Path:
        """Return the path of the documents kept by a task."""
        return self.folder / f"{task:05d}.jsonl.zst"

    def dropped_path(self, task: int) -> Path:
        """Return the path of the documents dropped by a task, in a separate folder that training does not read."""
        return self.folder / "dropped" / f"{task:05d}.jsonl.zst"

    def perform(self, task: int) -> dict[str, Any]:
        """Filter a shard."""
        counts, steps = Counts(), self._steps_of(task)
        self.dropped_path(task).parent.mkdir(exist_ok=True)
        with ExitStack() as files:
            kept_file = files.enter_context(replacing(self.kept_path(task)))
            dropped_file = files.enter_context(replacing(self.dropped_path(task)))
            kept, dropped = Writer(kept_file), Writer(dropped_file)
            try:
                for item in self._source.read(task):
                    _pass(item, steps, counts, kept, dropped)
            finally:
                kept.close()
                dropped.close()
            hashes = {"kept_sha256": sha256_of(kept_file), "dropped_sha256": sha256_of(dropped_file)}
        return {**hashes, **counts.to_json()}

    def counts(self) -> Counts:
        """Return the counts of all tasks together."""
        total = Counts()
        for task in range(self.n_tasks):
            total.add(Counts(self.record(task)))
        return total

    @cached_property
    def kept(self) -> Source:
        """Kept documents, as the source of a later phase."""
        return _Kept(self)


class _Kept(Source):
    def __init__(self, phase: FilterPhase) -> None:
        self.n_shards = phase.n_tasks
        self._phase = phase

    def read(self, shard: int) -> Iterator[Item]:
        path = self._phase.kept_path(shard)
        # The hash in the record proves that the file is the one written.
        if not path.exists() or sha256_of(path) != self._phase.record(shard)["kept_sha256"]:
            raise UserError(f"{path} is missing or damaged; remove {self._phase.record_path(shard)} and run again")
        return read_documents(path)


def _pass(item: Item, steps: Sequence[NamedStep], counts: Counts, kept: Writer, dropped: Writer) -> None:
    if isinstance(item, Broken):
        counts.enter_broken(item)
        dropped.write(Document(item.id), step=READ, reason=item.reason, detail=item.detail)
        return
    counts.enter(item)
    for named in steps:
        detail = ""
        try:
            reason = named.step(item)
        except Exception as error:
            # An error in one document of billions drops that document; it is counted and shown like any other.
            reason, detail = f"error_{type(error).__name__}", str(error)
        if reason is not None:
            counts.drop(item, named.name, reason, detail)
            dropped.write(item, step=named.name, reason=reason, detail=detail)
            return
    counts.keep(item)
    kept.write(item)
