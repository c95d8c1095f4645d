"""Tables and plots of the measurements: stages, accuracy against thinking, and several sampled replies."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evals.harness.suite import Table
from evals.post_training.r1 import stages
from evals.post_training.r1.measuring import Measured
from evals.post_training.r1.plan import R1Plan
from evals.post_training.r1.running_sums import FEWEST, MODULUS, MOST
from evals.statistics import mcnemar, wilson
from modelstack.files import replacing
from modelstack.inference.curves_at_k import CURVES, Point, curve

REPORT_FILE, RESULTS_FILE = "report.md", "results.json"
DIAL_PLOT, CURVES_PLOT = "thinking.png", "best-of-n.png"
WHAT = {
    stages.BASE: "pre-trained; completes its documents' questions",
    stages.COLD: "base, fine-tuned on imperfect thoughts",
    stages.RL: "cold start, then rewards for right answers (DAPO)",
    stages.FRESH: "base, fine-tuned on what RL's model got right",
    stages.STUDENT: "smaller, pre-trained; completes questions",
    stages.STUDENT_SFT: "student on the same texts",
    stages.STUDENT_LONGER: "the same, with as many steps more as below",
    stages.STUDENT_LOGITS: "student on the teacher's distributions over the same texts",
    stages.STUDENT_ON_POLICY: "student-sft, then the teacher's distributions over its own replies",
}
COMPARED = (
    (stages.COLD, stages.RL),
    (stages.RL, stages.FRESH),
    (stages.STUDENT_SFT, stages.STUDENT_LOGITS),
    (stages.STUDENT_LONGER, stages.STUDENT_ON_POLICY),
)
"""Pairs compared on the same problems; the second is expected to be better."""
COLOURS = ("#888888", "#c0561f", "#1f6f8b", "#2b8a3e", "#8b5fbf", "#b8860b", "#d16ba5", "#444444")
PANELS_A_ROW = 4


def write_report(folder: Path, plan: R1Plan, found: Sequence[Measured], facts: dict[str, Any]) -> list[Table]:
    """Write Markdown, JSON and plots; return the tables."""
    thinking = [each for each in found if each.dial]
    curves = {each.name: _curves(each) for each in thinking}
    tables = [_stage_table(found), _pair_table(found), _dial_table(thinking), *_curve_tables(curves)]
    _draw_dial(thinking, folder / DIAL_PLOT)
    _draw_curves(curves, folder / CURVES_PLOT)
    with replacing(folder / REPORT_FILE) as temporary:
        temporary.write_text("\n".join(_markdown(plan, tables, facts)), encoding="utf-8")
    results = {
        "plan": plan.model_dump(mode="json"),
        "facts": facts,
        "stages": {
            each.name: {
                "n_parameters": each.n_parameters,
                "accuracy": _share(each.is_right),
                "formed": _share(each.is_formed),
                "mean_tokens": statistics.fmean(each.n_tokens),
                "dial": [
                    {
                        "budget": at.budget,
                        "accuracy": _share(at.is_right),
                        "mean_thinking_tokens": statistics.fmean(at.n_thinking),
                    }
                    for at in each.dial
                ],
                "curves": {
                    name: [[point.k, point.value, point.low, point.high] for point in points]
                    for name, points in curves.get(each.name, {}).items()
                },
            }
            for each in found
        },
    }
    with replacing(folder / RESULTS_FILE) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return tables


def _share(values: Sequence[bool]) -> dict[str, float]:
    interval = wilson(sum(values), len(values))
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def _stage_table(found: Sequence[Measured]) -> Table:
    rows: list[tuple[str, ...]] = []
    for each in found:
        sampled = "" if not each.replies else str(_at_one(each))
        rows.append(
            (
                each.name,
                WHAT[each.name],
                f"{each.n_parameters / 1e6:.2f} M",
                str(len(each.is_right)),
                str(wilson(sum(each.is_right), len(each.is_right))),
                sampled,
                f"{statistics.fmean(each.is_formed):.2f}",
                f"{statistics.fmean(each.n_tokens):.0f}",
            )
        )
    head = ("stage", "what", "size", "n", "accuracy, greedy (95 %)", "sampled", "one thought", "tokens")
    return Table("Held-back problems at each stage", head, tuple(rows))


def _at_one(each: Measured) -> str:
    (point,) = curve(each.replies, [1], CURVES["pass@k"])
    return f"{point.value:.3f} ({point.low:.3f} to {point.high:.3f})"


def _pair_table(found: Sequence[Measured]) -> Table:
    known = {each.name: each for each in found}
    rows: list[tuple[str, ...]] = []
    for first, second in COMPARED:
        if first in known and second in known:
            only_first, only_second, p = mcnemar(known[first].is_right, known[second].is_right)
            rows.append((f"{first} -> {second}", str(only_second), str(only_first), f"{p:.2g}"))
    return Table(
        "Pairs of stages on the same problems, greedy",
        ("pair", "only the second right", "only the first right", "p, McNemar exact"),
        tuple(rows),
    )


def _dial_table(thinking: Sequence[Measured]) -> Table:
    budgets = [at.budget for at in thinking[0].dial] if thinking else []
    rows = tuple(
        (
            str(budget),
            *(
                f"{wilson(sum(each.dial[n].is_right), len(each.dial[n].is_right))}, "
                f"{statistics.fmean(each.dial[n].n_thinking):.0f}"
                for each in thinking
            ),
        )
        for n, budget in enumerate(budgets)
    )
    return Table(
        "Accuracy (95 %) within a budget of thinking tokens, and mean number of thinking tokens",
        ("budget", *(each.name for each in thinking)),
        rows,
    )


def _curves(each: Measured) -> dict[str, list[Point]]:
    n = min(len(task.is_right) for task in each.replies)
    ks = [2**power for power in range(n.bit_length()) if 2**power <= n]
    return {name: curve(each.replies, ks, at_k) for name, at_k in CURVES.items()}


def _curve_tables(curves: dict[str, dict[str, list[Point]]]) -> Iterator[Table]:
    for name, of_stage in curves.items():
        rows = tuple(
            (what, *(f"{point.value:.3f} ({point.low:.3f} to {point.high:.3f})" for point in points))
            for what, points in of_stage.items()
        )
        ks = [f"k = {point.k}" for point in next(iter(of_stage.values()))]
        yield Table(f"{name}: k sampled replies of each problem", ("", *ks), rows)


def _draw_dial(thinking: Sequence[Measured], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for_budget, for_thought = figure.subplots(1, 2, sharey=True)
    for each, colour in zip(thinking, COLOURS, strict=False):
        shares = [wilson(sum(at.is_right), len(at.is_right)) for at in each.dial]
        values = [share.value for share in shares]
        budgets = [at.budget for at in each.dial]
        for_budget.fill_between(
            budgets, [s.low for s in shares], [s.high for s in shares], color=colour, alpha=0.12, linewidth=0
        )
        for_budget.plot(budgets, values, "o-", color=colour, label=each.name, markersize=4)
        thought = [statistics.fmean(at.n_thinking) for at in each.dial]
        for_thought.plot(thought, values, "o-", color=colour, label=each.name, markersize=4)
    for_budget.set(xlabel="budget of thinking tokens", ylabel="accuracy, greedy", ylim=(0, 1.02))
    for_thought.set(xlabel="thinking tokens, mean")
    for_budget.legend(fontsize=8)
    figure.suptitle("Accuracy against thinking; bands are 95 % intervals")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_curves(curves: dict[str, dict[str, list[Point]]], path: Path) -> None:
    from matplotlib.figure import Figure

    n_columns = min(PANELS_A_ROW, max(1, len(curves)))
    n_rows = max(1, math.ceil(len(curves) / n_columns))
    figure = Figure(figsize=(3.2 * n_columns, 3 * n_rows), layout="constrained")
    several = list(figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, of_stage) in zip(several, curves.items(), strict=False):
        for (what, points), colour in zip(of_stage.items(), COLOURS[1:], strict=False):
            ks = [point.k for point in points]
            axes.fill_between(
                ks, [p.low for p in points], [p.high for p in points], color=colour, alpha=0.12, linewidth=0
            )
            axes.plot(ks, [point.value for point in points], "o-", color=colour, label=what, markersize=4)
        axes.set(title=name, ylim=(0, 1.02))
        axes.set_xscale("log", base=2)
    for unused in several[len(curves) :]:
        unused.set_axis_off()
    several[0].legend(fontsize=7)
    figure.supxlabel("replies k")
    figure.supylabel("share of problems")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _markdown(plan: R1Plan, tables: Sequence[Table], facts: dict[str, Any]) -> Iterator[str]:
    yield "# DeepSeek-R1's recipe at a small scale\n"
    yield (
        f"Sums of {FEWEST} to {MOST} digits modulo {MODULUS}, {plan.n_held_back} of them held back; guessing "
        f"gives {1 / MODULUS:.3f}. Made by `python -m evals.post_training.r1 --out FOLDER --seed {plan.seed}`.\n"
    )
    for name, value in facts.items():
        yield f"- {name}: {value}"
    yield ""
    for table in tables:
        yield f"## {table.title}\n"
        yield _rows(table)
    yield (
        "If the budget ends a thought early, a model trained on finished thoughts continues to add instead of "
        "answering; its accuracy is then below guessing.\n"
    )
    yield f"![accuracy against thinking]({DIAL_PLOT})\n"
    yield f"![several replies]({CURVES_PLOT})\n"


def _rows(table: Table) -> str:
    head = "| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns) + "\n"
    return head + "".join("| " + " | ".join(row) + " |\n" for row in table.rows)
