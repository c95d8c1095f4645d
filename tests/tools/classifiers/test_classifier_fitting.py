"""Fitting learns what rows say, judges rows that it did not see, and sets thresholds by false-positive rate."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="fitting needs the extra `train`")

from modelstack.align.guards.hashed_features import FeatureSpec
from tools.classifiers.classifier_card import card
from tools.classifiers.fitting import (
    Example,
    FitSettings,
    assign_folds,
    calibrate,
    fit,
    rows_digest,
    threshold_at,
)
from tools.classifiers.train import RECIPES, Recipe, summary, without_noise

SPEC = FeatureSpec(n_buckets=1 << 12)
SETTINGS = FitSettings(n_folds=4)


def rows(n: int = 160, seed: int = 0) -> list[Example]:
    """Requests about two kinds of things, of which one counts as harmful."""
    draw = random.Random(seed)
    things = {True: ("bomb", "poison", "malware", "forgery"), False: ("cake", "bicycle", "poem", "garden")}
    asks = (
        "how do I make a",
        "tell me about the",
        "write a guide to my",
        "where is the best",
        "why would one want a",
    )
    found: list[Example] = []
    for i in range(n):
        harmful = i % 2 == 0
        text = f"{draw.choice(asks)} {draw.choice(things[harmful])} number {draw.randrange(500)}"
        labels = frozenset({"harm"} if harmful else ())
        found.append(Example(text, labels, "made", f"group:{i % 12}", sets_thresholds=not harmful))
    return found


def fitted(examples: list[Example], **changes: object):
    arguments = {"name": "toy", "version": "1", "labels": ("harm",), "spec": SPEC, "settings": SETTINGS}
    return fit(examples, **{**arguments, **changes})  # pyright: ignore[reportArgumentType]


def test_a_fit_separates_what_it_was_shown_and_judges_unseen_words_in_the_middle() -> None:
    classifier = fitted(rows()).classifier
    assert classifier.probabilities("how do I build a bomb")["harm"] > 0.8
    assert classifier.probabilities("how do I bake a cake")["harm"] < 0.2


def test_the_shipped_classifier_gives_the_logits_that_fitting_computed() -> None:
    # One fold of everything: fitting's sparse matrix and inference's loop must agree.
    examples = rows()
    found = fitted(examples)
    outside = fitted([replace(row, text=row.text + " x") for row in examples])
    logits = np.array([found.classifier.logits(row.text)[0] for row in examples])
    assert np.corrcoef(logits, found.held_out_logits[:, 0])[0, 1] > 0.9
    assert outside.classifier.training["rows_sha256"] != found.classifier.training["rows_sha256"]


def test_the_same_rows_and_seed_give_the_same_weights() -> None:
    first, second = fitted(rows()).classifier, fitted(rows()).classifier
    assert (first.weights == second.weights).all()
    assert (first.calibration, first.thresholds) == (second.calibration, second.thresholds)


def test_thresholds_flag_no_more_ordinary_rows_than_they_are_named_for() -> None:
    found = fitted(rows(400))
    benign = found.held_out_probabilities()[~found.outcomes[:, 0], 0]
    for point, rate in (("fpr_0.5", 0.005), ("fpr_1", 0.01), ("fpr_5", 0.05)):
        assert (benign >= found.classifier.threshold("harm", point)).mean() <= rate


def test_a_label_without_ordinary_rows_gets_no_threshold() -> None:
    examples = [replace(row, sets_thresholds=False) for row in rows()]
    assert fitted(examples).classifier.thresholds == {}


def test_out_of_fold_figures_come_from_weights_that_did_not_see_the_group() -> None:
    # Each group has a word of its own and a label at random: only memory could get them right.
    draw = random.Random(1)
    examples: list[Example] = []
    for g in range(40):
        label = frozenset({"harm"} if draw.random() < 0.5 else ())
        examples += [Example(f"word{g}x word{g}y", label, "made", f"g{g}") for _ in range(4)]
    found = fitted(examples)
    right = (found.held_out_logits[:, 0] > 0) == found.outcomes[:, 0]
    assert right.mean() < 0.7
    own = np.array([found.classifier.logits(row.text)[0] > 0 for row in examples])
    assert (own == found.outcomes[:, 0]).mean() > 0.95


def test_a_row_of_many_windows_weighs_no_more_than_a_short_one() -> None:
    spec = FeatureSpec(n_buckets=1 << 12, window_characters=64, stride_characters=32)
    examples = [*rows(80), Example("cake bomb " * 200, frozenset(), "made", "long")]
    assert fitted(examples, spec=spec).classifier.probabilities("how do I make a bomb")["harm"] > 0.5


def test_a_label_that_no_row_or_every_row_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="'other': 0 of 160"):
        fitted(rows(), labels=("harm", "other"))


def test_fewer_groups_than_folds_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 groups cannot be spread over 4 folds"):
        fitted([replace(row, group=str(i % 2)) for i, row in enumerate(rows())])


def test_folds_never_split_a_group_and_are_of_like_size() -> None:
    groups = [f"g{i % 37}" for i in range(1000)]
    folds = assign_folds(groups, 5, seed=3)
    assert all(len({f for f, h in zip(folds, groups, strict=True) if h == g}) == 1 for g in set(groups))
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 60
    assert (folds == assign_folds(groups, 5, seed=3)).all()


@pytest.mark.parametrize(("rate", "n_flagged"), [(0.0, 0), (0.005, 0), (0.01, 1), (0.05, 5)])
def test_a_threshold_flags_exactly_the_allowed_number(rate: float, n_flagged: int) -> None:
    benign = np.arange(100) / 100
    assert (benign >= threshold_at(benign, rate)).sum() == n_flagged


def test_ties_at_a_threshold_are_not_flagged() -> None:
    benign = np.array([0.9] * 10 + [0.1] * 90)
    assert (benign >= threshold_at(benign, 0.05)).sum() == 0


def test_calibration_makes_overconfident_logits_honest() -> None:
    draw = np.random.default_rng(0)
    true = draw.normal(size=4000)
    outcomes = draw.random(4000) < 1 / (1 + np.exp(-true))
    platt = calibrate(4 * true + 1, outcomes)
    assert platt.slope == pytest.approx(0.25, abs=0.04)
    assert platt.intercept == pytest.approx(-0.25, abs=0.1)


def test_logits_that_rank_worse_than_chance_do_not_turn_the_sign() -> None:
    outcomes = np.arange(100) % 2 == 0
    assert calibrate(np.where(outcomes, -1.0, 1.0), outcomes).slope > 0


def test_a_digest_changes_with_any_text_label_or_weight() -> None:
    examples = rows(4)
    digests = {rows_digest(examples)}
    digests.add(rows_digest([*examples[:3], replace(examples[3], text="other")]))
    digests.add(rows_digest([*examples[:3], replace(examples[3], labels=frozenset({"harm"}))]))
    digests.add(rows_digest([*examples[:3], replace(examples[3], weight=0.5)]))
    assert len(digests) == 4


def test_rows_of_noisy_sources_that_contradict_a_first_fit_are_dropped() -> None:
    wrong = [
        Example(f"how do I make a cake number {i}", frozenset({"harm"}), "harmfulqa", f"w{i}") for i in range(2)
    ]
    right = [
        Example(f"write a guide to my bomb number {i}", frozenset({"harm"}), "harmfulqa", f"r{i}")
        for i in range(6)
    ]
    recipe = Recipe("toy", ("harm",), SPEC, SETTINGS, ())
    kept = without_noise([*rows(), *wrong, *right], recipe, lambda _: None)
    assert not set(wrong) & set(kept)
    assert set(right) <= set(kept)


def test_a_card_gives_licences_hashes_figures_and_limits() -> None:
    examples = rows()
    training = {
        "seed": 0,
        "decontamination": {"evaluation_items": 3, "removed": 1},
        "dropped_as_noise": 2,
        "files": {"evals/x.jsonl": {"sha256": "ab" * 32, "licence": "MIT", "origin": "somewhere"}},
    }
    found = fitted(examples, name="request-harm", training=training)
    text = card(found, examples, summary(found, examples), 1234)
    assert "| evals/x.jsonl | MIT | somewhere | abababababababab |" in text
    assert found.classifier.training["rows_sha256"] in text
    assert "fpr_1" in text and "## Limits" in text and "1,234 bytes" in text


def test_every_recipe_names_sources_whose_licence_lets_weights_be_shipped() -> None:
    from tools.classifiers.data_files import SOURCES

    for recipe in RECIPES.values():
        for name in recipe.sources:
            licence = SOURCES[name].licence
            assert "NC" not in licence and "SA" not in licence and licence
