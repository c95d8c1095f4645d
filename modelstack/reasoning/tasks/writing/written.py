"""Writes task files: two sides that never share a prompt, a share of canaries, and equal bytes for equal seeds.

A prompt's side depends only on its hash, so training and evaluation files with any seeds and sizes can be
combined. A canary is an ordinary task with a gold that cannot be met: a policy that is rewarded for it has found
a hole in the verifier.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.reasoning.tasks.task import TaskLine

Side = Literal["train", "held-back"]
HELD_BACK_OF_256 = 64
"""Held-back hash values of 256: a quarter of all prompts."""
CANARY_SHARE = 0.02
LICENSE = "CC0-1.0"
_TRIES_A_TASK = 200
"""Attempts per task before the source counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Source:
    """Generator of one kind of task."""

    name: str
    make: Callable[[random.Random, Side, int], TaskLine | None]
    """Makes a task from its random generator, the side and a unique attempt number; None: this attempt failed."""
    make_canary: Callable[[TaskLine], TaskLine]
    """Gives a task a gold that cannot be met."""


def tasks_of(source: Source, side: Side, n: int, seed: int, canaries: float = CANARY_SHARE) -> Iterator[TaskLine]:
    """Yield `n` tasks with different prompts, with canaries on the training side.

    Raises:
        UserError: The source has fewer different prompts, or an argument is out of range.
    """
    if n < 1 or not 0 <= canaries < 1:
        raise UserError(
            f"n = {n}, canaries = {canaries}: n must be at least 1, and canaries a share from 0 to below 1"
        )
    seen: set[str] = set()
    n_canaries = round(canaries * n) if side == "train" else 0
    is_canary = set(random.Random(f"canaries {seed}").sample(range(n), n_canaries))
    n_tries = 0
    for number in count():
        if len(seen) == n:
            return
        n_tries += 1
        if n_tries > _TRIES_A_TASK:
            raise UserError(
                f"{source.name} has {len(seen)} different prompts for the side {side!r} with these settings, and "
                f"{n} were requested: request fewer, or widen the settings"
            )
        task = source.make(random.Random(f"{source.name} {side} {seed} {number}"), side, number)
        if task is None or side_of(task) != side or _asked(task) in seen:
            continue
        n_tries = 0
        named = task.model_copy(update={"id": f"{source.name}-{side}-{seed}-{len(seen)}"})
        yield source.make_canary(named).model_copy(update={"canary": True}) if len(seen) in is_canary else named
        seen.add(_asked(task))


def write_tasks(path: Path, tasks: Iterator[TaskLine]) -> int:
    """Write a file of tasks atomically; return the number of tasks."""
    lines = [task.model_dump_json(exclude_defaults=True) + "\n" for task in tasks]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def side_of(task: TaskLine) -> Side:
    """Return the side of a task by its last message, independent of earlier messages and tools."""
    is_held_back = hashlib.sha256(_asked(task).encode()).digest()[0] < HELD_BACK_OF_256
    return "held-back" if is_held_back else "train"


def _asked(task: TaskLine) -> str:
    return task.messages[-1].content if task.messages else task.prompt or ""
