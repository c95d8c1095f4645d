"""Measure a guard model, set its operating points, and write its card.

    python -m tools.guard_model.evaluate DATA_DIR --guard runs/guard --out runs/guard-figures
    python -m tools.guard_model.evaluate DATA_DIR --guard runs/guard --ship modelstack/align/guard_model/weights

Thresholds are set on ordinary requests that are neither in the training nor in the measured sets. Development sets
were seen while rows were written, held-out pairs were not trained on, and files of `--held-out` (JSON lines with
`text` and `label`) are measured only. Log-odds are kept in `--out` by text, so that an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
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
from modelstack.align.guard_model.policy import MLCOMMONS, Policy
from modelstack.align.guard_model.prompt import INSTRUCTIONS_FIRST, GuardTurn
from modelstack.align.guard_model.shipped import ADAPTER_FILE, POINTS_FILE, OperatingPoints, log_odds
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
POINTS = {"fpr_0.1": 0.001, "fpr_1": 0.01, "fpr_5": 0.05}
N_ORDINARY, N_OF_SET = 1200, 400
N_SERVED = 60
"""Messages that are judged by llama.cpp, too."""
KEPT_EVERY, N_OF_CATEGORY = 200, 15
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
            self._kept |= zip(several, self.under(MLCOMMONS, several).tolist(), strict=True)
            with replacing(self._file) as temporary:
                temporary.write_text(json.dumps(self._kept, ensure_ascii=False), encoding="utf-8")
            tell(name, start + len(several), len(missing))
        return np.array([self._kept[text] for text in texts])

    def under(self, policy: Policy, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-odds of some requests under a policy; the first window of a long one is read."""
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
        return score(self._model, tokens, self._prompts, self._verdicts, policy)


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


def flag_table(sets: Sequence[TextSet], odds: Mapping[str, NDArray[np.float64]], points: OperatingPoints) -> Table:
    """Return the share of each set that is flagged at each operating point."""
    rows: list[tuple[str, ...]] = []
    for each in sorted(sets, key=lambda each: not each.flagged):
        found = odds[each.name]
        shares = [str(wilson(int((found >= points.thresholds[name]).sum()), len(found))) for name in POINTS]
        rows.append((each.name, each.kind, each.want, str(len(found)), *shares))
    return Table("Share flagged", ("set", "kind", "want", "n", *POINTS), tuple(rows))


def cascade_table(
    sets: Sequence[TextSet], odds: Mapping[str, NDArray[np.float64]], points: OperatingPoints
) -> Table:
    """Return what the linear classifier, the guard, and the guard behind the classifier flag."""
    rows: list[tuple[str, ...]] = []
    for each in sorted(sets, key=lambda each: not each.flagged):
        screened = np.array([SCREEN in assess_request(text).flagged_at for text in each.texts], bool)
        judged = odds[each.name] >= points.thresholds["fpr_1"]
        shares = [str(wilson(int(found.sum()), len(found))) for found in (screened, judged, screened & judged)]
        rows.append((each.name, each.want, str(len(judged)), *shares))
    columns = ("set", "want", "n", f"classifier at {SCREEN}", "guard at fpr_1", "guard behind the classifier")
    return Table("Cascade", columns, tuple(rows))


def pair_table(sets: Sequence[TextSet], odds: Mapping[str, NDArray[np.float64]]) -> Table:
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
    return Table("Both labels, at even odds", columns, tuple(rows))


def policy_table(judge: Judge, rows: Path, seed: int, tell: Tell) -> Table:
    """Return how held-back harmful requests are judged without their category, and without another one."""
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
            flagged[name] += int((judge.under(policy, texts) > 0).sum())
        tell("policies", number, len(by_category))
    n = sum(map(len, by_category.values()))
    shares = tuple((name, str(wilson(found, n))) for name, found in flagged.items())
    return Table("Harmful requests flagged at even odds, by policy", ("policy", "flagged"), shares)


def served_table(judge: Judge, options: argparse.Namespace, texts: Sequence[str]) -> Table:
    """Return how far the log-odds of llama.cpp, which serves the guard, are from those of torch."""
    with (
        LlamaCppEngine(
            weights_path(options.model),
            lora_path=options.guard / ADAPTER_FILE,
            n_cells=2048,
            n_threads=options.threads,
            n_threads_prefill=options.threads,
        ) as engine,
        GuardModel(engine) as guard,
    ):
        verdicts = [guard.judge([GuardTurn("user", text)]) for text in texts]
    served = np.array([log_odds(each.probability) for each in verdicts if each is not None])
    differences = np.abs(served - judge.under(MLCOMMONS, texts))
    cells = (str(len(texts)), f"{differences.mean():.3f}", f"{differences.max():.3f}", f"{np.std(served):.2f}")
    columns = ("messages", "mean difference", "largest difference", "deviation of the log-odds")
    return Table("llama.cpp beside torch", columns, (cells,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; with --ship also write a folder of the package; return 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--guard", type=Path, required=True, help="stage of `modelstack guard`")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--rows", type=Path, default=Path("guard-rows"), help="folder of tools.guard_model.rows")
    parser.add_argument("--held-out", type=Path, action="append", default=[], help="file that is measured only")
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
            ordinary = judge.log_odds("ordinary", ordinary_texts(options.data_dir, trained, options.seed), tell)
            points = OperatingPoints(
                base_sha256=base_sha256(weights_path(options.model)),
                thresholds={name: threshold_at(ordinary, share) for name, share in POINTS.items()},
                n_ordinary=len(ordinary),
            )
            held_back = options.rows / "validation.jsonl"
            sets = measured_sets(options.data_dir, options.held_out, held_back, options.seed)
            odds = {each.name: judge.log_odds(each.name, each.texts, tell) for each in sets}
            tables = [
                flag_table(sets, odds, points),
                cascade_table(sets, odds, points),
                pair_table(sets, odds),
                policy_table(judge, held_back, options.seed, tell),
                served_table(judge, options, ordinary_texts(options.data_dir, trained, options.seed)[:N_SERVED]),
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
