"""Three training sets of one crawl: as it comes, what rules keep, and of that what a classifier keeps.

All three have gone through the same extraction, and lost what repeats a validation text, so they differ in the
filters alone. The classifier tells the running prose of a reference corpus from the crawl as it comes, as DCLM's
does (Li et al. 2024, arXiv 2406.11794, section 4.4), and keeps so large a share of what the rules left.
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
"""Of the corpus that ships with the package: what is prose; its definitions, sums and dialogues have forms of
their own, by which anything could be told from a web page."""
HELD_OUT = 0.05
"""Share of the reference corpus that is validation text: no classifier, tokenizer or model sees it."""
VALIDATION_FILE = "validation.jsonl"


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What a crawl became."""

    name: str
    documents: tuple[Path, ...]
    """Files."""
    n_documents: int
    n_bytes: int


def validation_documents(corpus: Path) -> list[Document]:
    """Return the documents that models are measured on, of all domains of the reference corpus."""
    from modelstack.tokenizer.documents import is_held_out

    return [document for document in _documents([corpus]) if is_held_out(document.text, HELD_OUT)]


def reference_texts(corpus: Path, domains: Sequence[str] | None = None) -> list[str]:
    """Return texts of the reference corpus that are no validation text, of some domains or all."""
    from modelstack.tokenizer.documents import is_held_out

    return [
        document.text
        for document in _documents([corpus])
        if (domains is None or document.domain in domains) and not is_held_out(document.text, HELD_OUT)
    ]


def make_sets(recipe: DataRecipe, corpus: Path, keep: float, out: Path, n_workers: int) -> list[TrainingSet]:
    """Run the three recipes, each in a folder of its own; what is done already is not done again.

    Args:
        recipe: Its inputs are the crawl, its steps are the rules.
        corpus: The reference.
        keep: Share of the documents that the rules left, which the classifier keeps.
        out: Folder for the runs, the classifier and the validation text.
        n_workers: Processes.

    Raises:
        UserError: The recipe cannot be run, or leaves too little to fit a classifier on.
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
    """Fit the classifier; return its file and the threshold that keeps the share."""
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
