"""`python -m evals.post_training.merging --out DIR`: train two adapters, merge them, measure all."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from agentkit.models.catalog.entries import local_path
from evals.post_training.merging.experiment import STAGES, Sizes, run
from evals.post_training.merging.report import write_report
from modelstack.errors import UserError


def main() -> int:
    """Run or resume the experiment."""
    parser = argparse.ArgumentParser(prog="python -m evals.post_training.merging", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m", help="catalog id or GGUF file of the base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    console = Console()
    try:
        measured = run(
            local_path(options.model), options.out, Sizes(threads=options.threads), options.seed, console
        )
    except UserError as error:
        console.print(str(error), style="red")
        return 1
    command = f"python -m evals.post_training.merging --out DIR --seed {options.seed}"
    console.print(write_report(measured, options.out / STAGES, options.out, command, options.seed), markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
