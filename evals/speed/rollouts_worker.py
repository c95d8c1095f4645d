"""Runs a program of `rollouts_programs` in its own process, with the protocol of `train_worker`.

Numbers of tokens take the place of losses.
`python -m evals.speed.rollouts_worker '{"program": "TRL", ...}' --threads 2`
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evals.speed.rollouts_programs import Task


def task_to_json(task: Task) -> str:
    """Return a task as one line of JSON."""
    return json.dumps(asdict(task) | {"gguf": str(task.gguf)})


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=json.loads)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    # Each program keeps its default wait policy, which is read when OpenMP is loaded: only one program runs at a
    # time.
    os.environ.pop("OMP_WAIT_POLICY", None)
    os.environ["HF_HUB_OFFLINE"] = "1"

    from evals.speed.rollouts_programs import Task, ready
    from evals.speed.train_worker import serve

    task = Task(**options.task | {"gguf": Path(options.task["gguf"])})
    return serve(lambda: ready(task), options.threads)


if __name__ == "__main__":
    sys.exit(main())
