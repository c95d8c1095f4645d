"""Fitting of a quality model on reference and raw texts, evaluated on held-out texts.

A hash of each text decides whether it is held out (`modelstack.tokenizer.documents.is_held_out`), so copies of a
text are in the same split. Texts in both classes are removed: they carry no information and would distort the
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.data.quality_model.features import N_BUCKETS, features
from modelstack.data.quality_model.model import QualityModel
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.tokenizer.documents import is_held_out

MODEL_FILE, CARD_FILE, PLOT_FILE = "quality.safetensors", "README.md", "quality.png"
HELD_OUT = 0.2
MIN_TEXTS = 20
"""Minimum texts per class and split."""
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Shares of raw texts kept, for which thresholds are reported."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model with its scores of the held-out texts."""

    model: QualityModel
    good: NDArray[np.float64]
    raw: NDArray[np.float64]


def fit(good: Sequence[str], raw: Sequence[str], *, c: float = 10.0, n_buckets: int = N_BUCKETS) -> Fitted:
    """Fit a model that separates good texts from raw ones.

    Args:
        good: Reference texts.
        raw: Unfiltered texts.
        c: Inverse strength of the L2 penalty.
        n_buckets: Number of buckets of the hashed runs.

    Raises:
        UserError: There are too few texts.
    """
    both = set(good) & set(raw)
    sides = [[text for text in dict.fromkeys(side) if text not in both] for side in (good, raw)]
    train = [[text for text in side if not is_held_out(text, HELD_OUT)] for side in sides]
    test = [[text for text in side if is_held_out(text, HELD_OUT)] for side in sides]
    for name, texts in zip(("good", "raw"), zip(train, test, strict=True), strict=True):
        if min(map(len, texts)) < MIN_TEXTS:
            raise UserError(
                f"{name}: {len(texts[0])} texts to fit on and {len(texts[1])} held out; "
                f"at least {MIN_TEXTS} each are needed"
            )
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=c, class_weight="balanced", solver="liblinear", random_state=0)
    fitted.fit(_matrix([*train[0], *train[1]], n_buckets), np.repeat([1, 0], [len(train[0]), len(train[1])]))
    weights = np.asarray(fitted.coef_[0], np.float32)
    plain = QualityModel(weights, float(np.ravel(fitted.intercept_)[0]))
    scores = [np.array([plain.score(text) for text in side]) for side in test]
    stated = {
        "good": {"fitted": len(train[0]), "held_out": len(test[0])},
        "raw": {"fitted": len(train[1]), "held_out": len(test[1])},
        "left_out_on_both_sides": len(both),
        "c": c,
        "auc": round(auc(*scores), 4),
    }
    return Fitted(QualityModel(weights, plain.bias, stated), *scores)


def auc(good: NDArray[np.float64], raw: NDArray[np.float64]) -> float:
    """Return the probability that a good text scores above a raw one, ties counted half (Mann and Whitney)."""
    ordered = np.sort(raw)
    below, up_to = np.searchsorted(ordered, good, "left"), np.searchsorted(ordered, good, "right")
    return float((below + up_to).mean() / (2 * len(raw)))


def thresholds(fitted: Fitted) -> list[tuple[float, float, float]]:
    """Return (threshold, share of raw texts kept, share of good texts kept) for each of `SHARES`."""
    found = []
    for share in SHARES:
        threshold = float(np.quantile(fitted.raw, 1 - share))
        found.append(
            (threshold, float((fitted.raw >= threshold).mean()), float((fitted.good >= threshold).mean()))
        )
    return found


def write(fitted: Fitted, folder: Path, *, sources: dict[str, list[str]]) -> None:
    """Write the model, its card and its plot to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fitted.model.save(folder / MODEL_FILE)
    _draw(fitted, folder / PLOT_FILE)
    stated = fitted.model.stated
    lines = [
        "# Quality model",
        "",
        f"A linear classifier over hashed runs of one and two words, {len(fitted.model.weights_F):,} weights: the "
        f"probability that a text is of the reference kind. AUC {stated['auc']:.4f} on "
        f"{stated['good']['held_out']:,} reference and {stated['raw']['held_out']:,} raw texts that it was not "
        "fitted on.",
        "",
        f"![Scores of both]({PLOT_FILE})",
        "",
        "| threshold | raw texts kept | reference texts kept |",
        "|---|---|---|",
        *(f"| {threshold:.4f} | {raw:.1%} | {good:.1%} |" for threshold, raw, good in thresholds(fitted)),
        "",
        f"Fitted on {stated['good']['fitted']:,} reference texts ({', '.join(sources['good'])}) and "
        f"{stated['raw']['fitted']:,} raw ones ({', '.join(sources['raw'])}).",
        "",
        "The model learns how the two sets differ, topics included: a good text unlike the reference scores low.",
        "",
    ]
    with replacing(folder / CARD_FILE) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _matrix(texts: Sequence[str], n_buckets: int) -> Any:
    from scipy.sparse import csr_array

    rows = [features(text, n_buckets) for text in texts]
    starts = np.concatenate(([0], np.cumsum([len(buckets) for buckets, _ in rows])))
    buckets = np.concatenate([buckets for buckets, _ in rows])
    starts, buckets = starts.astype(np.int32), buckets.astype(np.int32)  # scikit-learn accepts only 32-bit indices
    values = np.concatenate([values for _, values in rows])
    return csr_array((values.astype(np.float64), buckets, starts), shape=(len(rows), n_buckets))


def _draw(fitted: Fitted, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 31)
    for name, scores, colour in (("reference", fitted.good, "#4c78a8"), ("raw", fitted.raw, "#e45756")):
        left.hist(scores, bins, weights=np.full(len(scores), 1 / len(scores)), alpha=0.6, color=colour, label=name)
    left.set_xlabel("score")
    left.set_ylabel("share of the texts held out")
    left.legend(frameon=False)
    cuts = np.sort(np.concatenate((fitted.good, fitted.raw)))[::-1]
    right.plot(
        [(fitted.raw >= cut).mean() for cut in cuts],
        [(fitted.good >= cut).mean() for cut in cuts],
        color="#4c78a8",
    )
    right.plot([0, 1], [0, 1], "--", color="#999999", linewidth=0.8)
    right.set_xlabel("raw texts kept")
    right.set_ylabel("reference texts kept")
    right.set_title(f"AUC {fitted.model.stated['auc']:.4f}", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
