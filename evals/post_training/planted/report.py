"""Table and plot of all methods on the same planted preference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from evals.post_training.planted.measuring import N_OPPONENTS, N_REPLIES, Measured
from evals.post_training.planted.recipes import METHODS
from evals.statistics import Interval, interval_over_seeds
from modelstack.files import replacing

_COLOURS = dict(zip(METHODS, ("#1b6ca8", "#e08214", "#5aae61", "#9970ab", "#c51b7d"), strict=True))


def table(measured: Sequence[Measured], accuracies: Sequence[float]) -> str:
    """Return the experiment as Markdown.

    Args:
        measured: Measurements of all methods and seeds, including the base.
        accuracies: Accuracy of each seed's reward model on held-back pairs.
    """
    seeds = sorted({each.seed for each in measured})
    n_prompts = len(measured[0].wins)
    over = f"Student's over the {len(seeds)} seeds" if len(seeds) > 1 else "by a bootstrap over the prompts"
    lines = [
        f"{n_prompts} {measured[0].split} prompts, {N_REPLIES} replies each at temperature 1, seeds "
        f"{', '.join(map(str, seeds))}. A win is a higher score by the planted judge than a reply of the base to "
        f"the same prompt has, of {N_OPPONENTS}, a draw half of one. Intervals are 95 %, {over}; behind each win "
        f"rate stand those of the seeds. The reward models put "
        f"{', '.join(f'{accuracy:.3f}' for accuracy in accuracies)} of held-back pairs in the judge's order.",
        "",
        "| method | prompts | win rate against the base | by seed | judge's score | reward model's | tokens | "
        "KL, nats a reply | nats a token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(method, [each for each in measured if each.method == method]) for method in ("base", *METHODS)]
    lines += [
        "",
        "| method | topics | repetitions | nonsense | words | has the name | cut off |",
        "|---" * 7 + "|",
    ]
    for method in ("base", *METHODS):
        group = [each for each in measured if each.method == method]
        parts = [statistics.fmean(each.parts[name] for each in group) for name in group[0].parts]
        cut = statistics.fmean(each.truncated for each in group)
        lines.append(f"| {method} | {' | '.join(f'{part:.2f}' for part in (*parts, cut))} |")
    return "\n".join(lines) + "\n"


def pooled(group: Sequence[Measured], name: str) -> Interval:
    """Return a figure's mean and interval over seeds, because trainings vary more than prompts."""
    return interval_over_seeds([getattr(each, name) for each in group])


def _row(method: str, group: Sequence[Measured]) -> str:
    n = sum(len(each.wins) for each in group)
    by_seed = ", ".join(f"{statistics.fmean(each.wins):.3f}" for each in sorted(group, key=lambda each: each.seed))
    tokens = statistics.fmean(statistics.fmean(each.n_tokens) for each in group)
    kl = pooled(group, "kl_nats")
    cells = (
        method,
        f"{n}",
        f"{pooled(group, 'wins')}",
        by_seed,
        _short(pooled(group, "scores")),
        f"{statistics.fmean(each.reward for each in group):+.2f}",
        f"{tokens:.1f}",
        *(("0", "0") if method == "base" else (_short(kl), f"{kl.value / tokens:.3f}")),
    )
    return f"| {' | '.join(cells)} |"


def _short(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Draw win rate and judge's score against the distance from the base: seeds and their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for ax, (name, label) in zip(
        axes, (("wins", "win rate against the base"), ("scores", "judge's score")), strict=True
    ):
        for method in METHODS:
            group = [each for each in measured if each.method == method]
            kl, value, colour = pooled(group, "kl_nats"), pooled(group, name), _COLOURS[method]
            ax.scatter(
                [statistics.fmean(each.kl_nats) for each in group],
                [statistics.fmean(getattr(each, name)) for each in group],
                s=18, alpha=0.5, color=colour,
            )  # fmt: skip
            ax.errorbar(
                [kl.value], [value.value],
                xerr=[[kl.value - kl.low], [kl.high - kl.value]],
                yerr=[[value.value - value.low], [value.high - value.value]],
                fmt="o", capsize=3, color=colour, label=method,
            )  # fmt: skip
        base = [each for each in measured if each.method == "base"]
        ax.axhline(pooled(base, name).value, color="grey", linewidth=1, linestyle=":")
        ax.set_xlabel("KL(policy || base), nats a reply")
        ax.set_ylabel(label)
        ax.set_xlim(left=0)
    axes[0].legend(frameon=False)
    axes[0].set_title("The dotted line is the base")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)
