"""N-gram baseline: TF-IDF of words and characters and a logistic regression, the usual first attempt.

It is fitted in the same run on the same public rows, without the additions of `modelstack.align.guards`: no
normalisation or decoding, no contrast pairs, no rows made by rule, no dense features. A fifth of its benign rows
is held back for its thresholds.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.statistics import threshold_at_false_positive_rate
from modelstack.align.guards.linear_classifier import OPERATING_POINTS
from tools.classifiers.fitting import Example, assign_folds

PUBLIC_SOURCES = frozenset(
    {
        "advbench", "catqa", "harmfulqa", "hh_harmful", "hh_benign", "davidson_hate", "davidson_neither",
        "self_instruct", "gsm8k", "mbpp", "textbook_questions", "taskmaster", "metatool", "seal-tools", "snips",
        "nlu-eval", "toolrl-sft", "toolalpaca", "api-bank", "glaive-demo", "home-assistant",
        "gptfuzzer", "inthewild", "ordinary", "clean:email", "clean:table", "clean:code", "clean:document",
    }
)  # fmt: skip
"""Sources whose rows are unchanged texts of public sets; "inserted:bipia" (public attacks in public contexts) is
added."""
N_HELD_BACK = 5
"""Inverse of the share of groups that is held back."""


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A fitted baseline."""

    vectoriser: Any
    model: Any
    thresholds: Mapping[str, float]
    """Least flagged probability by operating point."""
    n_rows: int

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability of the label for each text (N,)."""
        return self.model.predict_proba(self.vectoriser.transform(texts))[:, 1]


def public_rows(rows: Sequence[Example], label: str) -> list[Example]:
    """Return the rows of public sets, for request harm without those made by rule."""
    return [
        row
        for row in rows
        if (row.source in PUBLIC_SOURCES and not (label == "harm" and row.source == "ordinary"))
        or row.source.startswith("inserted:bipia")
    ]


def fit_baseline(rows: Sequence[Example], label: str, seed: int) -> Baseline:
    """Fit the baseline on public rows and set its thresholds on the benign rows held back."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_union

    rows = public_rows(rows, label)
    outcomes = np.array([label in row.labels for row in rows])
    back = (assign_folds([row.group for row in rows], N_HELD_BACK, seed) == 0) & ~outcomes
    texts = np.array([row.text for row in rows], object)
    vectoriser = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=3, max_features=200_000, sublinear_tf=True),
    )
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=300, random_state=seed)
    model.fit(vectoriser.fit_transform(texts[~back]), outcomes[~back])
    unset = Baseline(vectoriser, model, {}, int((~back).sum()))
    benign = [float(p) for p in unset.probabilities(list(texts[back]))]
    thresholds = {p: threshold_at_false_positive_rate(benign, rate) for p, rate in OPERATING_POINTS.items()}
    return Baseline(vectoriser, model, thresholds, unset.n_rows)
