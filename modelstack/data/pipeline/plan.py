"""Phases of a recipe: consecutive document steps share one pass; a step over all documents has its own phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from modelstack.data.pipeline.dedup_phases import dedup_phases
from modelstack.data.pipeline.phases import FilterPhase, Item, NamedStep, Phase, Source
from modelstack.data.pipeline.quota_phases import quota_phases
from modelstack.data.pipeline.recipe import DataRecipe, DocumentStepConfig, is_document_step
from modelstack.data.quota import Quota
from modelstack.data.reading import InputConfig, Shard, read_shard, shards_of


def phases_of(recipe: DataRecipe, folder: Path) -> list[Phase]:
    """Return the phases of a recipe in order; the last phase holds the kept documents.

    Raises:
        UserError: An input does not exist.
    """
    source: Source = _Inputs(recipe.inputs)
    phases: list[Phase] = []
    for number, group in enumerate(_groups(recipe), 1):
        first = group[0] if group else None
        if first is None or is_document_step(first):
            phase = _document_phase(number, group, source, folder)
            phases.append(phase)
        else:
            place = folder / f"{number:02d}-{first.kind}"
            is_quota = isinstance(first, Quota)
            before, phase = quota_phases(first, source, place) if is_quota else dedup_phases(first, source, place)
            phases += [*before, phase]
        source = phase.kept
    return phases


def inputs_of(recipe: DataRecipe) -> list[list[str | int]]:
    """Return name and bytes of each shard of raw files, in the order of task numbers.

    Raises:
        UserError: An input does not exist.
    """
    return [[shard.name, sum(file.stat().st_size for file in shard.files)] for _, shard in _shards(recipe.inputs)]


def _shards(inputs: Sequence[InputConfig]) -> list[tuple[InputConfig, Shard]]:
    return [(config, shard) for config in inputs for shard in shards_of(config)]


class _Inputs(Source):
    """Raw files of the recipe."""

    def __init__(self, inputs: Sequence[InputConfig]) -> None:
        self._shards = _shards(inputs)
        self.n_shards = len(self._shards)

    def read(self, shard: int) -> Iterator[Item]:
        return read_shard(*self._shards[shard])


def _groups(recipe: DataRecipe) -> list[list]:
    """Group the steps into as few passes over the documents as possible; the first pass also reads the inputs."""
    groups: list[list] = [[]]
    for config in recipe.steps:
        if not is_document_step(config):
            groups += [[config], []]
        else:
            groups[-1].append(config)
    return [group for i, group in enumerate(groups) if group or i == 0]


def _document_phase(
    number: int, configs: Sequence[DocumentStepConfig], source: Source, folder: Path
) -> FilterPhase:
    names = _names(configs)

    @cache
    def built() -> Sequence[NamedStep]:  # built lazily, once in each worker process
        return [NamedStep(name, config.build()) for name, config in zip(names, configs, strict=True)]

    name = f"{number:02d}-documents"
    return FilterPhase(name, folder / name, source, names, lambda task: built())


def _names(configs: Sequence[DocumentStepConfig]) -> list[str]:
    """Name steps by their kind, with a number for repeated kinds."""
    seen: dict[str, int] = {}
    names: list[str] = []
    for config in configs:
        seen[config.kind] = seen.get(config.kind, 0) + 1
        names.append(config.kind if seen[config.kind] == 1 else f"{config.kind} {seen[config.kind]}")
    return names
