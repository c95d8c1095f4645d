"""Tables, plot and record of the experiment: reward with each sampler's rollouts, and the sampler's gap."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Literal, get_args

from evals.harness.suite import Table
from evals.post_training.sampler_gap.arms import (
    ARMS,
    CORRECTED,
    N_SAMPLES,
    START,
    TORCH,
    UNCORRECTED,
    Experiment,
    Outcome,
)
from evals.statistics import Interval, interval_over_seeds
from modelstack.files import replacing

REPORT_FILE, RESULTS_FILE, PLOT_FILE = "report.md", "results.json", "rewards.png"
PANELS = {"reward": "mean reward of sampled replies", "sampler_gap/mean": "mean |o - mu| of a token"}
COLOURS = {TORCH: "#444444", CORRECTED: "#1f6f8b", UNCORRECTED: "#c0561f"}
SampledBy = Literal["rewards", "served"]
SAMPLED_BY: tuple[SampledBy, ...] = get_args(SampledBy)
DIFFERENCES = ((TORCH, CORRECTED), (TORCH, UNCORRECTED), (UNCORRECTED, CORRECTED))


def write_report(experiment: Experiment, found: list[Outcome], command: str) -> list[Table]:
    """Write Markdown, JSON and a plot; return the tables."""
    tables = [_rewards(experiment, found), _differences(found), _gaps(experiment, found)]
    _draw(experiment, experiment.folder / PLOT_FILE)
    plan = experiment.plan
    over = "Student's over the seeds" if len(plan.seeds) > 1 else "by bootstrap over the tasks"
    lines = [
        "# Rollouts by quantised llama.cpp",
        "",
        f"`{command}`: {len(plan.seeds)} seeds, {plan.steps} steps of {plan.rows} prompts with {plan.group} "
        f"replies, all weights trained; llama.cpp samples with {plan.type_name}, the correction is "
        f"{plan.correction} at {plan.high:g}. Held-back rewards are of {N_SAMPLES} replies to each task; "
        f"intervals are 95 %, {over}.",
        "",
    ]
    for table in tables:
        lines += [f"## {table.title}", "", f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    lines.append(f"![rewards]({PLOT_FILE})")
    with replacing(experiment.folder / REPORT_FILE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with replacing(experiment.folder / RESULTS_FILE) as temporary:
        temporary.write_text(json.dumps(_record(experiment, found), indent=1) + "\n", encoding="utf-8")
    return tables


def rewards_of(found: list[Outcome], arm: str, sampled_by: SampledBy = "rewards") -> list[list[float]]:
    """Return the held-back rewards of an arm: one list per seed, ordered by seed."""
    ordered = sorted((each for each in found if each.arm == arm), key=lambda each: each.seed)
    return [list(getattr(each, sampled_by)) for each in ordered]


def _reward(found: list[Outcome], arm: str, sampled_by: SampledBy) -> Interval:
    return interval_over_seeds(rewards_of(found, arm, sampled_by))


def _rewards(experiment: Experiment, found: list[Outcome]) -> Table:
    rows = []
    for arm in (START, *ARMS):
        of_seeds = [f"{statistics.fmean(each.rewards):.3f}" for each in found if each.arm == arm]
        own, served = (_reward(found, arm, by) for by in SAMPLED_BY)
        rows.append((arm, str(own), ", ".join(of_seeds), str(served)))
    columns = ("rollouts", "sampled in fp32", "by seed", f"sampled by llama.cpp, {experiment.plan.type_name}")
    return Table("Reward on held-back tasks", columns, tuple(rows))


def _differences(found: list[Outcome]) -> Table:
    rows = tuple(
        (f"{second} over {first}", *(str(_difference(found, first, second, by)) for by in SAMPLED_BY))
        for first, second in DIFFERENCES
    )
    return Table("Differences, same seeds and tasks", ("", "sampled in fp32", "sampled by llama.cpp"), rows)


def _difference(found: list[Outcome], first: str, second: str, sampled_by: SampledBy) -> Interval:
    pairs = zip(rewards_of(found, first, sampled_by), rewards_of(found, second, sampled_by), strict=True)
    return interval_over_seeds([[b - a for a, b in zip(*seed, strict=True)] for seed in pairs])


def _gaps(experiment: Experiment, found: list[Outcome]) -> Table:
    rows = []
    for arm in (START, *ARMS):
        of_arm = [each for each in found if each.arm == arm]
        for name in of_arm[0].gaps:
            gaps = [each.gaps[name] for each in of_arm]
            figures = [
                [gap.mean for gap in gaps],
                [gap.largest for gap in gaps],
                [gap.kl for gap in gaps],
                [gap.token_sample_size for gap in gaps],
                [gap.reply_sample_size for gap in gaps],
            ]
            rows.append((arm, name, *(f"{statistics.fmean(values):.4f}" for values in figures)))
    columns = ("weights after", "type", "mean abs", "largest", "KL", "sample size, tokens", "sample size, replies")
    n_replies = found[0].gaps[experiment.plan.type_name].n_replies
    return Table(f"Sampler's gap at the same weights, {n_replies} replies a seed", columns, tuple(rows))


def _record(experiment: Experiment, found: list[Outcome]) -> dict[str, Any]:
    def told(interval: Interval) -> dict[str, float]:
        return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}

    curves = {
        arm: {str(s): {key: experiment.curve(arm, s, key) for key in PANELS} for s in experiment.plan.seeds}
        for arm in ARMS
    }
    return {
        "plan": experiment.plan.model_dump(mode="json"),
        **{by: {arm: told(_reward(found, arm, by)) for arm in (START, *ARMS)} for by in SAMPLED_BY},
        "differences": {
            by: {f"{b} over {a}": told(_difference(found, a, b, by)) for a, b in DIFFERENCES} for by in SAMPLED_BY
        },
        "outcomes": [each.model_dump(mode="json") for each in found],
        "curves": curves,
    }


def _draw(experiment: Experiment, file: Path) -> None:
    """Draw both panels: each seed as a thin line, the mean over seeds as a thick line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(10, 3.6), layout="constrained")
    for ax, (key, title) in zip(axes, PANELS.items(), strict=True):
        for arm in ARMS:
            curves = [experiment.curve(arm, seed, key) for seed in experiment.plan.seeds]
            for curve in curves:
                ax.plot(curve, color=COLOURS[arm], linewidth=0.6, alpha=0.4)
            ax.plot([statistics.fmean(at) for at in zip(*curves, strict=True)], color=COLOURS[arm], label=arm)
        ax.set_title(title)
        ax.set_xlabel("step")
    axes[0].legend()
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)
