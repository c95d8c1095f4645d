"""A quality model: that it learns what tells two kinds of text apart, is a file, and is a step."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.data.documents import Document
from modelstack.data.quality_model.features import features
from modelstack.data.quality_model.fit import Fitted, auc, fit, thresholds, write
from modelstack.data.quality_model.model import QualityModel
from modelstack.data.quality_model.step import QualityScore
from modelstack.errors import UserError

SHARED = [f"{a}{b}" for a in ("ba", "ko", "li", "mu", "ne") for b in ("ra", "ti", "so", "pu", "da", "fe")]


def texts(own: list[str], n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(SHARED, k=40) + rng.choices(own, k=6)) for _ in range(n)]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(texts(["theorem", "chapter", "because"], 200, 1), texts(["click", "subscribe", "cookies"], 200, 2))


def test_it_tells_the_two_kinds_apart_on_texts_that_it_has_not_seen(fitted: Fitted) -> None:
    assert fitted.model.stated["auc"] > 0.99
    assert fitted.model.score("A chapter on why, because a theorem says so: bara koti lipu") > 0.5
    assert fitted.model.score("Click to subscribe, we use cookies: bara koti lipu") < 0.5


def test_texts_of_one_kind_cannot_be_told_apart() -> None:
    both = fit(texts(["chapter"], 300, 3), texts(["chapter"], 300, 4))
    assert 0.3 < both.model.stated["auc"] < 0.7


def test_a_text_on_both_sides_is_left_out() -> None:
    good, raw = texts(["chapter"], 200, 5), texts(["click"], 200, 6)
    assert fit([*good, *raw[:50]], raw).model.stated["left_out_on_both_sides"] == 50


def test_the_file_holds_the_model_and_is_the_same_each_time(fitted: Fitted, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(fitted, tmp_path / name, sources={"good": ["books"], "raw": ["web"]})
    one, two = (tmp_path / name / "quality.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    read = QualityModel.load(one)
    assert (read.bias, read.stated) == (fitted.model.bias, fitted.model.stated)
    assert np.array_equal(read.weights_F, fitted.model.weights_F)
    card = (tmp_path / "one" / "README.md").read_text()
    assert "AUC" in card and "books" in card
    assert (tmp_path / "one" / "quality.png").stat().st_size > 5_000


def test_the_step_scores_and_drops(fitted: Fitted, tmp_path: Path) -> None:
    fitted.model.save(tmp_path / "m.safetensors")
    step = QualityScore(model=tmp_path / "m.safetensors").build()
    good, bad = Document("a", "chapter theorem because"), Document("b", "click subscribe cookies")
    assert (step(good), step(bad)) == (None, "low_quality_score")
    assert good.metadata["quality_score"] > 0.5 > bad.metadata["quality_score"]
    scoring = QualityScore(model=tmp_path / "m.safetensors", threshold=None).build()
    assert scoring(bad) is None


def test_thresholds_keep_the_share_that_they_say(fitted: Fitted) -> None:
    for (threshold, raw, good), share in zip(thresholds(fitted), (0.05, 0.1, 0.2, 0.3, 0.5, 0.7), strict=True):
        assert raw == pytest.approx(share, abs=1.5 / len(fitted.raw))
        assert raw == np.mean(fitted.raw >= threshold)
        assert good >= raw


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "nan"])
def test_what_is_no_model_is_named(fitted: Fitted, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.safetensors"
    if damage == "nan":
        QualityModel(np.full(8, np.nan, np.float32), 0.0).save(path)
    elif damage != "missing":
        fitted.model.save(path)
        path.write_bytes(path.read_bytes()[:1000] if damage == "cut" else b"{}")
    with pytest.raises(UserError, match=r"m\.safetensors .*modelstack data quality"):
        QualityScore(model=path).build()


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(UserError, match="good: .* each are needed"):
        fit(["one text"] * 50, texts(["click"], 100, 7))


@given(st.text(max_size=300))
def test_any_text_has_features_of_length_one_or_none(text: str) -> None:
    buckets, values = features(text, 64)
    assert len(buckets) == len(values) == len(set(buckets.tolist()))
    assert not len(values) or np.linalg.norm(values) == pytest.approx(1, abs=1e-5)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_auc_is_the_share_of_pairs_in_order(good: list[int], raw: list[int]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in good for b in raw]
    assert auc(np.array(good, float), np.array(raw, float)) == pytest.approx(sum(pairs) / len(pairs))
