"""R1's recipe on a model of less than a million weights: cold start, rewards, rejection sampling, distillation.

    python -m evals.post_training.r1 --out FOLDER [--seed N]

Can be interrupted and resumed at any time, also within a stage. Writes the stages (`modelstack stage lineage
FOLDER` draws them), `report.md`, `results.json` and two plots. Needs the extras `train`, `local` and `evals`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evals.cli import print_tables
from evals.post_training.r1 import stages
from evals.post_training.r1.measuring import measure
from evals.post_training.r1.plan import R1Plan
from evals.post_training.r1.report import REPORT_FILE, WHAT, write_report
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.run_folder import claim

STOPPED = 130
THINKING = (
    stages.COLD,
    stages.RL,
    stages.FRESH,
    stages.STUDENT_SFT,
    stages.STUDENT_LONGER,
    stages.STUDENT_LOGITS,
    stages.STUDENT_ON_POLICY,
)


def main(argv: Sequence[str] | None = None, plan: R1Plan | None = None) -> int:
    """Create the stages, measure them, and write the report.

    Args:
        argv: Command-line arguments.
        plan: Plan to use; None makes one from the command line's seed.

    Returns:
        Exit status: 0; 1 after an error; 130 if it was asked to stop.
    """
    parser = argparse.ArgumentParser(prog="python -m evals.post_training.r1", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    console = Console()
    try:
        work = stages.Work(plan or R1Plan(seed=options.seed), options.out, console)
        work.folder.mkdir(parents=True, exist_ok=True)
        claim(work.folder / "plan.json", work.plan, work.fingerprint, free=set(), layout=set())
        seconds = _Seconds(work.folder / "seconds.json")
        with seconds:
            stages.make_all(work)
        with seconds:
            found = [measure(work, stages.BASE, thinks=False), measure(work, stages.STUDENT, thinks=False)]
            found += [measure(work, name, thinks=True) for name in THINKING]
    except stages.Stopped as stopped:
        console.print(f"stopped in {stopped}; the same command resumes")
        return STOPPED
    except UserError as error:
        console.print(f"[red]{error}")
        return 1
    order = list(WHAT)
    found.sort(key=lambda each: order.index(each.name))
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    facts = {
        "seconds of all processes, training and measuring": round(seconds.total),
        "load of the machine at the end (1, 5, 15 minutes)": loads,
    }
    for table in write_report(work.folder, work.plan, found, facts):
        print_tables(table)
    console.print(f"{work.folder / REPORT_FILE} holds all of it")
    return 0


class _Seconds:
    """Accumulates the seconds of all processes that worked on a run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.total = json.loads(file.read_text(encoding="utf-8")) if file.exists() else 0.0

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.total += time.monotonic() - self._start
        with replacing(self._file) as temporary:
            temporary.write_text(json.dumps(round(self.total, 1)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
