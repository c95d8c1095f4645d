"""Suite "mcp-tasks": 60 tasks on this project's filesystem and SQLite servers; final state and answer are checked.

`agentkit eval mcp-tasks --model none --option play=reference` plays the reference solutions and must score 60 of
60. `play=nothing`, `play=echo` (makes one call, then repeats the prompt) and `play=wrong` (a near miss for each
task) must score 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.case import Case
from evals.harness.suite import Suite, check_choice, check_options
from evals.tool_use.executed.catalog import TASKS
from evals.tool_use.executed.playing import PLAYS
from evals.tool_use.executed.running import solver
from evals.tool_use.executed.scoring import score
from evals.tool_use.executed.tables import tables
from evals.tool_use.executed.task import case_of

NAME = "mcp-tasks"
OPTIONS = {
    "play": "reference, nothing, echo or wrong: a script replaces the model; reference passes all, the others none"
}


def load(options: Mapping[str, str]) -> Sequence[Case]:
    """Return the cases.

    Raises:
        UserError: an option is not known, or `play` is not the name of a script.
    """
    check_options(NAME, options, OPTIONS)
    play = check_choice(NAME, "play", options["play"], PLAYS) if "play" in options else None
    return [case_of(task, play) for task in TASKS]


SUITE = Suite(
    name=NAME,
    version=1,
    description="60 tasks of one to four calls on our filesystem and SQLite servers, checked on the final state",
    load=load,
    solve=solver(),
    score=score,
    options=OPTIONS,
    tables=tables,
    # A script may replace the model: `--model none` is valid with `play`.
    needs_model=False,
)
