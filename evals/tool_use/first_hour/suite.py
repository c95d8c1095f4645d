"""The suite "first-hour": 60 requests that a newcomer types in `agentkit chat`, judged by what they get.

`agentkit eval first-hour --model none --option play=reference` plays the reference solutions: 60 of 60. The other
plays (`playing.PLAYS`) must get 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from evals.case import Case
from evals.harness.suite import Suite, check_choice, check_options
from evals.tool_use.first_hour.playing import PLAYS
from evals.tool_use.first_hour.request import Kind, case_of_request, first_hour_requests
from evals.tool_use.first_hour.running import CASE_TIMEOUT_S, solver
from evals.tool_use.first_hour.scoring import score
from evals.tool_use.first_hour.tables import tables

NAME = "first-hour"
KINDS: tuple[str, ...] = get_args(Kind)
OPTIONS = {
    "category": f"some of {', '.join(KINDS)}; separated by commas",
    "play": f"{', '.join(PLAYS)}: a script takes the model's place (only reference is right, in all)",
}


def load(options: Mapping[str, str]) -> Sequence[Case]:
    """Return the cases.

    Raises:
        UserError: an option or one of its values is not known.
    """
    check_options(NAME, options, OPTIONS)
    play = check_choice(NAME, "play", options["play"], PLAYS) if "play" in options else None
    named = options.get("category", ",".join(KINDS)).split(",")
    kinds = {check_choice(NAME, "category", kind.strip(), KINDS) for kind in named}
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
    # A model, or a script in its place: `--model none` is right with `play`.
    needs_model=False,
    case_timeout_s=CASE_TIMEOUT_S,
)
