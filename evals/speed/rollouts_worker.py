"""A program of `rollouts_programs` in a process of its own; speaks as `train_worker` does, tokens as losses.

python -m evals.speed.rollouts_worker '{"program": "TRL", ...}' --threads 2
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
    """Return a task as a line."""
    return json.dumps(asdict(task) | {"gguf": str(task.gguf)})


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=json.loads)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    # Each program's own way to wait for its threads, read when its OpenMP is loaded: only one has its turn.
    os.environ.pop("OMP_WAIT_POLICY", None)
    os.environ["HF_HUB_OFFLINE"] = "1"

    from evals.speed.rollouts_programs import Task, ready
    from evals.speed.train_worker import serve

    task = Task(**options.task | {"gguf": Path(options.task["gguf"])})
    return serve(lambda: ready(task), options.threads)


if __name__ == "__main__":
    sys.exit(main())
