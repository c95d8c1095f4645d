"""Runs a program of `lora_programs` in its own process, with the protocol of `train_worker`.

`python -m evals.speed.lora_worker '{"program": "modelstack", ...}' --threads 2`
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from evals.speed.lora_programs import Lengths, Task, ready
from evals.speed.train_worker import serve


def task_to_json(task: Task) -> str:
    """Return a task as one line of JSON."""
    return json.dumps(asdict(task) | {"gguf": str(task.gguf) if task.gguf else None})


def task_from_json(line: str) -> Task:
    """Parse a task."""
    json_ = json.loads(line)
    return Task(json_["program"], Lengths(**json_["lengths"]), Path(json_["gguf"]) if json_["gguf"] else None)


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=task_from_json)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    return serve(lambda: ready(options.task), options.threads)


if __name__ == "__main__":
    sys.exit(main())
