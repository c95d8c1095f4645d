"""Runs a program in its own process: takes as many steps as each input line asks for, and reports their times.

The protocol is JSON, one object per line: first a description of the built program, then one answer per input
line. The program's own output goes to the error stream.

    python -m evals.speed.train_worker '{"program": "litgpt", ...}' --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.speed.train_programs import Shape, Task, build, losses


def task_to_json(task: Task) -> str:
    """Return a task as one line of JSON."""
    return json.dumps(asdict(task) | {"nanogpt": str(task.nanogpt) if task.nanogpt else None})


def task_from_json(line: str) -> Task:
    """Parse a task."""
    json_ = json.loads(line)
    checkout = Path(json_["nanogpt"]) if json_["nanogpt"] else None
    return Task(json_["program"], json_["precision"], json_["mode"], Shape(**json_["shape"]), checkout)


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=task_from_json)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()

    def ready() -> tuple[int, Callable[[], float]]:
        trainer = build(options.task)
        return trainer.n_parameters, losses(trainer, options.task.shape)

    return serve(ready, options.threads)


def serve(ready: Callable[[], tuple[int, Callable[[], float]]], threads: int) -> int:
    """Build a program, then take as many steps as each input line asks for, until the input ends.

    Args:
        ready: Builds the program; returns its number of parameters and a function that takes a step and returns
            the loss.
        threads: Number of torch's threads.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")

    import torch

    torch.set_num_threads(threads)
    n_parameters, step = ready()
    answers.write(json.dumps({"parameters": n_parameters}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(_steps(step, int(line))) + "\n")
    return 0


def _steps(step: Any, n: int) -> dict[str, Any]:
    seconds, found = [], []
    for _ in range(n):
        started = time.perf_counter()
        found.append(step())
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "values": found, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Return the process's peak resident memory in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    sys.exit(main())
