"""The suite "long-results": 50 questions on ten documents of 70 to 160 lines, judged by the facts of the answer.

`agentkit eval long-results --model none --option play=reference` plays the reference answers: 50 of 50. The other
plays (`playing.PLAYS`) must get 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from evals.case import Case
from evals.harness.suite import Suite, check_choice, check_options
from evals.tool_use.long_results.playing import PLAYS
from evals.tool_use.long_results.question import DocumentKind, Kind, case_of_question, questions
from evals.tool_use.long_results.running import solver
from evals.tool_use.long_results.scoring import score
from evals.tool_use.long_results.tables import tables

NAME = "long-results"
KINDS: tuple[str, ...] = get_args(Kind)
DOCUMENT_KINDS: tuple[str, ...] = get_args(DocumentKind)
OPTIONS = {
    "category": f"some of {', '.join(KINDS)}; separated by commas",
    "document": f"some of {', '.join(DOCUMENT_KINDS)}; separated by commas",
    "play": f"{', '.join(PLAYS)}: a script takes the model's place (only reference is right, in all)",
}


def load(options: Mapping[str, str]) -> Sequence[Case]:
    """Return the cases.

    Raises:
        UserError: an option or one of its values is not known.
    """
    check_options(NAME, options, OPTIONS)
    play = check_choice(NAME, "play", options["play"], PLAYS) if "play" in options else None
    kinds, documents = _chosen(options, "category", KINDS), _chosen(options, "document", DOCUMENT_KINDS)
    return [
        case_of_question(question, play)
        for question in questions()
        if question.kind in kinds and question.document in documents
    ]


def _chosen(options: Mapping[str, str], option: str, known: Sequence[str]) -> set[str]:
    named = options.get(option, ",".join(known)).split(",")
    return {check_choice(NAME, option, name.strip(), known) for name in named}


SUITE = Suite(
    name=NAME,
    version=1,
    description="50 questions on ten long documents, read through our filesystem server",
    load=load,
    solve=solver(),
    score=score,
    options=OPTIONS,
    tables=tables,
    # A model, or a script in its place: `--model none` is right with `play`.
    needs_model=False,
)
