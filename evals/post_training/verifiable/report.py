"""Writes `REPORT.md`, `report.json` and the plot of an experiment."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.post_training.verifiable.curves import PANELS, PICTURE, draw, ends, read_curves
from evals.post_training.verifiable.experiment import HELD_BACK, TRAINING, Outcome
from evals.post_training.verifiable.kinds import HELD_BACK_SEED, N_TRAINING, TRAINING_SEED
from evals.post_training.verifiable.measuring import Rates
from modelstack.files import replacing, sha256_of
from modelstack.reasoning.tasks.task import read_tasks

REPORT, REPORT_JSON = "REPORT.md", "report.json"


def write_report(outcome: Outcome, out: Path, command: str) -> str:
    """Write all three files; return the report."""
    curves = {each.seed: read_curves(each.folder) for each in outcome.seeds}
    draw(curves, out / PICTURE)
    text = "\n".join(_lines(outcome, curves, command, _n_canaries(out / TRAINING)))
    for name, content in (
        (REPORT, text),
        (REPORT_JSON, json.dumps(_record(outcome, curves, out), indent=2) + "\n"),
    ):
        with replacing(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return text


def _lines(outcome: Outcome, curves: dict[int, Any], command: str, n_canaries: int) -> list[str]:
    wanted, recipe = outcome.wanted, outcome.recipe
    kind, plan = wanted.kind, recipe.sampling
    n = outcome.before.greedy.n
    start = "the base with the shipped adapter for tools" if kind.has_tool_adapter else "the base as it is"
    return [
        f"# Reinforcement on verifiable tasks: {kind.name}",
        "",
        kind.what,
        "",
        f"    {command}",
        "",
        f"Model: {wanted.model}, {start}. Algorithm {recipe.algorithm}, {recipe.steps} steps of {recipe.rows} "
        f"prompts with {plan.group} replies, at most {plan.max_tokens} tokens, temperature {plan.temperature:g}, "
        f"learning rate {recipe.optimizer.lr:g}. {N_TRAINING} tasks to train on, {n} held back; no prompt is on "
        f"both sides. {n_canaries} of the first are canaries without a correct reply: paying for one ends a run.",
        "",
        f"Share of right replies to the held-back tasks, as llama.cpp serves the model; 95 % intervals over the "
        f"tasks. Greedy: one reply to each. Sampled: {wanted.n_samples} to each, at the temperature of training.",
        "",
        "| | greedy | sampled | tasks with mixed samples |",
        "|---|---|---|---|",
        _row("before", outcome.before),
        *(_row(f"after, seed {each.seed}", each.after) for each in outcome.seeds),
        "",
        f"![curves]({PICTURE})",
        "",
        "Means of the first and of the last five steps:",
        "",
        f"| seed | {' | '.join(title for _, title in PANELS.values())} |",
        f"|---|{'---|' * len(PANELS)}",
        *(_ends_row(seed, curves[seed]) for seed in sorted(curves)),
        "",
    ]


def _n_canaries(file: Path) -> int:
    return sum(task.item.is_canary for task in read_tasks(file))


def _row(name: str, rates: Rates) -> str:
    mixed = "" if rates.informative is None else f"{rates.informative:.3f}"
    return f"| {name} | {rates.greedy} | {'' if rates.sampled is None else rates.sampled} | {mixed} |"


def _ends_row(seed: int, curves: dict[str, Any]) -> str:
    cells = []
    for name in PANELS:
        first, last = ends(curves[name]) if curves[name] else (float("nan"), float("nan"))
        cells.append(f"{first:.3g} → {last:.3g}")
    return f"| {seed} | {' | '.join(cells)} |"


def _record(outcome: Outcome, curves: dict[int, Any], out: Path) -> dict[str, Any]:
    wanted = outcome.wanted
    return {
        "task": wanted.kind.name,
        "model": wanted.model,
        "base_sha256": sha256_of(wanted.weights),
        "recipe": outcome.recipe.model_dump(mode="json", exclude={"base", "weights", "data"}),
        "data": {
            "training": {"sha256": sha256_of(out / TRAINING), "n": N_TRAINING, "seed": TRAINING_SEED},
            "held_back": {
                "sha256": sha256_of(out / HELD_BACK),
                "n": wanted.n_held_back,
                "seed": HELD_BACK_SEED,
            },
        },
        "before": asdict(outcome.before),
        "after": {str(each.seed): asdict(each.after) for each in outcome.seeds},
        "curves": {str(seed): of_seed for seed, of_seed in curves.items()},
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
    }
