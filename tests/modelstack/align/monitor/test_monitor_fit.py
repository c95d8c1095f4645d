"""Fits of probes: against scikit-learn, on a planted signal, and the states they are fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")

import torch

from modelstack.align.monitor.probe import REPLY, REQUEST, Direction, Probe
from modelstack.align.monitor.watch import Watch
from modelstack.align.monitor_training.fit import fit_replies, fit_requests, smoothed
from modelstack.align.monitor_training.states import layer_states
from modelstack.architecture.gguf.load import load_gguf


def test_requests_are_fitted_as_by_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    x = (draw.normal(size=(400, 8)) * np.arange(1, 9) + 3).astype(np.float16)
    y = (x[:, 2].astype(float) - x[:, 5] + draw.normal(size=400)) > -1
    weights, bias = fit_requests(x, y, penalty=0.05)
    scaled = (x.astype(np.float64) - x.astype(np.float64).mean(0)) / x.astype(np.float64).std(0)
    reference = LogisticRegression(C=1 / (0.05 * len(y)), tol=1e-8, max_iter=1000).fit(scaled, y)
    ours = x.astype(np.float64) @ weights + bias
    np.testing.assert_allclose(ours, reference.decision_function(scaled), atol=0.02)


def test_a_reply_with_one_suspicious_stretch_is_found() -> None:
    draw = np.random.default_rng(1)
    replies, labels = [], []
    for n in range(160):
        states = draw.normal(size=(int(draw.integers(12, 60)), 6)).astype(np.float16)
        if n % 2:
            start = int(draw.integers(0, len(states) - 8))
            states[start : start + 8, 3] += 2.5
        replies.append(states)
        labels.append(bool(n % 2))
    weights, bias = fit_replies(replies[:120], np.array(labels[:120]), window=6, penalty=1e-3)
    assert np.abs(weights).argmax() == 3 and weights[3] > 0
    largest = np.array([smoothed(states.astype(np.float64) @ weights + bias, 6).max() for states in replies[120:]])
    held = np.array(labels[120:])
    assert (largest[held][:, None] > largest[~held][None]).mean() > 0.9


def test_a_watch_smooths_as_the_fit_measures() -> None:
    draw = np.random.default_rng(2)
    direction = Direction(draw.normal(size=(1, 4)).astype(np.float32), 0.1)
    probe = Probe((0,), direction, direction, 5, {REQUEST: {}, REPLY: {}}, ("f",))
    states = draw.normal(size=(20, 1, 4)).astype(np.float32)
    watch = Watch(probe)
    watch(states[0], [])
    for n, each in enumerate(states, 1):
        watch(each, [0] * n)
    expected = smoothed(np.array([direction.log_odds(each) for each in states]), 5)
    assert watch.reply_log_odds == pytest.approx(expected[3:].max())


def test_states_equal_those_of_whole_prompts(tiny_gguf: Path) -> None:
    model = load_gguf(tiny_gguf, dtype=torch.float32).model.eval()
    prefix, rows = [5, 6, 7, 8], [[9, 10, 11], [12], [13, 14, 15, 16, 17, 18]]
    found = dict(layer_states(model, prefix, rows, [0]))
    seen: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: torch.Tensor) -> None:
        seen.append(output)

    hook = model.model.layers[0].register_forward_hook(keep)
    for number, row in enumerate(rows):
        with torch.no_grad():
            model(torch.tensor([[*prefix, *row]]))
        expected = seen.pop()[0, len(prefix) :].numpy()
        assert found[number].shape == (len(row), 1, 64)
        np.testing.assert_allclose(found[number][:, 0], expected, atol=5e-3)
    hook.remove()
