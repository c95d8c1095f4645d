"""Trains a nano model by rewards with rollouts from three samplers, three seeds each, and compares the results.

    python -m evals.post_training.sampler_gap --out DIR
    python -m evals.post_training.sampler_gap --out DIR steps=80 type_name=q4_1

Resumes after an interruption. Prints tables; writes `report.md`, `results.json` and `rewards.png`. Needs the
extras `local` and `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evals.cli import print_tables
from evals.post_training.sampler_gap.arms import Experiment, GapPlan, run
from evals.post_training.sampler_gap.report import write_report
from modelstack.errors import UserError
from modelstack.recipe_file import read_recipe

PROGRAM = "python -m evals.post_training.sampler_gap"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the experiment; an unfinished one is resumed"
    )
    parser.add_argument("--on", choices=("local", "ray"), default="local", help="where trainings run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of GapPlan")
    given = parser.parse_args(arguments)
    console = Console()
    try:
        plan = read_recipe(GapPlan, None, given.overrides)
        experiment = Experiment(plan, given.out, console)
        tables = write_report(experiment, run(experiment, given.on), " ".join([PROGRAM, *given.overrides]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for table in tables:
        print_tables(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
