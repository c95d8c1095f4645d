"""Fit of a linear classifier: logistic regression, grouped cross-validation, int8, calibration, thresholds.

Figures, calibration and thresholds come from out-of-fold logits: a row is judged by weights that saw no row of its
group, quantised as the shipped weights are, over the same windows and views. Columns are weighted by inverse
document frequency before the fit; the factor is multiplied into the weights afterwards, so inference needs none.
Needs scikit-learn (extra `train`).

Letters: N rows, B buckets, D dense features, L labels, K folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.align.guards.hashed_features import DENSE, FeatureSpec, WindowFeatures, windows
from modelstack.align.guards.linear_classifier import OPERATING_POINTS, LinearClassifier, Platt

CLIP_SHARES = (1.0, 0.99999, 0.9999, 0.999)
"""Candidates for the share of non-zero weights that int8 represents without clipping; the best is taken."""


@dataclass(frozen=True, slots=True)
class Example:
    """A training row."""

    text: str
    labels: frozenset[str]
    """True labels; all other labels of the classifier are false."""
    source: str
    group: str
    """Name of the group (a template family, near-duplicates), which is never split between folds."""
    weight: float = 1.0
    sets_thresholds: bool = False
    """Whether the row is an ordinary text, on which false-positive rates are counted."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Settings of a fit."""

    regularisation_c: float = 4.0
    """Inverse strength of the L2 penalty."""
    dense_scale: float = 1.0
    """Factor of the dense columns; a larger one means less penalty on them."""
    class_balance: float = 0.5
    """0: every row has its own weight; 1: both classes have the same total weight."""
    n_folds: int = 5
    seed: int = 0
    max_iterations: int = 200


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A classifier with its out-of-fold logits."""

    classifier: LinearClassifier
    held_out_logits: NDArray[np.float32]
    """(N, L), out of fold."""
    outcomes: NDArray[np.bool_]
    """(N, L)"""

    def held_out_probabilities(self) -> NDArray[np.float64]:
        """Return calibrated out-of-fold probabilities (N, L)."""
        columns = [p.probabilities(self.held_out_logits[:, i]) for i, p in enumerate(self.classifier.calibration)]
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """All windows of all rows as one sparse matrix."""

    matrix: Any
    """CSR (windows, B + D)."""
    owner: NDArray[np.int64]
    """Row of each window."""
    n_windows: NDArray[np.int64]
    """Windows of each row."""


def fit(
    examples: Sequence[Example],
    *,
    name: str,
    version: str,
    labels: Sequence[str],
    spec: FeatureSpec,
    settings: FitSettings,
    training: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Fit:
    """Fit a classifier: folds, calibration, thresholds, quantisation.

    Thresholds are set on rows with `sets_thresholds` that lack the label; a label without such rows gets none.

    Raises:
        ValueError: a label has no positive or no negative row, or there are fewer groups than folds.
    """
    say = progress or (lambda _: None)
    outcomes = np.array([[label in row.labels for label in labels] for row in examples], bool)
    for i, label in enumerate(labels):
        n = int(outcomes[:, i].sum())
        if not 0 < n < len(examples):
            raise ValueError(f"label {label!r}: {n} of {len(examples)} rows have it; both kinds are needed")
    rows = _extract([row.text for row in examples], spec)
    say(f"{name}: {len(examples)} rows, {rows.owner.size} windows")
    row_weights = np.array([row.weight for row in examples], np.float64)
    folds = assign_folds([row.group for row in examples], settings.n_folds, settings.seed)
    held_out = np.empty((len(examples), len(labels)), np.float32)
    for k in range(settings.n_folds):
        inside = folds != k
        fold = _quantised(*_solve(rows, outcomes, row_weights, inside, spec, settings))
        held_out[~inside] = _pooled(rows, *fold)[~inside]
        say(f"{name}: fold {k + 1} of {settings.n_folds}")
    calibration = tuple(
        calibrate(held_out[:, i], outcomes[:, i], row_weights, settings.class_balance) for i in range(len(labels))
    )
    ordinary = np.array([row.sets_thresholds for row in examples], bool)
    thresholds: dict[str, dict[str, float]] = {}
    for i, label in enumerate(labels):
        benign = calibration[i].probabilities(held_out[ordinary & ~outcomes[:, i], i])
        if benign.size:
            thresholds[label] = {point: threshold_at(benign, rate) for point, rate in OPERATING_POINTS.items()}
    weights, scales, dense, bias = _quantised(
        *_solve(rows, outcomes, row_weights, np.ones(len(examples), bool), spec, settings)
    )
    classifier = LinearClassifier(
        name=name,
        version=version,
        spec=spec,
        labels=tuple(labels),
        weights=weights,
        scales=scales,
        dense_weights=dense,
        bias=bias,
        calibration=calibration,
        thresholds=thresholds,
        training={
            "n_rows": len(examples),
            "rows_sha256": rows_digest(examples),
            "rows_by_source": _count(row.source for row in examples),
            "settings": {key: getattr(settings, key) for key in settings.__slots__},
            **(training or {}),
        },
    )
    return Fit(classifier, held_out, outcomes)


def rows_digest(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of all rows in order: texts, labels, weights, groups."""
    digest = hashlib.sha256()
    for row in examples:
        text = row.text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(text)} {sorted(row.labels)} {row.weight} {row.group}\n".encode())
        digest.update(text)
    return digest.hexdigest()


def assign_folds(groups: Sequence[str], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Return a fold for each row; a group lies in one fold, and folds are filled evenly, largest group first.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    sizes = _count(groups)
    if len(sizes) < n_folds:
        raise ValueError(f"{len(sizes)} groups cannot be spread over {n_folds} folds")
    keyed = {group: hashlib.sha256(f"{seed}:{group}".encode()).hexdigest() for group in sizes}
    load, fold_of = [0] * n_folds, dict[str, int]()
    for group in sorted(sizes, key=lambda g: (-sizes[g], keyed[g])):
        lightest = min(range(n_folds), key=load.__getitem__)
        fold_of[group] = lightest
        load[lightest] += sizes[group]
    return np.array([fold_of[group] for group in groups], np.int64)


def calibrate(
    logits: NDArray[Any], outcomes: NDArray[np.bool_], weights: NDArray[Any] | None = None, balance: float = 0.0
) -> Platt:
    """Fit Platt's slope and intercept; `balance` reweights the classes as the fit of the weights did."""
    from sklearn.linear_model import LogisticRegression

    weights = np.ones(len(outcomes)) if weights is None else weights
    weights = weights * _class_weights(outcomes, weights, balance)
    model = LogisticRegression(C=1e4).fit(
        logits.reshape(-1, 1).astype(np.float64), outcomes, sample_weight=weights
    )
    # Out-of-fold logits that rank worse than chance would give a negative slope; it becomes a flat positive one.
    return Platt(max(1e-3, float(model.coef_[0, 0])), float(model.intercept_[0]))


def threshold_at(benign: NDArray[Any], rate: float) -> float:
    """Return the least threshold that flags (value >= threshold) at most `rate` of the benign probabilities."""
    ordered = np.sort(benign)[::-1]
    n_allowed = int(np.floor(rate * len(ordered) + 1e-9))
    return float(min(1.0, np.nextafter(ordered[min(n_allowed, len(ordered) - 1)], 2.0)))


def _extract(texts: Sequence[str], spec: FeatureSpec) -> _Rows:
    from scipy.sparse import csr_matrix

    found: list[WindowFeatures] = []
    owner: list[int] = []
    for i, text in enumerate(texts):
        of_text = list(windows(text, spec))
        found += of_text
        owner += [i] * len(of_text)
    dense_columns = np.arange(len(DENSE)) + spec.n_buckets
    data = np.concatenate([np.concatenate([w.values, w.dense]) for w in found])
    columns = np.concatenate([np.concatenate([w.buckets, dense_columns]) for w in found])
    starts = np.cumsum([0, *(w.buckets.size + len(DENSE) for w in found)])
    shape = (len(found), spec.n_buckets + len(DENSE))
    owners = np.array(owner, np.int64)
    matrix = csr_matrix((data.astype(np.float32), columns.astype(np.int32), starts), shape=shape)
    return _Rows(matrix, owners, np.bincount(owners, minlength=len(texts)))


def _class_weights(outcome: NDArray[np.bool_], weights: NDArray[Any], balance: float) -> NDArray[np.float64]:
    total = [max(1e-9, float(weights[~outcome].sum())), max(1e-9, float(weights[outcome].sum()))]
    factor = [(sum(total) / (2 * of_class)) ** balance for of_class in total]
    return np.where(outcome, factor[1], factor[0])


def _solve(
    rows: _Rows,
    outcomes: NDArray[np.bool_],
    row_weights: NDArray[np.float64],
    inside: NDArray[np.bool_],
    spec: FeatureSpec,
    settings: FitSettings,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return float weights (B + D, L) and bias (L,), one logistic regression a label, on the rows `inside`."""
    from scipy.sparse import diags
    from sklearn.linear_model import LogisticRegression

    chosen = np.flatnonzero(inside[rows.owner])
    owner = rows.owner[chosen]
    matrix = rows.matrix[chosen]
    seen = np.bincount(matrix.indices, minlength=matrix.shape[1])
    columns = np.flatnonzero(seen)
    columns = columns[seen[columns] >= 2]  # a feature of one window tells nothing about others
    factors = np.log((1 + len(chosen)) / (1 + seen[columns])).astype(np.float32)
    factors[columns >= spec.n_buckets] = settings.dense_scale
    small: Any = matrix[:, columns] @ diags(factors)
    # All windows of a row together have the weight of the row.
    weights = np.asarray(row_weights[owner] / rows.n_windows[owner], np.float64)
    solved = np.zeros((matrix.shape[1], outcomes.shape[1]), np.float32)
    bias = np.zeros(outcomes.shape[1], np.float32)
    for i in range(outcomes.shape[1]):
        outcome = outcomes[owner, i]
        model = LogisticRegression(
            C=settings.regularisation_c, max_iter=settings.max_iterations, tol=1e-3, random_state=settings.seed
        )
        model.fit(small, outcome, sample_weight=weights * _class_weights(outcome, weights, settings.class_balance))
        solved[columns, i] = np.asarray(model.coef_, np.float32)[0] * factors
        bias[i] = np.asarray(model.intercept_)[0]
    return solved, bias


def _quantised(
    solved: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return int8 weights (B, L), scales (L,), dense weights (D, L) and bias (L,)."""
    sparse, dense = solved[: -len(DENSE)], solved[-len(DENSE) :]
    weights = np.zeros(sparse.shape, np.int8)
    scales = np.ones(sparse.shape[1], np.float32)
    for i in range(sparse.shape[1]):
        column = sparse[:, i]
        size = np.abs(column[column != 0])
        if not size.size:
            continue
        best = np.inf
        for share in CLIP_SHARES:
            scale = np.float32(max(float(np.quantile(size, share)) / 127, 1e-12))
            rounded = np.clip(np.rint(column / scale), -127, 127)
            error = float(np.square(rounded * scale - column).sum())
            if error < best:
                best, scales[i], weights[:, i] = error, scale, rounded.astype(np.int8)
    return weights, scales, np.ascontiguousarray(dense), bias


def _pooled(
    rows: _Rows,
    weights: NDArray[np.int8],
    scales: NDArray[np.float32],
    dense: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the largest logit of each row over its windows (N, L)."""
    stacked = np.concatenate([weights.astype(np.float32) * scales, dense])
    logits = np.asarray(rows.matrix @ stacked, np.float32) + bias
    pooled = np.full((rows.n_windows.size, bias.size), -np.inf, np.float32)
    np.maximum.at(pooled, rows.owner, logits)
    return pooled


def _count(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))
