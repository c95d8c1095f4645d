"""Measure a guard model, set its operating points, and write its card.

    python -m tools.guard_model.evaluate DATA_DIR --guard runs/guard --out runs/guard-figures
    python -m tools.guard_model.evaluate DATA_DIR --guard runs/guard --ship modelstack/align/guard_model/weights

Thresholds are set on ordinary requests that are neither in the training nor in the measured sets. Development sets
were seen while rows were written, held-out pairs were not trained on, and files of `--held-out` (JSON lines with
`text` and `label`) are measured only. Log-odds are kept in `--out` by text, so that an interrupted run continues.
Requests are also judged by the sum with the linear classifier, and by the monitor if `--monitor` names the file of
log-odds that `tools.guard_model.monitor` wrote.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from evals.cli import print_tables
from evals.harness.suite import Table
from evals.statistics import area_under_roc, wilson
from modelstack.align.guard_model.guard import WINDOW_CHARACTERS, GuardModel
from modelstack.align.guard_model.policy import MLCOMMONS
from modelstack.align.guard_model.prompt import INSTRUCTIONS_FIRST, GuardTurn
from modelstack.align.guard_model.shipped import (
    ADAPTER_FILE,
    POINTS_FILE,
    OperatingPoints,
    WithClassifier,
    log_odds,
)
from modelstack.align.guard_model.tokens import PromptTokens
from modelstack.align.guard_model.verdict_grammar import VerdictTree
from modelstack.align.guard_training.measured import threshold_at
from modelstack.align.guard_training.rows import GuardRow, Turn, read_rows
from modelstack.align.guard_training.run import score, tokenised
from modelstack.align.guards.assess import assess_request
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.posttrain.base_hash import base_sha256
from modelstack.posttrain.starting_point import starting_point
from modelstack.posttrain.weights_by_name import weights_path
from modelstack.reasoning.sampling.frozen_model import load_merged
from modelstack.terminal.progress_bars import Tell, progress_bars
from modelstack.train.process import set_up_process
from tools.classifiers.data_files import read_records
from tools.classifiers.evaluation.text_sets import TextSet, request_sets
from tools.classifiers.request_rows import MADE_BY_RULE, request_rows
from tools.guard_model.rows import NOT_ORDINARY

SCREEN = "fpr_5"
"""Operating point of the linear classifier in front of the guard."""
CLASSIFIER_WEIGHT = 0.5
"""Weight of the linear classifier in the sum; .25, .5 and 1 were compared on the development sets."""
POINTS = {"fpr_0.1": 0.001, "fpr_1": 0.01, "fpr_5": 0.05}
N_ORDINARY, N_OF_SET = 1200, 400
N_SERVED = 60
"""Messages that are judged by llama.cpp, too."""
KEPT_EVERY, N_OF_CATEGORY = 200, 8
CARD_FILE, STAGE_FILE, CURVES_FILE = "README.md", "stage.json", "curves.png"
LIMITS = (
    "## Limits",
    "",
    "- English mostly; one pair in seven of the near-boundary rows is in another language.",
    "- No rows of S4 (child sexual exploitation): such texts are not kept. Use a hash-matching service for it.",
    "- One layer of several. It reads text, not intent: a patient attacker finds words that it lets through.",
    "- Replies were trained on the answers of one public set (HH), and are judged less well than requests.",
)


class Judge:
    """A guard on torch, which judges more messages a second than llama.cpp; keeps what it said in a file."""

    def __init__(self, stage: Path, file: Path) -> None:
        """Load a stage; `file` keeps log-odds for a later run.

        Raises:
            UserError: The stage or its base is missing.
        """
        base = load_merged(starting_point(stage), precision="bf16", device="cpu")
        self._model = base.model
        self._prompts = PromptTokens(base.encoder, INSTRUCTIONS_FIRST)
        tree = VerdictTree(base.tokenizer.vocabulary, MLCOMMONS, INSTRUCTIONS_FIRST)
        self._verdicts = (tree.safe_id, tree.unsafe_id)
        self._file = file
        self._kept: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def log_odds(self, name: str, texts: Sequence[str], tell: Tell) -> NDArray[np.float64]:
        """Return the log-odds of some requests; `name` is that of their set, for the progress."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        for start in range(0, len(missing), KEPT_EVERY):
            several = missing[start : start + KEPT_EVERY]
            self._kept |= zip(several, self.scored(several).tolist(), strict=True)
            with replacing(self._file) as temporary:
                temporary.write_text(json.dumps(self._kept, ensure_ascii=False), encoding="utf-8")
            tell(name, start + len(several), len(missing))
        return np.array([self._kept[text] for text in texts])

    def scored(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-odds of some requests; the first window of a long one is read."""
        rows = [
            GuardRow(
                id=str(number),
                turns=(Turn(role="user", content=text[:WINDOW_CHARACTERS]),),
                unsafe=False,
                source="",
                license="",
            )
            for number, text in enumerate(texts)
        ]
        tokens, _ = tokenised({"texts": rows}, self._prompts, 4096)
        return score(self._model, tokens, self._prompts, self._verdicts)


def ordinary_texts(data_dir: Path, trained: frozenset[str], seed: int) -> list[str]:
    """Return requests of people that the guard was not trained on; those made by rule set no thresholds."""
    left_out = NOT_ORDINARY | MADE_BY_RULE
    rows = [row for row in request_rows(data_dir, seed) if not row.labels and row.source not in left_out]
    unseen = [row.text for row in rows if row.text not in trained]
    return random.Random(seed).sample(unseen, min(N_ORDINARY, len(unseen)))


def measured_sets(data_dir: Path, held_out: Sequence[Path], rows: Path, seed: int) -> list[TextSet]:
    """Return the development sets, the held-out pairs, and the files that are measured only.

    Raises:
        UserError: A file is missing or broken.
    """
    draw = random.Random(seed)
    sets = [
        TextSet(each.name, tuple(draw.sample(each.texts, min(N_OF_SET, len(each.texts)))), each.flagged, each.kind)
        for each in request_sets(data_dir, seed)
    ]
    pairs = [row for row in read_rows(rows) if row.source == "near_boundary"]
    for unsafe, name in ((True, "held-back pairs, harmful twin"), (False, "held-back pairs, safe twin")):
        texts = tuple(row.turns[-1].content for row in pairs if row.unsafe == unsafe)
        sets.append(TextSet(name, texts, unsafe, "held out"))
    for file in held_out:
        records = list(read_records(file))
        for flagged, label in ((True, "harmful"), (False, "benign")):
            texts = tuple(dict.fromkeys(str(r["text"]) for r in records if r["label"] == label))
            sets.append(TextSet(f"{file.stem}, {label}", texts, flagged, "measured only"))
    return sets


def flag_table(
    title: str, sets: Sequence[TextSet], odds: Mapping[str, NDArray[np.float64]], thresholds: Mapping[str, float]
) -> Table:
    """Return the share of each set that is flagged at each operating point."""
    rows: list[tuple[str, ...]] = []
    for each in sorted(sets, key=lambda each: not each.flagged):
        found = odds[each.name]
        shares = [str(wilson(int((found >= thresholds[name]).sum()), len(found))) for name in POINTS]
        rows.append((each.name, each.kind, each.want, str(len(found)), *shares))
    return Table(title, ("set", "kind", "want", "n", *POINTS), tuple(rows))


def classifier_odds(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the log-odds of the linear classifier."""
    return np.array([log_odds(assess_request(text).probability) for text in texts])


def cascade_table(
    sets: Sequence[TextSet],
    odds: Mapping[str, NDArray[np.float64]],
    points: OperatingPoints,
    monitor: Mapping[str, float] | None,
    ordinary: Sequence[str],
) -> Table:
    """Return what each stage flags alone, the sum of classifier and guard, and the sum behind the classifier.

    `monitor` holds its log-odds by text; its threshold is set on the same ordinary texts.
    """
    assert points.with_classifier is not None
    least = points.with_classifier.thresholds
    rows: list[tuple[str, ...]] = []
    for each in sorted(sets, key=lambda each: not each.flagged):
        screened = np.array([SCREEN in assess_request(text).flagged_at for text in each.texts], bool)
        judged = odds[each.name] >= points.thresholds["fpr_1"]
        summed = odds[each.name] + CLASSIFIER_WEIGHT * classifier_odds(each.texts) >= least["fpr_1"]
        found = [screened, judged, summed, screened & summed]
        if monitor is not None:
            at_1 = threshold_at(np.array([monitor[text] for text in ordinary]), POINTS["fpr_1"])
            found.insert(1, np.array([monitor[text] >= at_1 for text in each.texts], bool))
        shares = [str(wilson(int(several.sum()), len(several))) for several in found]
        rows.append((each.name, each.want, str(len(judged)), *shares))
    stages = [f"classifier at {SCREEN}", "guard", "classifier + guard", "sum behind the classifier"]
    if monitor is not None:
        stages.insert(1, "monitor")
    return Table("Cascade, at fpr_1", ("set", "want", "n", *stages), tuple(rows))


def pair_table(title: str, sets: Sequence[TextSet], odds: Mapping[str, NDArray[np.float64]]) -> Table:
    """Return the area under the curve, and F1 at even odds, of sets with both labels ("NAME, ...")."""
    rows: list[tuple[str, ...]] = []
    by_name: dict[str, dict[bool, list[float]]] = {}
    for each in sets:
        found = by_name.setdefault(each.name.rpartition(",")[0], {True: [], False: []})
        found[each.flagged] += odds[each.name].tolist()
    for name, found in sorted(by_name.items()):
        harmful, safe = found[True], found[False]
        if name and harmful and safe:
            caught, flagged = (sum(each > 0 for each in several) for several in (harmful, safe))
            f1 = 2 * caught / (len(harmful) + caught + flagged)
            shares = (str(wilson(n, len(of))) for n, of in ((caught, harmful), (flagged, safe)))
            area = area_under_roc(harmful, safe)
            rows.append((name, f"{len(harmful)} + {len(safe)}", f"{area:.3f}", f"{f1:.3f}", *shares))
    columns = ("set", "n", "AUC", "F1 at even odds", "harmful flagged", "safe flagged")
    return Table(title, columns, tuple(rows))


def policy_table(engine: LlamaCppEngine, rows: Path, seed: int, tell: Tell) -> Table:
    """Return how held-back harmful requests are judged without their category, and without another one.

    The engine is that which serves the guard: the share of allowed categories is computed there.
    """
    draw = random.Random(seed)
    flagged = dict.fromkeys(("whole policy", "without its category", "without another category"), 0)
    by_category: dict[str, list[str]] = {}
    for row in read_rows(rows):
        if row.source == "near_boundary" and row.unsafe:
            by_category.setdefault(row.categories[0], []).append(row.turns[-1].content)
    by_category = {own: texts[:N_OF_CATEGORY] for own, texts in by_category.items()}
    for number, (own, texts) in enumerate(sorted(by_category.items()), 1):
        other = draw.choice([code for code in MLCOMMONS.codes if code != own])
        policies = (MLCOMMONS, MLCOMMONS.without(own), MLCOMMONS.without(other))
        for name, policy in zip(flagged, policies, strict=True):
            guard = GuardModel(engine, policy)
            verdicts = [guard.judge([GuardTurn("user", text)]) for text in texts]
            flagged[name] += sum(verdict is not None and verdict.probability > 0.5 for verdict in verdicts)
        tell("policies", number, len(by_category))
    n = sum(map(len, by_category.values()))
    shares = tuple((name, str(wilson(found, n))) for name, found in flagged.items())
    return Table("Harmful requests flagged at even odds, by policy", ("policy", "flagged"), shares)


def served_tables(judge: Judge, engine: LlamaCppEngine, texts: Sequence[str]) -> list[Table]:
    """Return how far the log-odds of llama.cpp are from those of torch, and what a request costs each stage."""
    guard = GuardModel(engine)
    guard.judge([GuardTurn("user", texts[0])])  # the policy is in the cache now
    started = time.perf_counter()
    verdicts = [guard.judge([GuardTurn("user", text)]) for text in texts]
    guarded = time.perf_counter()
    classifier_odds(texts)
    classified = time.perf_counter()
    served = np.array([log_odds(each.probability) for each in verdicts if each is not None])
    differences = np.abs(served - judge.scored(texts))
    cells = (str(len(texts)), f"{differences.mean():.3f}", f"{differences.max():.3f}", f"{np.std(served):.2f}")
    columns = ("messages", "mean difference", "largest difference", "deviation of the log-odds")
    costs = [
        (name, f"{1000 * (end - start) / len(texts):.1f}")
        for name, start, end in (("classifier", guarded, classified), ("guard", started, guarded))
    ]
    return [
        Table("llama.cpp beside torch", columns, (cells,)),
        Table("Cost of a request", ("stage", "milliseconds, mean"), tuple(costs)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; with --ship also write a folder of the package; return 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--guard", type=Path, required=True, help="stage of `modelstack guard`")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--rows", type=Path, default=Path("guard-rows"), help="folder of tools.guard_model.rows")
    parser.add_argument("--held-out", type=Path, action="append", default=[], help="file that is measured only")
    parser.add_argument("--monitor", type=Path, help="log-odds of tools.guard_model.monitor, by text")
    parser.add_argument("--out", type=Path, default=Path("eval-logs/guard"))
    parser.add_argument("--ship", type=Path, help="folder of the package's guards")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    set_up_process(options.threads)
    try:
        judge = Judge(options.guard, options.out / "log_odds.json")
        with progress_bars(Console(stderr=True)) as tell:
            trained = frozenset(row.turns[-1].content for row in read_rows(options.rows / "training.jsonl"))
            texts = ordinary_texts(options.data_dir, trained, options.seed)
            ordinary = judge.log_odds("ordinary", texts, tell)
            summed = ordinary + CLASSIFIER_WEIGHT * classifier_odds(texts)
            points = OperatingPoints(
                base_sha256=base_sha256(weights_path(options.model)),
                thresholds={name: threshold_at(ordinary, share) for name, share in POINTS.items()},
                n_ordinary=len(ordinary),
                with_classifier=WithClassifier(
                    weight=CLASSIFIER_WEIGHT,
                    thresholds={name: threshold_at(summed, share) for name, share in POINTS.items()},
                ),
            )
            held_back = options.rows / "validation.jsonl"
            sets = measured_sets(options.data_dir, options.held_out, held_back, options.seed)
            odds = {each.name: judge.log_odds(each.name, each.texts, tell) for each in sets}
            with_classifier = {
                each.name: odds[each.name] + CLASSIFIER_WEIGHT * classifier_odds(each.texts) for each in sets
            }
            assert points.with_classifier is not None
            monitor = None if options.monitor is None else json.loads(options.monitor.read_text("utf-8"))
            with LlamaCppEngine(
                weights_path(options.model),
                lora_path=options.guard / ADAPTER_FILE,
                n_cells=2048,
                n_threads=options.threads,
                n_threads_prefill=options.threads,
            ) as engine:
                tables = [
                    flag_table("Share flagged by the guard", sets, odds, points.thresholds),
                    flag_table(
                        "Share flagged with the classifier",
                        sets,
                        with_classifier,
                        points.with_classifier.thresholds,
                    ),
                    cascade_table(sets, odds, points, monitor, texts),
                    pair_table("Both labels, guard, at even odds", sets, odds),
                    pair_table("Both labels, with the classifier, at even odds", sets, with_classifier),
                    policy_table(engine, held_back, options.seed, tell),
                    *served_tables(judge, engine, texts[:N_SERVED]),
                ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for table in tables:
        print_tables(table)
    (options.out / "results.json").write_text(json.dumps([asdict(table) for table in tables], indent=1), "utf-8")
    if options.ship is not None:
        folder = options.ship / options.model
        folder.mkdir(parents=True, exist_ok=True)
        for name in (ADAPTER_FILE, STAGE_FILE, CURVES_FILE):
            shutil.copyfile(options.guard / name, folder / name)
        (folder / POINTS_FILE).write_text(points.model_dump_json(indent=1) + "\n", "utf-8")
        (folder / CARD_FILE).write_text(card(options.guard, points, tables), "utf-8")
        print(folder)
    return 0


def card(stage: Path, points: OperatingPoints, tables: Sequence[Table]) -> str:
    """Return the card of a guard: the stage's own, its operating points, and the tables."""
    lines = [(stage / CARD_FILE).read_text(encoding="utf-8").rstrip(), "", "## Operating points", ""]
    lines.append(f"Least flagged log-odds of `unsafe`, set on {points.n_ordinary:,} ordinary requests:")
    lines += ["", *(f"- {name}: {value:.2f}" for name, value in points.thresholds.items())]
    for table in tables:
        lines += ["", f"## {table.title}", "", "| " + " | ".join(table.columns) + " |"]
        lines += ["| " + " | ".join("---" for _ in table.columns) + " |"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    lines += ["", *LIMITS, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
