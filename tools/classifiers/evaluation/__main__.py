"""Measure the shipped safety classifiers beside an n-gram baseline that is fitted in the same run.

    python -m tools.classifiers.evaluation DATA_DIR
    python -m tools.classifiers.evaluation DATA_DIR --only injection --out /tmp/figures

DATA_DIR holds the files of `tools.classifiers.data_files`. Prints tables; writes figures and `results.json`.
Needs the extras `evals` and `train`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agentkit.guardrails import SafetyClassifier
from evals.cli import print_tables
from evals.harness.suite import Table
from modelstack.align.guards.linear_classifier import LinearClassifier, Platt
from modelstack.align.guards.weights_file import ClassifierFileError
from tools.classifiers.data_files import UserError
from tools.classifiers.evaluation import measures
from tools.classifiers.evaluation.baseline import Baseline, fit_baseline
from tools.classifiers.evaluation.latency import prompts_of, timed
from tools.classifiers.evaluation.plots import draw
from tools.classifiers.evaluation.text_sets import (
    TextSet,
    held_out_pairs,
    injection_sets,
    jailbreak_sets,
    request_sets,
)
from tools.classifiers.train import GUARDS, decontaminated, rows_for

SETS = {"request-harm": request_sets, "jailbreak": jailbreak_sets, "injection": injection_sets}
N_LATENCY = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Results of a classifier and its baseline on all sets."""

    classifier: LinearClassifier
    baseline: Baseline
    sets: list[TextSet]
    ours: measures.Judged
    theirs: measures.Judged


def measure(name: str, data_dir: Path, weights: Path, seed: int) -> Measured:
    """Judge all sets with a classifier and with its baseline.

    Raises:
        UserError: a file is missing or broken.
        ClassifierFileError: the weights are missing or broken.
    """
    classifier = LinearClassifier.load(weights / f"{name}.safetensors")
    label = classifier.labels[0]
    sets = SETS[name](data_dir, seed)
    logits = {s.name: np.array([classifier.logits(text)[0] for text in s.texts]) for s in sets}
    rows, _ = decontaminated(rows_for(name, data_dir, seed), data_dir)
    baseline = fit_baseline(rows, label, seed)
    ours = measures.Judged(
        "ours",
        {key: classifier.calibration[0].probabilities(values).tolist() for key, values in logits.items()},
        classifier.thresholds[label],
        {key: Platt().probabilities(values).tolist() for key, values in logits.items()},
    )
    judged = {s.name: baseline.probabilities(s.texts).tolist() for s in sets}
    return Measured(classifier, baseline, sets, ours, measures.Judged("baseline", judged, baseline.thresholds))


def tables(name: str, measured: Measured, seed: int) -> list[Table]:
    """Return all tables of one classifier except latency."""
    judges = (measured.ours, measured.theirs)
    n_rows = f"{measured.classifier.training['n_rows']:,} and {measured.baseline.n_rows:,} rows; seed {seed}"
    found = [
        measures.flag_table(
            f"{name}: share flagged; thresholds set for 1 % and 5 % of other ordinary texts ({n_rows})",
            measured.sets,
            measured.ours,
            measured.theirs,
        ),
        measures.curve_table(f"{name}: attack success and false refusal, thresholds swept", measured.sets, judges),
        measures.calibration_table(f"{name}: ECE / Brier, before and after calibration", measured.sets, judges),
    ]
    if name == "request-harm":
        pairs = held_out_pairs(seed)
        texts = {text for pair in pairs for text in (pair.safe.strip(), pair.unsafe.strip())}
        probability = {
            judged.name: {
                text: p
                for s in measured.sets
                for text, p in zip(s.texts, judged.probabilities[s.name], strict=True)
                if text in texts
            }
            for judged in judges
        }
        found.append(
            measures.pair_table(f"{name}: contrast pairs of held-out families", pairs, probability, judges)
        )
    return found


def latency(all_measured: dict[str, Measured]) -> Table:
    """Return the time that each classifier, its baseline and the guardrail take for 64 tokens."""
    texts = next(s.texts for m in all_measured.values() for s in m.sets if s.kind == "ordinary")
    prompts = prompts_of(texts, N_LATENCY)
    timings = {name: timed(m.classifier.probabilities, prompts) for name, m in all_measured.items()}
    if len(all_measured) == len(SETS):
        guard = SafetyClassifier()
        timings["guardrail: check_input"] = timed(guard.check_input, prompts)
        timings["guardrail: check_tool_result"] = timed(guard.check_tool_result, prompts)
    for name, m in all_measured.items():
        timings[f"{name}, baseline"] = timed(lambda text, m=m: m.baseline.probabilities([text]), prompts[:300])
    n = round(float(np.mean([len(prompt) for prompt in prompts])))
    return measures.latency_table(
        f"latency, one thread, prompts of 48 words (about 64 tokens, {n} characters)", timings
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and draw; return 0, or 2 with a message if a file is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.classifiers.evaluation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument(
        "--only", choices=sorted(SETS), action="append", help="measure this one only; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=GUARDS / "weights", help="folder of the weights")
    parser.add_argument(
        "--out", type=Path, default=Path("eval-logs/safety_classifiers"), help="for figures and results"
    )
    options = parser.parse_args(arguments)
    all_measured: dict[str, Measured] = {}
    printed: list[Table] = []
    for name in options.only or SETS:
        try:
            measured = measure(name, options.data_dir, options.weights, options.seed)
        except (UserError, ClassifierFileError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        all_measured[name] = measured
        for table in tables(name, measured, options.seed):
            print_tables(table)
            printed.append(table)
        for kind in ("development", "held out"):
            if all(measures.pooled(measured.sets, measured.ours, kind)):
                path = options.out / f"{name}-{kind.replace(' ', '-')}.png"
                print(draw(name, measured.sets, (measured.ours, measured.theirs), kind, path))
    printed.append(latency(all_measured))
    print_tables(printed[-1])
    path = options.out / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(table) for table in printed], indent=1), "utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
