"""What `gym` runs in its child process: an entry made again from its place, and its grader's score."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from modelstack.reasoning.verifiers.gym import GymTask, dataset_of

importlib.import_module("reasoning_gym")  # once, before the forks


def grade(question: Mapping[str, Any]) -> float:
    """Return the score from 0 to 1 of an answer, or of the entry's own where it is None."""
    name, seed, size, level, config, index = json.loads(question["place"])
    dataset = dataset_of(GymTask(name, seed, size, level, config))
    entry = dataset[index]
    answer = entry["answer"] if question["answer"] is None else question["answer"]
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:  # graders differ in what they take for a wrong answer and what for an error
        return 0.0
