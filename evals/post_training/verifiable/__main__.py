"""`python -m evals.post_training.verifiable --task arithmetic --out DIR --seeds 0 1 2`.

Writes the tasks, trains the embedded model by reinforcement with every seed, and measures before and after. The
same command resumes after an interruption, and seeds can be added.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from agentkit.models.catalog.entries import local_path
from evals.post_training.verifiable.experiment import Wanted, run
from evals.post_training.verifiable.kinds import KINDS, N_HELD_BACK
from evals.post_training.verifiable.report import write_report
from modelstack.errors import UserError


def main() -> int:
    """Run or resume an experiment."""
    parser = argparse.ArgumentParser(prog="python -m evals.post_training.verifiable", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys that override the recipe")
    parser.add_argument("--task", choices=sorted(KINDS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--on", choices=("local", "ray"), default="local", help="where seeds run")
    parser.add_argument("--model", default="smollm2-135m", help="catalog id of the base")
    parser.add_argument("--held-back", type=int, default=N_HELD_BACK, help="number of held-back tasks")
    parser.add_argument("--samples", type=int, default=4, help="sampled replies per held-back task")
    options = parser.parse_args()
    console = Console()
    try:
        wanted = Wanted(
            KINDS[options.task],
            local_path(options.model),
            options.model,
            options.seeds,
            options.overrides,
            options.held_back,
            options.samples,
        )
        outcome = run(wanted, options.out, console, options.on)
    except UserError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    seeds = " ".join(map(str, options.seeds))
    more = "".join(f" {override}" for override in options.overrides)
    command = f"python -m evals.post_training.verifiable --task {options.task} --out DIR --seeds {seeds}{more}"
    console.print(write_report(outcome, options.out, command), markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
