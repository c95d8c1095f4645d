"""Creates three training sets from one crawl: unfiltered, filtered by rules, and further filtered by a classifier.

All three pass the same extraction and lose documents that repeat a validation text, so they differ only in the
filters. The classifier distinguishes the running prose of a reference corpus from the unfiltered crawl, as in DCLM
(Li et al. 2024, arXiv 2406.11794, section 4.4). It keeps a given share of the documents left by the rules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelstack.files import replacing

if TYPE_CHECKING:
    from modelstack.data.pipeline.recipe import DataRecipe, StepConfig
    from modelstack.tokenizer.documents import Document

RAW, RULES, CLASSIFIER = "raw", "rules", "classifier"
SETS = (RAW, RULES, CLASSIFIER)
REFERENCE_DOMAINS = ("stories", "textbooks", "howto", "prose")
"""Domains of prose in the corpus shipped with the package. Its definitions, sums and dialogues have special forms
that distinguish them trivially from web pages."""
HELD_OUT = 0.05
"""Share of the reference corpus used as validation text, which no classifier, tokenizer or model sees."""
VALIDATION_FILE = "validation.jsonl"


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A training set made from the crawl."""

    name: str
    documents: tuple[Path, ...]
    """Files of the set."""
    n_documents: int
    n_bytes: int


def validation_documents(corpus: Path) -> list[Document]:
    """Return the validation documents, from all domains of the reference corpus."""
    from modelstack.tokenizer.documents import is_held_out

    return [document for document in _documents([corpus]) if is_held_out(document.text, HELD_OUT)]


def reference_texts(corpus: Path, domains: Sequence[str] | None = None) -> list[str]:
    """Return texts of the reference corpus that are not validation texts, from the given domains or all."""
    from modelstack.tokenizer.documents import is_held_out

    return [
        document.text
        for document in _documents([corpus])
        if (domains is None or document.domain in domains) and not is_held_out(document.text, HELD_OUT)
    ]


def make_sets(recipe: DataRecipe, corpus: Path, keep: float, out: Path, n_workers: int) -> list[TrainingSet]:
    """Run the three recipes, each in its own folder; existing results are reused.

    Args:
        recipe: Data recipe; its inputs are the crawl, its steps are the rules.
        corpus: The reference corpus.
        keep: Share of the documents left by the rules that the classifier keeps.
        out: Folder for the runs, the classifier and the validation text.
        n_workers: Number of processes.

    Raises:
        UserError: the recipe cannot be run, or leaves too few documents to fit a classifier.
    """
    from modelstack.data.contamination import Decontaminate
    from modelstack.data.quality_model.step import QualityScore

    validation = _write_validation(corpus, out / VALIDATION_FILE)
    clean = Decontaminate(evaluations=(validation,))
    extraction = [step for step in recipe.steps if step.kind in ("extract", "repair_text")]
    raw = _run(recipe, [*extraction, clean], out / RAW, n_workers)
    rules = _run(recipe, [*recipe.steps, clean], out / RULES, n_workers)
    model, threshold = _classifier(corpus, raw, rules, keep, out / "classifier-model")
    scored = QualityScore(model=model, threshold=threshold)
    return [raw, rules, _run(recipe, [*recipe.steps, clean, scored], out / CLASSIFIER, n_workers)]


def _write_validation(corpus: Path, path: Path) -> Path:
    lines = [json.dumps({"text": document.text}) for document in validation_documents(corpus)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _run(recipe: DataRecipe, steps: Sequence[StepConfig], folder: Path, n_workers: int) -> TrainingSet:
    from modelstack.data.pipeline.phases import FilterPhase
    from modelstack.data.pipeline.report import write_report
    from modelstack.data.pipeline.run import run_recipe

    changed = recipe.model_copy(update={"name": f"{recipe.name}-{folder.name}", "steps": tuple(steps)})
    phases = [
        phase for phase in run_recipe(changed, folder, n_workers=n_workers) if isinstance(phase, FilterPhase)
    ]
    write_report(changed, folder, phases)
    last = phases[-1]
    files = tuple(last.kept_path(task) for task in range(last.n_tasks))
    sizes = [len(document.text.encode()) for document in _documents(files)]
    return TrainingSet(folder.name, files, len(sizes), sum(sizes))


def _classifier(
    corpus: Path, raw: TrainingSet, rules: TrainingSet, keep: float, folder: Path
) -> tuple[Path, float]:
    """Fit the classifier; return its file and the threshold that keeps the given share."""
    import numpy as np

    from modelstack.data.quality_model.fit import MODEL_FILE, fit, write
    from modelstack.data.quality_model.model import QualityModel

    path = folder / MODEL_FILE
    if not path.exists():
        fitted = fit(
            reference_texts(corpus, REFERENCE_DOMAINS), [document.text for document in _documents(raw.documents)]
        )
        write(fitted, folder, sources={"good": list(REFERENCE_DOMAINS), "raw": [raw.name]})
    model = QualityModel.load(path)
    scores = [model.score(document.text) for document in _documents(rules.documents)]
    return path, float(np.quantile(scores, 1 - keep))


def _documents(paths: Sequence[Path]) -> list[Document]:
    from modelstack.tokenizer.documents import find_files, read_documents

    return [document for file in find_files(paths) for document in read_documents(file)]
