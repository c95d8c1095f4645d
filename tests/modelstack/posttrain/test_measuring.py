"""Measurements and tensors that are kept beside a run are made once for the same question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from modelstack.posttrain.measuring import BEFORE_FILE, kept_tensors, measured_once, ratio
from modelstack.posttrain.passes import combined_metrics
from modelstack.posttrain.stages.record import Measurement


def test_a_figure_is_measured_once_for_the_same_questions(tmp_path: Path) -> None:
    asked: list[str] = []

    def measured(question: str) -> Measurement:
        def measure() -> Measurement:
            asked.append(question)
            return ratio("length", np.array([1.0, 3.0]), np.ones(2), question)

        return measured_once(tmp_path, question, measure)

    assert measured("a") == measured("a")
    assert measured("b").value == 2.0 and asked == ["a", "b"]
    (tmp_path / BEFORE_FILE).write_text("{", encoding="utf-8")  # cut off by a full disk
    measured("b")
    assert asked == ["a", "b", "b"]


def test_tensors_are_made_once_for_the_same_fingerprint(tmp_path: Path) -> None:
    file, n_made = tmp_path / "kept.safetensors", iter(range(10))

    def kept(fingerprint: str) -> float:
        return float(kept_tensors(file, fingerprint, lambda: {"n": torch.tensor(float(next(n_made)))})["n"])

    assert [kept("a"), kept("a"), kept("b"), kept("b")] == [0.0, 0.0, 1.0, 1.0]
    file.write_bytes(file.read_bytes()[:5])
    assert kept("b") == 2.0


def test_metrics_of_micro_batches_are_weighted_and_what_is_missing_does_not_count() -> None:
    parts = [
        (0.25, {"reward": 4.0, "ratio/max": 2.0, "rewards/rejected": float("nan")}),
        (0.75, {"reward": 8.0, "ratio/max": 1.0, "rewards/rejected": 3.0}),
        (0.0, {"reward": 100.0, "ratio/max": 100.0}),
    ]
    assert combined_metrics(parts) == {"reward": 7.0, "ratio/max": 2.0, "rewards/rejected": 3.0}
