"""Validate the refusal judge on data that does not ship: `python -m tools.refusal_judge.validate DATA_DIR`.

Two checks beside the tables of `evals.refusals.judge_validation`:

- Human labels (PyRIT's scorer evaluations): grouped cross-validation, fitted anew, beside two baselines on the
  same rows, the match of refusal prefixes and n-grams of the reply fitted on the same human rows alone. 33 replies
  come twice, below two prompts and with opposite labels, 31 of them through the second file. n-grams cannot tell
  such twins apart, so they are shown on the first file as well.
- Real answers of people and assistants (Dolly and HH as MosaicML packed them, CC BY-SA and therefore only read):
  how often the shipped weights take one for a refusal, and how many answers to another request they find.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evals.cli import print_tables
from evals.harness.suite import Table
from evals.refusals.judge_validation import CLASS_COLUMNS, class_row, refuses_by_prefix, shipped_tables
from evals.statistics import brier, expected_calibration_error, wilson
from modelstack.align.guards.refusal_features import HEAD_CHARACTERS
from modelstack.align.guards.refusal_judge import RefusalWeights, shipped_judge
from modelstack.align.guards.refusal_topic import may_be_judged
from modelstack.errors import UserError
from tools.classifiers.data_files import read_records
from tools.classifiers.fitting import assign_folds
from tools.refusal_judge import reply_rows, train
from tools.refusal_judge.reply_grammar import Exchange
from tools.refusal_judge.reply_rows import off_topic_pairs
from tools.refusal_judge.train import Rows

REAL_ANSWERS_FILE = "evals/benign_train/dolly_hhrlhf_small.jsonl"


def human_tables(folder: Path, *, seed: int, n_repeats: int) -> list[Table]:
    """Fit and judge the human-labelled rows fold by fold, beside the baselines.

    Raises:
        UserError: a file of the folder is missing or broken.
    """
    human = train.featurise(reply_rows.human_rows(folder))
    made = train.featurise(reply_rows.training_replies(folder, seed=seed))
    topic = train.fit_topic(folder)
    validation = train.cross_validate(made, human, topic, seed=seed, n_repeats=n_repeats)
    outcome = [bool(x) for x in validation.outcome]
    judged = [bool(x) for x in validation.predicted[0]]
    groups = train.reply_groups([row.reply for row in human.replies])
    first = [i for i, row in enumerate(human.replies) if row.source == human.replies[0].source]
    first_rows = train.select(human, np.array(first))
    first_truth, first_groups = [outcome[i] for i in first], [groups[i] for i in first]
    singles = [str(i) for i in first]
    in_words = [reply_rows.shows_its_kind(row) for row in human.replies]
    rows = [
        class_row("the judge", outcome, judged),
        class_row("string match", outcome, [refuses_by_prefix(row.reply) for row in human.replies]),
        class_row("n-grams of the human rows alone", outcome, n_grams_alone(human, groups, seed=seed)),
    ]
    parts = [
        class_row(name, [outcome[i] for i in part], [judged[i] for i in part])
        for name, part in (
            ("refusals in words, and answers", [i for i, said in enumerate(in_words) if said]),
            ("answers to another question", [i for i, said in enumerate(in_words) if not said]),
            ("first file", first),
        )
    ]
    parts += [
        class_row("... n-grams of it alone", first_truth, n_grams_alone(first_rows, first_groups, seed=seed)),
        class_row(
            "... near-duplicates not kept together", first_truth, n_grams_alone(first_rows, singles, seed=seed)
        ),
    ]
    p = [float(x) for x in validation.probability[0]]
    repeats = ", ".join(f"{value:.3f}" for value in validation.accuracy_by_repeat)
    return [
        Table(
            f"Refusal (full or partial) on {len(outcome)} human-labelled rows; {train.N_FOLDS}-fold "
            f"cross-validation grouped by near-duplicates, seed {seed}; accuracy by repeat: {repeats}",
            CLASS_COLUMNS,
            tuple(rows),
        ),
        Table(
            "The judge on parts of these rows, beside n-grams of the first of two files",
            CLASS_COLUMNS,
            tuple(parts),
        ),
        Table(
            "Its first stage's probability on these rows, before the temperature",
            ("n", "ECE", "Brier"),
            (
                (
                    str(len(p)),
                    f"{expected_calibration_error(p, outcome, n_bins=10):.3f}",
                    f"{brier(p, outcome):.3f}",
                ),
            ),
        ),
    ]


def real_answers_table(judge: RefusalWeights, folder: Path) -> Table:
    """Return how often real answers of an unfitted set, and answers to another request, are called refused.

    Raises: UserError: the file is missing or broken.
    """
    rows: list[tuple[str, ...]] = []
    pairs = off_topic_pairs(real_answers(folder))
    judged = [judge.judge(pair.prompt, pair.answer) for pair, _ in pairs]
    long_enough = [may_be_judged(pair.prompt, pair.answer) for pair, _ in pairs]
    for name, is_off, only_long in (
        ("real answers", False, False),
        ("real answers long enough for the off-topic stage", False, True),
        ("answers to another request, long enough", True, True),
    ):
        found = [
            said.kind != "compliance"
            for said, (_, off), long in zip(judged, pairs, long_enough, strict=True)
            if off is is_off and (long or not only_long)
        ]
        rows.append((name, str(len(found)), str(wilson(sum(found), len(found)))))
    title = (
        "The shipped judge on real answers (Dolly and HH) that it was not fitted on; the threshold was set on them"
    )
    return Table(title, ("answers", "n", "called refused"), tuple(rows))


def real_answers(folder: Path) -> list[Exchange]:
    """Return requests of Dolly and HH with their answers (share-alike, so nothing shipped is fitted on them).

    Raises:
        UserError: the file is missing or broken.
    """
    return [
        Exchange(
            row["prompt"].split("### Instruction:\n", 1)[-1].split("\n\n### Response:", 1)[0].strip(),
            row["response"].strip(),
        )
        for row in read_records(folder / REAL_ANSWERS_FILE)
    ]


def n_grams_alone(human: Rows, groups: Sequence[str], *, seed: int) -> list[bool]:
    """Return the decisions of word n-grams that were fitted on the human rows of the other folds alone.

    Args:
        human: Human-labelled rows.
        groups: Name of each row's group; a group stays in one fold.
        seed: Seed of the folds.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [row.reply[:HEAD_CHARACTERS] for row in human.replies]
    outcome = [row.kind != "compliance" for row in human.replies]
    folds = assign_folds(groups, train.N_FOLDS, seed)
    predicted = [False] * len(texts)
    for fold in range(train.N_FOLDS):
        known = [i for i in range(len(texts)) if folds[i] != fold]
        asked = [i for i in range(len(texts)) if folds[i] == fold]
        vectors = TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True)
        model = LogisticRegression(C=10, max_iter=500).fit(
            vectors.fit_transform([texts[i] for i in known]), [outcome[i] for i in known]
        )
        for i, said in zip(asked, model.predict(vectors.transform([texts[i] for i in asked])), strict=True):
            predicted[i] = bool(said)
    return predicted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.refusal_judge.validate", description="Validate the refusal judge."
    )
    parser.add_argument("data_dir", type=Path, help="folder with the files of reply_rows.READ")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1, help="repeats of the cross-validation")
    given = parser.parse_args(arguments)
    try:
        tables = [
            *human_tables(given.data_dir, seed=given.seed, n_repeats=given.repeats),
            real_answers_table(shipped_judge(), given.data_dir),
            *shipped_tables(),
        ]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for table in tables:
        print_tables(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
