"""Grading function that `gym` runs in its child process: generates an entry again and scores an answer."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from modelstack.reasoning.verifiers.gym import GymTask, dataset_of

importlib.import_module("reasoning_gym")  # imported once, before the forks


def grade(question: Mapping[str, Any]) -> float:
    """Return the score of an answer from 0 to 1; None as the answer scores the entry's own."""
    name, seed, size, level, config, index = json.loads(question["place"])
    dataset = dataset_of(GymTask(name, seed, size, level, config))
    entry = dataset[index]
    answer = entry["answer"] if question["answer"] is None else question["answer"]
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:  # graders raise errors for some wrong answers
        return 0.0
