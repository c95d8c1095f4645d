"""A classifier survives its file; a broken or foreign file is named as such."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelstack.align.guards.hashed_features import DENSE, FeatureSpec, word_grams
from modelstack.align.guards.linear_classifier import LinearClassifier, Platt
from modelstack.align.guards.weights_file import ClassifierFileError

SPEC = FeatureSpec(n_buckets=1 << 12)


def classifier(**changes: Any) -> LinearClassifier:
    weights = np.zeros((SPEC.n_buckets, 2), np.int8)
    weights[dict(word_grams("bomb", SPEC))["bomb"], 0] = 100
    made = LinearClassifier(
        name="made",
        version="1",
        spec=SPEC,
        labels=("harm", "other"),
        weights=weights,
        scales=np.array([0.05, 0.1], np.float32),
        dense_weights=np.zeros((len(DENSE), 2), np.float32),
        bias=np.array([-1, -2], np.float32),
        calibration=(Platt(1.5, 0.25), Platt()),
        thresholds={"harm": {"fpr_1": 0.5}},
        training={"n_rows": 3},
    )
    return replace(made, **changes)


def rewritten(path: Path, change: str, value: object) -> None:
    """Change one entry of the JSON string in a file's header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    stated = json.loads(header["__metadata__"]["classifier"])
    stated[change] = value
    header["__metadata__"]["classifier"] = json.dumps(stated)
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])


def test_a_word_with_weight_raises_the_probability_of_its_label_alone() -> None:
    made = classifier()
    with_word, without = made.probabilities("a bomb"), made.probabilities("a bone")
    assert with_word["harm"] > without["harm"]
    assert with_word["other"] == without["other"]


def test_the_window_that_weighs_most_decides() -> None:
    made = classifier()
    long = "harmless words here " * 400
    assert made.logits(long + "bomb")[0] > made.logits(long)[0] == pytest.approx(-1)


def test_a_saved_classifier_loads_with_everything(tmp_path: Path) -> None:
    made = classifier()
    loaded = LinearClassifier.load(made.save(tmp_path / "deep" / "made.safetensors"))
    assert (loaded.name, loaded.labels, loaded.spec) == (made.name, made.labels, made.spec)
    assert (loaded.calibration, loaded.thresholds, loaded.training) == (
        made.calibration,
        made.thresholds,
        made.training,
    )
    assert loaded.probabilities("a bomb") == made.probabilities("a bomb")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["made.safetensors"]


def test_the_same_classifier_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = classifier().save(tmp_path / "a"), classifier().save(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_a_missing_file_names_its_path_and_how_to_fit(tmp_path: Path) -> None:
    with pytest.raises(ClassifierFileError, match="absent.safetensors"):
        LinearClassifier.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"PK\x03\x04", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_of_something_else_is_no_classifier(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(ClassifierFileError, match="foreign.safetensors"):
        LinearClassifier.load(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = classifier().save(tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut"
    for length in (1, 8, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(ClassifierFileError):
            LinearClassifier.load(cut)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("format", "other/9", "format"),
        ("spec_sha256", "0" * 64, "fit it anew"),
        ("labels", ["harm"], "is needed"),
        ("labels", ["harm", "harm"], "each once"),
        ("calibration", [[-1.0, 0.0], [1.0, 0.0]], "positive slopes"),
        ("calibration", [[1.0, 0.0]], "calibrations"),
        ("thresholds", {"harm": {"fpr_1": 1.5}}, "values of 0 to 1"),
        ("thresholds", {"unknown": {"fpr_1": 0.5}}, "known label"),
        ("thresholds", "none", "no classifier"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, field: str, value: object, named: str) -> None:
    path = classifier().save(tmp_path / "changed.safetensors")
    rewritten(path, field, value)
    with pytest.raises(ClassifierFileError, match=named):
        LinearClassifier.load(path)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        classifier(bias=np.array([np.nan, 0], np.float32))


def test_an_unknown_threshold_names_the_known_ones() -> None:
    assert classifier().threshold("harm", "fpr_1") == 0.5
    with pytest.raises(KeyError, match="fpr_1"):
        classifier().threshold("harm", "fpr_9")


def test_probabilities_stay_within_0_and_1_for_any_logit() -> None:
    values = Platt(2.0, 1.0).probabilities(np.array([-1e9, 0.0, 1e9]))
    assert (values >= 0).all() and (values <= 1).all()
    assert values[0] < 1e-9 < values[1] < values[2]
