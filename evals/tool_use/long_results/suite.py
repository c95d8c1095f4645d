"""Suite "long-results": 50 questions on ten documents of 70 to 160 lines, judged by the facts in the answer.

`agentkit eval long-results --model none --option play=reference` plays the reference answers and must score 50 of
50. The other plays (`playing.PLAYS`) must score 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from evals.case import Case
from evals.harness.suite import Suite, check_choice, check_options, choices_of
from evals.tool_use.long_results.playing import PLAYS
from evals.tool_use.long_results.question import DocumentKind, Kind, case_of_question, questions
from evals.tool_use.long_results.running import solver
from evals.tool_use.long_results.scoring import score
from evals.tool_use.long_results.tables import tables

NAME = "long-results"
KINDS: tuple[str, ...] = get_args(Kind)
DOCUMENT_KINDS: tuple[str, ...] = get_args(DocumentKind)
OPTIONS = {
    "category": f"comma-separated: {', '.join(KINDS)}; default all",
    "document": f"comma-separated: {', '.join(DOCUMENT_KINDS)}; default all",
    "play": f"{', '.join(PLAYS)}: a script replaces the model; reference passes all, the others none",
}


def load(options: Mapping[str, str]) -> Sequence[Case]:
    """Return the cases.

    Raises:
        UserError: an option or an option's value is not known.
    """
    check_options(NAME, options, OPTIONS)
    play = check_choice(NAME, "play", options["play"], PLAYS) if "play" in options else None
    kinds = choices_of(NAME, options, "category", KINDS)
    documents = choices_of(NAME, options, "document", DOCUMENT_KINDS)
    return [
        case_of_question(question, play)
        for question in questions()
        if question.kind in kinds and question.document in documents
    ]


SUITE = Suite(
    name=NAME,
    version=1,
    description="50 questions on ten long documents, read through our filesystem server",
    load=load,
    solve=solver(),
    score=score,
    options=OPTIONS,
    tables=tables,
    # A script may replace the model: `--model none` is valid with `play`.
    needs_model=False,
)
