"""A pipeline that is killed with SIGKILL at drawn moments and started again, against a run without kills.

    python -m tests.modelstack.pipeline.killed_pipeline nano --kills 5 --seed 1 --reference RUN --out DIR

The moments are drawn over the working time of the reference, so a long step is killed more often than a short one.
A kill ends the whole process group: the command, the step's process and the server that it was forked from. The
same command starts the run again at once. At the end every hash of an output and every file of the evaluation must
be those of the reference. Other arguments are passed on, such as `key=value`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelstack.pipeline.measuring import FOLDER as EVALUATIONS
from modelstack.pipeline.record import read_record
from modelstack.pipeline.steps import STEPS

STATE_FILE = "pipeline.json"
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Killed:
    """A kill."""

    after_s: float
    """Seconds of work before it, over all starts."""
    step: str
    """Step that was unfinished."""


def drawn_moments(seconds: float, n: int, seed: int) -> list[float]:
    """Return `n` moments within `seconds`, in order."""
    draw = random.Random(f"kills {seed}")
    return sorted(draw.uniform(0, seconds) for _ in range(n))


def seconds_of(folder: Path) -> float:
    """Return the seconds of work of all steps of a finished pipeline."""
    records = [read_record(folder / step.folder) for step in STEPS]
    return sum(record.seconds for record in records if record is not None)


def run_killed(command: Sequence[str], out: Path, moments: Sequence[float]) -> list[Killed]:
    """Run a command that is killed at moments of its working time, and to its end; return the kills.

    Raises:
        subprocess.CalledProcessError: It ended by itself with an error.
    """
    killed: list[Killed] = []
    worked = 0.0
    for moment in (*moments, None):
        began = time.monotonic()
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None:
            if moment is not None and worked + time.monotonic() - began >= moment:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(POLL_S)
        worked += time.monotonic() - began
        if process.returncode == 0:
            return killed
        if process.returncode != -signal.SIGKILL:
            raise subprocess.CalledProcessError(process.returncode, list(command))
        killed.append(Killed(worked, unfinished(out)))
        print(f"killed after {worked:.1f} s of work, in the step {killed[-1].step}", flush=True)
    return killed


def unfinished(folder: Path) -> str:
    """Return the first step without a record."""
    return next((step.name for step in STEPS if not (folder / step.folder / "step.json").is_file()), "none")


def outputs(folder: Path) -> dict[str, str]:
    """Return the hash of each step's output, and the content of each file of the evaluation."""
    state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    found = {step["name"]: str(step.get("digest", step["status"])) for step in state["steps"]}
    files = sorted((folder / EVALUATIONS).glob("*.json"))
    return found | {f"{EVALUATIONS}/{file.name}": file.read_text(encoding="utf-8") for file in files}


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the outputs that differ between two pipelines."""
    first, second = outputs(one), outputs(other)
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def main() -> int:
    """Run, kill, compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--reference", type=Path, required=True, help="folder of a finished run of the same recipe"
    )
    parser.add_argument("--out", type=Path, required=True)
    known, others = parser.parse_known_args()
    moments = drawn_moments(seconds_of(known.reference), known.kills, known.seed)
    command = [sys.executable, "-m", "modelstack", "pipeline", known.recipe, "--out", str(known.out), *others]
    killed = run_killed(command, known.out, moments)
    differ = differences(known.reference, known.out)
    steps = ", ".join(f"{each.step} at {each.after_s:.0f} s" for each in killed)
    verdict = f"differ from the reference: {', '.join(differ)}" if differ else "are those of the reference"
    print(f"{len(killed)} kills ({steps}): {len(outputs(known.out))} outputs {verdict}")
    return 1 if differ or len(killed) < known.kills else 0


if __name__ == "__main__":
    sys.exit(main())
