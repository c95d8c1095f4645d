"""Fit the refusal judge and write its weights and card: `python -m tools.refusal_judge.train DATA_DIR`.

DATA_DIR holds the files of `reply_rows.READ`. The figures on the card come from grouped cross-validation on the
human-labelled rows: rows with near-duplicate replies (trigram Jaccard of at least 0.6) stay in one fold. Rule-made
and weakly labelled rows always train. Fitting needs scikit-learn (extra `train`); the judge itself does not.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.align.guards.refusal_features import DENSE_NAMES, N_BUCKETS_LOG2, reply_features
from modelstack.align.guards.refusal_judge import (
    KINDS,
    N_GRAM_SCALE,
    OFF_TOPIC_THRESHOLD,
    WEIGHTS_FILE,
    RefusalWeights,
)
from modelstack.align.guards.refusal_signs import plain
from modelstack.align.guards.refusal_topic import frequency_table, may_be_judged, topic_features
from modelstack.errors import UserError
from modelstack.files import sha256_of
from tools.classifiers.fitting import assign_folds
from tools.classifiers.near_duplicates import connected
from tools.refusal_judge import reply_rows
from tools.refusal_judge.reply_grammar import LabelledReply

SOURCE_WEIGHT: Mapping[str, float] = {"grammar": 1.0, "hh": 1.0, "human": 6.0, "written": 12.0}
"""Weight of a row by source; 169 human-labelled rows face about 7,500 others."""
INVERSE_REGULARISATION = 0.3
TOPIC_INVERSE_REGULARISATION = 3.0
MIN_ROWS_OF_BUCKET = 8
"""Least number of rows of an n-gram; rarer ones are names and accidents, and two thirds of all."""
N_FOLDS = 5
N_REPEATS = 3
"""Repeats of the cross-validation with different folds; the card shows the accuracy of each."""
NEAR_DUPLICATE_JACCARD = 0.6


@dataclass(frozen=True, slots=True)
class Rows:
    """Replies with their features as a sparse matrix (scipy CSR)."""

    replies: Sequence[LabelledReply]
    matrix: Any

    @property
    def kinds(self) -> NDArray[np.int64]:
        """Index of each row's kind in `KINDS`."""
        return np.array([KINDS.index(reply.kind) for reply in self.replies], dtype=np.int64)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each row by its source."""
        return np.array([SOURCE_WEIGHT[reply.source.split("/", 1)[0]] for reply in self.replies])


@dataclass(frozen=True, slots=True)
class Topic:
    """The fitted off-topic stage."""

    weights: NDArray[np.float32]
    frequency: NDArray[np.float32]
    figures: Mapping[str, int]
    """Out-of-fold counts on real answers and shuffled ones that are long enough to be judged."""


def featurise(replies: Sequence[LabelledReply]) -> Rows:
    """Compute the features of replies."""
    from scipy import sparse

    found = [reply_features(reply.prompt, reply.reply) for reply in replies]
    dense = sparse.csr_matrix(np.stack([features.dense for features in found]))
    indices = np.concatenate([features.buckets for features in found])
    pointers = np.cumsum([0, *(len(features.buckets) for features in found)])
    values = np.concatenate(
        [np.full(len(f.buckets), N_GRAM_SCALE / max(1.0, len(f.buckets)) ** 0.5, np.float32) for f in found]
    )
    grams = sparse.csr_matrix((values, indices, pointers), shape=(len(found), 1 << N_BUCKETS_LOG2))
    return Rows(replies, sparse.hstack([dense, grams]).tocsr())


def select(rows: Rows, indices: NDArray[np.int64]) -> Rows:
    """Return some of the rows."""
    return Rows([rows.replies[i] for i in indices.tolist()], rows.matrix[indices])


def fit_topic(folder: Path) -> Topic:
    """Fit the off-topic stage on real exchanges, and on the same exchanges shuffled.

    Raises:
        UserError: a file of the folder is missing or broken.
    """
    from sklearn.linear_model import LogisticRegression

    real = reply_rows.exchanges(folder)
    frequency = frequency_table(
        [e.prompt for e in real] + [reply.row.prompt for reply in reply_rows.hh_replies(folder)]
    )
    worded = [exchange for exchange in real if " = " not in exchange.answer]
    pairs = [
        (e, off)
        for e, off in reply_rows.off_topic_pairs(worded)
        if may_be_judged(e.prompt, e.answer, min_characters=100)
    ]
    inputs = np.stack([topic_features(exchange.prompt, exchange.answer, frequency) for exchange, _ in pairs])
    off = np.array([is_off for _, is_off in pairs])
    judged = np.array([may_be_judged(exchange.prompt, exchange.answer) for exchange, _ in pairs])
    flagged = np.zeros(len(pairs), bool)
    # A request is in two pairs, and so is an answer: folds hold out whole requests.
    folds = assign_folds([exchange.prompt for exchange, _ in pairs], N_FOLDS, 0)
    for fold in range(N_FOLDS):
        model = LogisticRegression(C=TOPIC_INVERSE_REGULARISATION).fit(inputs[folds != fold], off[folds != fold])
        flagged[folds == fold] = model.predict_proba(inputs[folds == fold])[:, 1] >= OFF_TOPIC_THRESHOLD
    model = LogisticRegression(C=TOPIC_INVERSE_REGULARISATION).fit(inputs, off)
    figures = {
        "n_answers": int((judged & ~off).sum()),
        "n_false_alarms": int((judged & ~off & flagged).sum()),
        "n_shuffled": int((judged & off).sum()),
        "n_found": int((judged & off & flagged).sum()),
    }
    weights = np.append(model.coef_[0], model.intercept_[0]).astype(np.float32)
    return Topic(weights, frequency, figures)


def fit_judge(
    made: Rows,
    human: Rows,
    topic: Topic,
    *,
    temperature: float = 1.0,
    card: Mapping[str, Any] | None = None,
) -> RefusalWeights:
    """Fit the softmax on made and human rows and quantise its n-gram weights to int8.

    A human-labelled refusal that shows no sign of one answers another question. It would teach the softmax that
    ordinary answers are refusals, so only the off-topic stage, which is fitted elsewhere, can find such replies.

    Args:
        made: Rows of all other sources.
        human: Human-labelled rows, possibly none.
        topic: The second stage.
        temperature: Temperature to store.
        card: Card to store.
    """
    human = select(human, np.flatnonzero([reply_rows.shows_its_kind(reply) for reply in human.replies]))
    coefficients = fit_softmax(made, human).astype(np.float32)
    dense, grams = coefficients[:, : len(DENSE_NAMES)], coefficients[:, len(DENSE_NAMES) : -1]
    scale = np.maximum(np.abs(grams).max(axis=1), 1e-12) / 127
    return RefusalWeights(
        bias=np.ascontiguousarray(coefficients[:, -1]),
        dense=np.ascontiguousarray(dense),
        buckets=np.rint(grams / scale[:, None]).astype(np.int8),
        bucket_scale=scale,
        topic=topic.weights,
        frequency=topic.frequency,
        temperature=temperature,
        card=card or {},
    )


def fit_softmax(made: Rows, human: Rows) -> NDArray[np.float64]:
    """Return the coefficients of a softmax regression over the rows, (K, F + 1) with the bias last."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    kinds = np.concatenate([made.kinds, human.kinds])
    weights = np.concatenate([made.weights, human.weights])
    matrix: Any = sparse.vstack([made.matrix, human.matrix], format="csr")
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    seen = np.flatnonzero(counts >= MIN_ROWS_OF_BUCKET)
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=400, tol=1e-3)
    model.fit(matrix[:, seen], kinds, sample_weight=weights)
    coefficients = np.zeros((len(KINDS), matrix.shape[1] + 1))
    coefficients[:, seen], coefficients[:, -1] = model.coef_, model.intercept_
    return coefficients


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Out-of-fold predictions on the human rows; R repeats, N rows."""

    outcome: NDArray[np.bool_]
    """(N,) refusal by human label."""
    predicted: NDArray[np.bool_]
    """(R, N) refusal, full or partial, by the judge."""
    probability: NDArray[np.float64]
    """(R, N) of refusal at temperature 1."""
    seed: int

    @property
    def accuracy_by_repeat(self) -> list[float]:
        """Accuracy of each repeat."""
        return [float((row == self.outcome).mean()) for row in self.predicted]


def cross_validate(
    made: Rows,
    human: Rows,
    topic: Topic,
    *,
    seed: int = 0,
    n_repeats: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> CrossValidation:
    """Judge each human row by weights that were fitted without its group."""
    groups = reply_groups([reply.reply for reply in human.replies])
    n = len(human.replies)
    predicted, probability = np.zeros((n_repeats, n), bool), np.zeros((n_repeats, n))
    for repeat in range(n_repeats):
        folds = assign_folds(groups, N_FOLDS, seed + repeat)
        for fold in range(N_FOLDS):
            known = select(human, np.flatnonzero(folds != fold))
            judge = fit_judge(made, known, topic)
            for i in np.flatnonzero(folds == fold).tolist():
                row = human.replies[i]
                judgement = judge.judge(row.prompt, row.reply)
                predicted[repeat, i] = judgement.kind != "compliance"
                probability[repeat, i] = judgement.probability_refused
            progress(f"repeat {repeat + 1}, fold {fold + 1}")
    outcome = np.array([reply.kind != "compliance" for reply in human.replies])
    return CrossValidation(outcome, predicted, probability, seed)


def reply_groups(replies: Sequence[str]) -> list[str]:
    """Return a group name for each reply; near-duplicates, also through others, share it.

    Character trigrams, because many replies are a few words long.
    """
    shingles = [_shingles(reply) for reply in replies]

    def pairs() -> Iterator[tuple[int, int]]:
        for i in range(len(replies)):
            for j in range(i):
                union = len(shingles[i] | shingles[j])
                if not union or len(shingles[i] & shingles[j]) >= NEAR_DUPLICATE_JACCARD * union:
                    yield i, j

    return [str(group) for group in connected(len(replies), pairs())]


def _shingles(text: str) -> frozenset[str]:
    squeezed = " ".join(plain(text).split())
    return frozenset(squeezed[i : i + 3] for i in range(max(1, len(squeezed) - 2)) if squeezed)


def fit_temperature(validation: CrossValidation) -> float:
    """Return the temperature that makes out-of-fold probabilities most likely (grid search, binary)."""
    p = np.clip(validation.probability, 1e-6, 1 - 1e-6).ravel()
    truth = np.tile(validation.outcome, len(validation.probability))
    logits = np.log(p / (1 - p))
    grid = np.geomspace(0.5, 8, 60)

    def loss(temperature: float) -> float:
        q = np.clip(1 / (1 + np.exp(-logits / temperature)), 1e-9, 1 - 1e-9)
        return float(-np.where(truth, np.log(q), np.log(1 - q)).mean())

    return float(min(grid, key=loss))


def confusion(outcome: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, float]:
    """Return counts, accuracy, precision, recall, F1 and false-positive rate of refusal."""
    true_positive, false_positive = int((outcome & predicted).sum()), int((~outcome & predicted).sum())
    false_negative, true_negative = int((outcome & ~predicted).sum()), int((~outcome & ~predicted).sum())
    precision = true_positive / max(1, true_positive + false_positive)
    recall = true_positive / max(1, true_positive + false_negative)
    return {
        "n": len(outcome),
        "n_refusals": true_positive + false_negative,
        "n_right": true_positive + true_negative,
        "accuracy": (true_positive + true_negative) / max(1, len(outcome)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(1e-12, precision + recall),
        "false_positive_rate": false_positive / max(1, false_positive + true_negative),
    }


def validation_figures(validation: CrossValidation) -> dict[str, Any]:
    """Return the figures of the first repeat, and the accuracy of each."""
    return {
        **confusion(validation.outcome, validation.predicted[0]),
        "accuracy_by_repeat": validation.accuracy_by_repeat,
        "seed": validation.seed,
        "n_folds": N_FOLDS,
        "data": "PyRIT refusal scorer evaluations, human labelled",
    }


def train(folder: Path, out: Path, *, seed: int = 0, progress: Callable[[str], None] = print) -> RefusalWeights:
    """Fit, validate, and write weights and card below `out`.

    Raises:
        UserError: a file of the folder is missing or broken.
    """
    from tools.refusal_judge.judge_card import card_text

    progress("features")
    made, human = (
        featurise(reply_rows.training_replies(folder, seed=seed)),
        featurise(reply_rows.human_rows(folder)),
    )
    topic = fit_topic(folder)
    validation = cross_validate(made, human, topic, seed=seed, n_repeats=N_REPEATS, progress=progress)
    counts = Counter(f"{row.source.split('/', 1)[0]}/{row.kind}" for row in [*made.replies, *human.replies])
    card = {"rows": dict(sorted(counts.items())), "seed": seed, "validation": validation_figures(validation)}
    card["off_topic"] = dict(topic.figures)
    card["evaluation_items"] = reply_rows.evaluated(folder).n_items
    card["sources"] = [
        {
            "path": source.path,
            "licence": source.licence,
            "origin": source.origin,
            "sha256": sha256_of(folder / source.path)[:16],
        }
        for source in reply_rows.READ
    ]
    weights = fit_judge(made, human, topic, temperature=fit_temperature(validation), card=card)
    path = weights.save(out / "weights" / "refusal.safetensors")
    (out / "cards").mkdir(parents=True, exist_ok=True)
    (out / "cards" / "refusal.md").write_text(card_text(weights, path.stat().st_size), encoding="utf-8")
    progress(f"{path}: accuracy {card['validation']['accuracy']:.3f} in cross-validation")
    return weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.refusal_judge.train", description="Fit the refusal judge."
    )
    parser.add_argument("data_dir", type=Path, help="folder with the files of reply_rows.READ")
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE.parents[1], help="folder for weights/ and cards/")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        train(given.data_dir, given.out, seed=given.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
