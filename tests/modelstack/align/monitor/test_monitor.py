"""Probes and watches of a monitor: arithmetic, files, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modelstack.align.monitor.probe import REPLY, REQUEST, Direction, Probe
from modelstack.align.monitor.shipped import shipped_monitor, shipped_monitors
from modelstack.align.monitor.watch import MIN_TOKENS, Watch
from modelstack.errors import UserError

SIXTH = np.full((2, 3), 1 / 6, np.float32)


@pytest.fixture
def probe() -> Probe:
    return Probe(
        (4, 7),
        Direction(SIXTH, -1.0),
        Direction(SIXTH, 0.0),
        window=3,
        thresholds={REQUEST: {"fpr_1": 2.0}, REPLY: {"fpr_1": 3.0}},
        fingerprints=("a" * 64,),
        card={"n": 5},
    )


def states(mean: float) -> np.ndarray:
    """Return states of which `reply` makes the log-odds `mean`."""
    return np.full((2, 3), mean, np.float32)


def test_the_end_of_the_prompt_is_judged_as_a_request(probe: Probe) -> None:
    harmless, harmful = Watch(probe, 2.0, 3.0), Watch(probe, 2.0, 3.0)
    assert harmless(states(2.5), []) and harmless.request_log_odds == pytest.approx(1.5) and harmless.stop is None
    assert not harmful(states(3.5), [])
    assert harmful.stop is not None and (harmful.stop.what, harmful.stop.n_tokens) == ("request", 0)
    assert harmful.stop.probability == pytest.approx(1 / (1 + math.exp(-2.5)))


def test_a_reply_is_stopped_by_the_smoothed_log_odds_of_its_tokens(probe: Probe) -> None:
    watch, odds = Watch(probe, reply_threshold=3.0), [0.0, 1.0, -1.0, 4.0, 4.0, 4.0, 9.0]
    mean, expected = 0.0, list[float]()
    for n, value in enumerate(odds, 1):
        mean += 0.5 * (value - mean)
        expected.append(mean / (1 - 0.5**n))
    watch(states(0), [])
    first = next(n for n, value in enumerate(expected) if n + 1 >= MIN_TOKENS and value >= 3.0)
    went_on = [watch(states(value), [0] * n) for n, value in enumerate(odds[: first + 1], 1)]
    assert went_on == [True] * first + [False]
    assert watch.stop is not None and watch.stop.n_tokens == first + 1
    assert watch.stop.log_odds == pytest.approx(expected[first])


def test_one_suspicious_token_at_the_start_stops_nothing(probe: Probe) -> None:
    watch = Watch(probe, reply_threshold=3.0)
    watch(states(0), [])
    assert all(watch(states(value), [0] * n) for n, value in enumerate([9.0, 0.0, 0.0, 0.0, 0.0], 1))


def test_a_second_start_of_a_reply_is_no_request(probe: Probe) -> None:
    watch = Watch(probe, request_threshold=2.0)
    assert watch(states(0), []) and watch(states(9), [])
    assert watch.request_log_odds == pytest.approx(-1.0)


def test_a_reply_that_is_drawn_again_is_smoothed_anew(probe: Probe) -> None:
    watch = Watch(probe, reply_threshold=3.0)
    watch(states(0), [])
    for n in range(1, 4):  # too few tokens to be stopped
        assert watch(states(9.0), [0] * n)
    watch(states(0), [])
    assert all(watch(states(0.0), [0] * n) for n in range(1, 9)) and watch.reply_log_odds < 1


def test_a_probe_is_written_and_read(probe: Probe, tmp_path: Path) -> None:
    probe.save(tmp_path / "a.safetensors")
    read = Probe.load(tmp_path / "a.safetensors")
    for name in ("layers", "window", "thresholds", "fingerprints", "card"):
        assert getattr(read, name) == getattr(probe, name)
    np.testing.assert_array_equal(read.request.weights_LD, probe.request.weights_LD)
    assert (read.request.bias, read.reply.bias) == (probe.request.bias, probe.reply.bias)
    read.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_states_of_another_model_or_layer_are_refused(probe: Probe) -> None:
    probe.require_fitted_to("a" * 64, (4, 7))
    with pytest.raises(UserError, match="another model or adapter"):
        probe.require_fitted_to("b" * 64, (4, 7))
    with pytest.raises(UserError, match=r"reads layers \(4, 7\).*gives \(4,\)"):
        probe.require_fitted_to("a" * 64, (4,))


def test_an_unknown_operating_point_is_refused_by_name(probe: Probe) -> None:
    with pytest.raises(UserError, match="'fpr_9' is not in this monitor; it has fpr_1"):
        probe.threshold(REQUEST, "fpr_9")


def test_broken_files_are_refused(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match="cannot be read"):
        Probe.load(path)
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(UserError, match="no monitor"):
        Probe.load(path)
    replace(probe, layers=(1, 2, 3)).save(path)
    with pytest.raises(UserError, match="do not fit 3 layers"):
        Probe.load(path)


def test_a_profile_without_a_monitor_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="no monitor for 'giant'"):
        shipped_monitor("giant")
    for profile in shipped_monitors():
        assert shipped_monitor(profile).layers
