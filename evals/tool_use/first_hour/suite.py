"""Suite "first-hour": 60 requests that a new user types into `agentkit chat`, judged by the result.

`agentkit eval first-hour --model none --option play=reference` plays the reference solutions and must score 60 of
60. The other plays (`playing.PLAYS`) must score 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from evals.case import Case
from evals.harness.suite import Suite, check_choice, check_options, choices_of
from evals.tool_use.first_hour.playing import PLAYS
from evals.tool_use.first_hour.request import Kind, case_of_request, first_hour_requests
from evals.tool_use.first_hour.running import CASE_TIMEOUT_S, solver
from evals.tool_use.first_hour.scoring import score
from evals.tool_use.first_hour.tables import tables

NAME = "first-hour"
KINDS: tuple[str, ...] = get_args(Kind)
OPTIONS = {
    "category": f"comma-separated: {', '.join(KINDS)}; default all",
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
    return [case_of_request(request, play) for request in first_hour_requests() if request.kind in kinds]


SUITE = Suite(
    name=NAME,
    version=1,
    description="60 requests of a newcomer over our filesystem, SQLite and time servers, small talk among them",
    load=load,
    solve=solver(),
    score=score,
    options=OPTIONS,
    tables=tables,
    # A script may replace the model: `--model none` is valid with `play`.
    needs_model=False,
    case_timeout_s=CASE_TIMEOUT_S,
)
