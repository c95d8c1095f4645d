"""Known items: questions in other words than those of the page that answers them, searched in three ways.

`questions.jsonl` has a question and its page for each guide and server of this documentation. They were written
before the first measurement and name no heading. A search is right if a passage of the page is among the first k;
passages are counted by pages, so k pages are looked at. Intervals are Wilson's.

    python -m evals.retrieval.known_items [--docs docs] [--result FILE]

The index with its vectors is kept in the cache; to embed this documentation takes two minutes on an idle core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from agentkit.retrieval import Retrieval, minilm
from evals.speed.results import BenchmarkResult, Figure, add_result_option, finish
from evals.statistics import wilson
from modelstack.cache_folder import cache_dir

QUESTIONS = Path(__file__).with_name("questions.jsonl")
TOP = 60
CUTS = (1, 5)
Mode = Literal["lexical", "vector", "hybrid"]


def questions() -> list[tuple[str, str]]:
    """Return the questions and the page of each, relative to the folder of the documentation."""
    rows = map(json.loads, QUESTIONS.read_text(encoding="utf-8").splitlines())
    return [(row["question"], row["page"]) for row in rows]


def rank_of(page: str, paths: Sequence[str]) -> int | None:
    """Return the rank of a page, from 1, among the pages of some hits; None if it is not there."""
    pages = list(dict.fromkeys(paths))
    return pages.index(page) + 1 if page in pages else None


async def ranks(docs: Retrieval, mode: Mode) -> list[int | None]:
    """Return the rank of the right page for each question."""
    found = list[int | None]()
    for question, page in questions():
        hits = await docs.search(question, mode=mode, top=TOP)
        found.append(rank_of(page, [hit.path for hit in hits]))
    return found


async def measured(folder: Path) -> list[Figure]:
    """Index the folder and return the figures of each kind of search."""
    index = cache_dir() / "evals" / "retrieval"
    index.mkdir(parents=True, exist_ok=True)
    figures = list[Figure]()
    options = {"embedder": minilm(), "include": ["guides", "servers"], "other_embedder": "rebuild"}
    async with Retrieval(folder, index=index / "documentation.db", **options) as docs:
        report = await docs.refresh()
        print(f"{report.n_files} files, {report.n_passages} passages, {report.n_embedded} embedded now")
        for mode in get_args(Mode):
            found = await ranks(docs, mode)
            for cut in CUTS:
                share = wilson(sum(rank is not None and rank <= cut for rank in found), len(found))
                figures.append(
                    Figure(f"{mode}, right page in the first {cut}", share.value, "", share.low, share.high)
                )
                print(f"{mode}: page in the first {cut}: {share}, n = {share.n}")
            reciprocal = fmean(0 if rank is None else 1 / rank for rank in found)
            figures.append(Figure(f"{mode}, mean reciprocal rank", reciprocal, ""))
            print(f"{mode}: mean reciprocal rank {reciprocal:.3f}")
    return figures


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[2] / "docs")
    add_result_option(parser)
    options = parser.parse_args()
    figures = asyncio.run(measured(options.docs))
    parameters = {"questions": str(len(questions())), "model": minilm().name}
    return finish(options.result, BenchmarkResult(tuple(figures), parameters=parameters))


if __name__ == "__main__":
    sys.exit(main())
