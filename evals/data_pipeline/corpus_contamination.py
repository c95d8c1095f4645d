"""Finds evaluation texts in a corpus: for each evaluation file, the number of documents that repeat it, by rule.

    python -m evals.data_pipeline.corpus_contamination EVALUATION ... [--corpus FOLDER] [--recipe FILE.toml]

EVALUATIONs are files and folders of JSON; what of them may be trained on, and how much of a text counts as most of
it, is as the step `decontaminate` of the recipe has it (`data/run/corpus` unless given). Unlike it, which stops at
the first hit, each document is held against all texts by all rules (`modelstack.data.contamination`). The corpus
is the one that ships, unless said; the command fails where a document is found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from modelstack.data.contamination import N_WORDS, SHORT_WORDS, ContaminationIndex, Decontaminate, Rule
from modelstack.data.documents import Broken
from modelstack.data.evaluation_texts import texts_of_evaluation
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.reading import JsonlInput, open_input
from modelstack.data.shipped_corpus import SHIPPED_CORPUS
from modelstack.errors import UserError
from modelstack.recipe_file import read_recipe
from modelstack.shipped_recipes import shipped_recipe

RECIPE = shipped_recipe("data/run/corpus").path
RULES: Mapping[Rule, str] = {
    "run": f"{N_WORDS} words in a row",
    "short_text": f"all of a text of {SHORT_WORDS} to {N_WORDS - 1} words",
    "fuzzy": f"most of a text's runs of {SHORT_WORDS} words",
}


@dataclass(frozen=True, slots=True)
class Row:
    """Results for one file of an evaluation."""

    name: str
    n_texts: int
    n_compared: int
    """Number of distinct texts that are long enough to differ from everyday phrases."""
    hits: Mapping[Rule, int]
    """Number of documents by rule; several rules may find the same document."""


@dataclass(frozen=True, slots=True)
class Contamination:
    """Contamination found in a corpus."""

    rows: Sequence[Row]
    n_documents: int
    n_found: int
    """Number of documents that repeat an evaluation text."""
    found: Mapping[str, Sequence[str]]
    """Lists of `evaluation: rule` by URL, or by id for a document without a URL."""


def contamination_of(texts: Iterable[tuple[str, str]], step: Decontaminate) -> Contamination:
    """Compare documents (name, text) with the evaluations of a step.

    Raises:
        UserError: an evaluation is missing or not JSON.
    """
    of_file = {name: list(texts_of_evaluation(path)) for name, path in step.files()}
    index = ContaminationIndex.of((name, text) for name, of_name in of_file.items() for text in of_name)
    hits: Counter[tuple[str, Rule]] = Counter()
    found: dict[str, list[str]] = {}
    n_documents = 0
    for name, text in texts:
        n_documents += 1
        repeated = index.find_all(text, step.fuzzy_share)
        hits.update((one.evaluation, one.rule) for one in repeated)
        if repeated:
            found[name] = sorted(f"{one.evaluation}: {one.rule}" for one in repeated)
    rows = [
        Row(name, len(of_name), index.n_texts(name), {rule: hits[name, rule] for rule in RULES})
        for name, of_name in of_file.items()
    ]
    return Contamination(rows, n_documents, len(found), found)


def table(contamination: Contamination) -> str:
    """Return the table with a row per evaluation and a column per rule."""
    width = max(len(row.name) for row in contamination.rows)
    lines = [
        f"{contamination.n_documents:,} documents, {contamination.n_found:,} repeat an evaluation",
        *(f"{rule}: {meaning}" for rule, meaning in RULES.items()),
        "",
        _line("evaluation", "texts", "compared", list(RULES), width),
    ]
    for row in contamination.rows:
        cells = [f"{row.hits[rule]:,}" for rule in RULES]
        lines.append(_line(row.name, f"{row.n_texts:,}", f"{row.n_compared:,}", cells, width))
    return "\n".join(lines)


def _line(name: str, n_texts: str, n_compared: str, cells: Sequence[str], width: int) -> str:
    return f"{name:<{width}} {n_texts:>8} {n_compared:>9} " + " ".join(f"{cell:>11}" for cell in cells)


def _documents(corpus: Path) -> Iterable[tuple[str, str]]:
    for item in open_input(JsonlInput(path=corpus)):
        if isinstance(item, Broken):
            raise UserError(f"{corpus}: {item.id} cannot be read: {item.reason}")
        yield item.url or item.id, item.text


def _step(recipe: Path, evaluations: Sequence[Path]) -> Decontaminate:
    given = f"evaluations={json.dumps([str(path) for path in evaluations])}"
    steps = [step for step in read_recipe(DataRecipe, recipe, [given]).steps if isinstance(step, Decontaminate)]
    if not steps:
        raise UserError(f"{recipe} has no step `decontaminate`; name a recipe that has")
    return steps[0]


def main(
    evaluation: Annotated[list[Path], typer.Argument(help="Files and folders of evaluations.")],
    corpus: Annotated[Path, typer.Option(help="Folder of JSONL files, or one file.")] = SHIPPED_CORPUS,
    recipe: Annotated[Path, typer.Option(help="Data recipe whose step `decontaminate` is used.")] = RECIPE,
) -> None:
    """Print how many documents of a corpus repeat an evaluation."""
    found = contamination_of(_documents(corpus), _step(recipe, evaluation))
    typer.echo(table(found))
    for name, repeated in found.found.items():
        typer.echo(f"{name}: {', '.join(repeated)}")
    if found.n_found:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
