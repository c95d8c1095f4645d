"""Evaluates a data recipe on a labelled sample of raw web pages: drops, detected languages, and copies.

    python -m evals.data_pipeline.web_sample FOLDER [--recipe FILE.toml] [--out DIR]

FOLDER holds `raw-sample.warc.gz` and `labels.jsonl`. The labels give category, language and expected result
of each URL: `drop:...`, `keep...`, or another value, which is not judged. Precision and recall are computed for
drops (a page to drop is a positive), for pages dropped because of their language (positives: pages labelled other
than English), and for copies: a page and its copy count as found if exactly one of them is dropped as a duplicate.
A page dropped by an earlier step says nothing about a later step and is excluded there.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from evals.statistics import wilson
from modelstack.files import json_lines
from modelstack.shipped_recipes import shipped_recipe

SAMPLE, LABELS = "raw-sample.warc.gz", "labels.jsonl"
RECIPE = shipped_recipe("data/run/fineweb").path
_MIRROR = re.compile(r"^https?://(?:copy|mirror)\.")
DUPLICATE_STEPS = ("exact", "minhash")

Labels = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a page."""

    step: str | None
    """Step that dropped the page; None if it was kept."""
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """Counts for one question."""

    name: str
    true_positives: int
    false_positives: int
    false_negatives: int
    n: int

    def line(self) -> str:
        """Return precision and recall with their intervals."""
        precision = wilson(self.true_positives, self.true_positives + self.false_positives)
        recall = wilson(self.true_positives, self.true_positives + self.false_negatives)
        return f"{self.name:<34} n {self.n:>4}  precision {_formatted(precision)}  recall {_formatted(recall)}"


def outcomes(sample: Path, recipe_file: Path, out: Path) -> dict[str, Outcome]:
    """Run a recipe with the sample as its input; return the outcome of each URL."""
    from modelstack.data.pipeline.phases import FilterPhase
    from modelstack.data.pipeline.recipe import DataRecipe
    from modelstack.data.pipeline.records import read_records
    from modelstack.data.pipeline.report import write_report
    from modelstack.data.pipeline.run import run_recipe
    from modelstack.data.reading import WarcInput
    from modelstack.recipe_file import read_recipe

    recipe = read_recipe(DataRecipe, recipe_file).model_copy(
        update={"inputs": (WarcInput(path=sample, source="sample"),)}
    )
    phases = [phase for phase in run_recipe(recipe, out) if isinstance(phase, FilterPhase)]
    write_report(recipe, out, phases)
    found: dict[str, Outcome] = {}
    for phase in phases:
        is_last = phase is phases[-1]
        for task in range(phase.n_tasks):
            for path in (phase.dropped_path(task), *([phase.kept_path(task)] if is_last else [])):
                for document, record in read_records(path):
                    found[document.url] = Outcome(record.get("step"), record.get("reason", ""), document.text)
    return found


def scores(labels: Labels, found: Mapping[str, Outcome]) -> list[Score]:
    """Return the scores of the three questions, with exact and near copies separately."""
    judged = [row for row in labels if row["expected"].startswith(("drop", "keep", "repair"))]
    dropping = _score(
        "dropped",
        ((not row["expected"].startswith("keep"), _dropped(row["url"], found)) for row in judged),
    )
    language = _score(
        "dropped for its language",
        (
            (row["lang"] not in ("en", "und", "unknown", ""), found[row["url"]].step == "language")
            for row in labels
            if row["url"] in found and found[row["url"]].step not in ("url", "extract", "read")
        ),
    )
    copies = [_copies(labels, found, kind) for kind in ("exact-duplicate", "near-duplicate")]
    return [dropping, language, *copies]


def disagreements(labels: Labels, found: Mapping[str, Outcome]) -> list[str]:
    """Return lines with the expected and the actual result, by category, where they differ."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for row in labels:
        outcome = found.get(row["url"])
        if outcome is None:
            became = "lost"
        else:
            became = "kept" if outcome.step is None else f"{outcome.step}: {outcome.reason}"
        if row["expected"].startswith("keep") == (became == "kept"):
            continue
        if not row["expected"].startswith(("drop", "keep", "repair")):
            continue
        counted[row["category"], row["expected"], became] += 1
    return [
        f"{n:>4}  {category}: expected {expected}, became {became}"
        for (category, expected, became), n in counted.most_common()
    ]


def _dropped(url: str, found: Mapping[str, Outcome]) -> bool:
    return url not in found or found[url].step is not None


def _score(name: str, pairs: Iterable[tuple[bool, bool]]) -> Score:
    counts = Counter(pairs)
    return Score(name, counts[True, True], counts[False, True], counts[True, False], sum(counts.values()))


def _copies(labels: Labels, found: Mapping[str, Outcome], category: str) -> Score:
    """Count pairs of page and copy that reached the search for copies, and dropped pages that are not copies."""
    known = {row["url"] for row in labels}
    pairs = [(row["url"], _original(row["url"])) for row in labels if row["category"] == category]
    pairs = [pair for pair in pairs if pair[1] in known]
    in_pairs = {
        url for row in labels if "duplicate" in row["category"] for url in (row["url"], _original(row["url"]))
    }
    reached = [pair for pair in pairs if all(_reached(url, found) for url in pair)]
    hits = sum(sum(_is_duplicate(url, found) for url in pair) == 1 for pair in reached)
    step = "exact" if category == "exact-duplicate" else "minhash"
    false = sum(found[url].step == step for url in known - in_pairs if url in found)
    return Score(f"{category}s that reached it", hits, false, len(reached) - hits, len(reached))


def _original(url: str) -> str:
    return _MIRROR.sub("https://", url).split("?")[0]


def _reached(url: str, found: Mapping[str, Outcome]) -> bool:
    return url in found and (found[url].step in (None, *DUPLICATE_STEPS))


def _is_duplicate(url: str, found: Mapping[str, Outcome]) -> bool:
    return found[url].step in DUPLICATE_STEPS


def _formatted(interval: Any) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the sample and its labels.")],
    recipe: Annotated[Path, typer.Option(help="Data recipe; its inputs are replaced.")] = RECIPE,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run with its report; default: temporary.")
    ] = None,
) -> None:
    """Run a recipe on the sample and print its scores."""
    labels = [json.loads(line) for line in json_lines(folder / LABELS)]
    with tempfile.TemporaryDirectory() as temporary:
        found = outcomes(folder / SAMPLE, recipe, out or Path(temporary) / "run")
    typer.echo(f"{recipe}, {len(labels)} labelled pages, {len(found)} seen")
    for score in scores(labels, found):
        typer.echo(score.line())
    typer.echo("differences from the labels:")
    for line in disagreements(labels, found):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
