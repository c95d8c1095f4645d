"""Runs both stages on many prompts: concurrently, with a journal, and with atomic output files.

A folder belongs to one constitution, one prompt file, one recipe and one set of models. Model answers are
written to its journal as they arrive; examples, pairs and the report are derived from it. A resumed or repeated
run therefore gives the same files and sends no request twice.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
from pydantic import BaseModel, Field

from modelstack.data.examples import write_examples
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.preferences.constitution.asking import Chooser, SampledChooser, Writer
from modelstack.preferences.constitution.critique import Revised, Reviser, RevisionSettings, revise
from modelstack.preferences.constitution.feedback import Comparison, FeedbackSettings, Judges, compare, mean_doubt
from modelstack.preferences.constitution.journal import Journal, KeptChooser, KeptWriter
from modelstack.preferences.constitution.prompts import Prompt
from modelstack.preferences.constitution.schema import Constitution
from modelstack.run_folder import RunFolder, claim

JOURNAL, REPORT = "journal.jsonl", "report.json"
REVISIONS, EXAMPLES = "revisions.jsonl", "examples.jsonl"
"""Output files of the supervised stage: complete records, and fine-tuning examples."""
COMPARISONS, PAIRS = "comparisons.jsonl", "pairs.jsonl"
"""Output files of the preference stage: complete records with soft labels, and preference pairs."""
Told = Callable[[int, int], object]
"""Callback for progress: number of finished prompts, total number."""
In = TypeVar("In")
Out = TypeVar("Out")


class ConstitutionRecipe(BaseModel, frozen=True, extra="forbid"):
    """Settings of both stages."""

    seed: int = Field(default=0, ge=0)
    """Seed for drawing principles; sent with every request to a model."""
    tags: tuple[str, ...] = ()
    """Tags of the principles to draw from; empty: all principles."""
    revision: RevisionSettings = RevisionSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    n_samples: int = Field(default=4, ge=1)
    """Answers counted per label, for a judge without probabilities."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Number of prompts processed concurrently; a model in this process still handles one at a time."""


@dataclass(frozen=True, slots=True)
class Models:
    """Models of both stages."""

    replier: Writer
    """Model to be improved."""
    critic: Writer
    """Model that criticises, revises, and reasons before a choice."""
    chooser: Chooser | None = None
    """Model that returns probabilities of a choice; None: sample the critic."""


class Settled(BaseModel, frozen=True):
    """Inputs that identify the run in a folder."""

    stage: Literal["revise", "compare"]
    recipe: ConstitutionRecipe
    constitution: str
    constitution_sha256: str
    prompts_sha256: str
    replier: str
    critic: str
    chooser: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content, except the concurrency."""
        content = self.model_dump(mode="json")
        content["recipe"].pop("concurrency")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


async def run_revisions(
    constitution: Constitution,
    prompts: Sequence[Prompt],
    recipe: ConstitutionRecipe,
    models: Models,
    path: Path,
    told: Told = lambda done, total: None,
) -> list[Revised]:
    """Run or resume the supervised stage; write its examples to a folder.

    Args:
        constitution: Principles for the critique.
        prompts: Prompts with unique ids.
        recipe: Settings of the stage.
        models: Models of the stage.
        path: Output folder.
        told: Callback for progress.

    Raises:
        UserError: The folder holds another run or is in use by another process, or the constitution has no
            principle for the stage.
    """
    constitution = constitution.of_tags(recipe.tags)
    settled = _settle("revise", constitution, prompts, recipe, models)
    with _kept(settled, models, path) as kept:
        by = Reviser(constitution, recipe.revision, recipe.seed, kept.replier, kept.critic)
        revised = await in_turns(prompts, lambda prompt: revise(prompt, by), recipe.concurrency, told)
        _write_lines(path / REVISIONS, revised)
        write_examples(path / EXAMPLES, [each.example for each in revised if each.example is not None])
        _write_report(path, settled, _revision_figures(revised))
        return revised


async def run_comparisons(
    constitution: Constitution,
    prompts: Sequence[Prompt],
    recipe: ConstitutionRecipe,
    models: Models,
    path: Path,
    told: Told = lambda done, total: None,
) -> list[Comparison]:
    """Run or resume the preference stage; write its pairs to a folder.

    Args:
        constitution: Principles for the comparison.
        prompts: Prompts with unique ids.
        recipe: Settings of the stage.
        models: Models of the stage.
        path: Output folder.
        told: Callback for progress.

    Raises:
        UserError: The folder holds another run or is in use by another process, or the constitution has no
            principle for the stage.
    """
    constitution = constitution.of_tags(recipe.tags)
    settled = _settle("compare", constitution, prompts, recipe, models)
    with _kept(settled, models, path) as kept:
        chooser = kept.chooser or SampledChooser(kept.critic, n_samples=recipe.n_samples)
        by = Judges(constitution, recipe.feedback, recipe.seed, kept.replier, chooser, kept.critic)
        compared = await in_turns(prompts, lambda prompt: compare(prompt, by), recipe.concurrency, told)
        _write_lines(path / COMPARISONS, compared)
        pairs = [each.preference for each in compared if each.preference is not None]
        with replacing(path / PAIRS) as temporary:
            lines = [pair.model_dump_json(exclude_defaults=True) + "\n" for pair in pairs]
            temporary.write_text("".join(lines), encoding="utf-8")
        _write_report(path, settled, _comparison_figures(compared))
        return compared


async def in_turns(
    items: Sequence[In],
    work: Callable[[In], Awaitable[Out]],
    concurrency: int,
    told: Told = lambda done, total: None,
) -> list[Out]:
    """Return the results of `work` in the order of the items, with at most `concurrency` calls at a time.

    The first exception cancels the other calls and is raised directly, not in an exception group.
    """
    found: dict[int, Out] = {}
    failed: list[Exception] = []
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for number, item in waiting:
            try:
                found[number] = await work(item)
            except Exception as error:
                failed.append(error)
                group.cancel_scope.cancel()
                return
            told(len(found), len(items))

    async with anyio.create_task_group() as group:
        for _ in range(min(concurrency, len(items))):
            group.start_soon(worker)
    if failed:
        raise failed[0]
    return [found[number] for number in range(len(items))]


def _settle(
    stage: Literal["revise", "compare"],
    constitution: Constitution,
    prompts: Sequence[Prompt],
    recipe: ConstitutionRecipe,
    models: Models,
) -> Settled:
    if not prompts:
        raise UserError("there are no prompts: give at least one")
    of_stage = constitution.revising if stage == "revise" else constitution.choosing
    if not of_stage:
        needed = "critique and revision" if stage == "revise" else "choice"
        raise UserError(
            f"constitution {constitution.name!r} has no principle with {needed}, but stage {stage} needs one"
        )
    content = "\n".join(prompt.model_dump_json() for prompt in prompts)
    return Settled(
        stage=stage,
        recipe=recipe,
        constitution=constitution.name,
        constitution_sha256=constitution.fingerprint,
        prompts_sha256=hashlib.sha256(content.encode()).hexdigest(),
        replier=models.replier.name,
        critic=models.critic.name,
        chooser=models.critic.name if models.chooser is None else models.chooser.name,
    )


@contextmanager
def _kept(settled: Settled, models: Models, path: Path) -> Iterator[Models]:
    """Lock a folder for a run, and yield its models, wrapped by the journal in the folder."""
    folder = RunFolder(path)
    with folder.held():
        claim(folder.recipe, settled, settled.fingerprint, free={("recipe", "concurrency")}, layout=set())
        journal = Journal(path / JOURNAL)
        yield Models(
            replier=KeptWriter(models.replier, journal),
            critic=KeptWriter(models.critic, journal),
            chooser=None if models.chooser is None else KeptChooser(models.chooser, journal),
        )


def _write_lines(path: Path, records: Iterable[BaseModel]) -> None:
    with replacing(path) as temporary:
        text = "".join(record.model_dump_json(exclude_none=True) + "\n" for record in records)
        temporary.write_text(text, encoding="utf-8")


def _write_report(path: Path, settled: Settled, figures: dict[str, Any]) -> None:
    content = {"fingerprint": settled.fingerprint, "made_of": settled.model_dump(mode="json")} | figures
    with replacing(path / REPORT) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _revision_figures(revised: Sequence[Revised]) -> dict[str, Any]:
    return {
        "prompts": len(revised),
        "examples": sum(each.target is not None for each in revised),
        "kept_as_they_were": sum(each.prompt.keep and each.target is not None for each in revised),
        "left_out": _reasons(each.left_out for each in revised),
        "principles": dict(Counter(round.principle for each in revised for round in each.rounds).most_common()),
    }


def _comparison_figures(compared: Sequence[Comparison]) -> dict[str, Any]:
    biases = [each.position_bias for each in compared if each.position_bias is not None]
    pairs = [each for each in compared if each.preference is not None]
    labels = [each.label for each in pairs if each.label is not None]
    return {
        "prompts": len(compared),
        "pairs": len(pairs),
        "left_out": _reasons(each.left_out for each in compared),
        "position_bias": sum(biases) / len(biases) if biases else None,
        "label_smoothing_for_cdpo": mean_doubt(labels),
        "principles": dict(Counter(each.principle for each in compared).most_common()),
    }


def _reasons(reasons: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(reason.partition(":")[0] for reason in reasons if reason is not None).most_common())
