"""Plot of reward, length, entropy, KL and clipped tokens over the steps, from the lines of `rewards.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path

from modelstack.files import json_lines, replacing

REWARDS_PLOT = "rewards.png"
PANELS = {
    "reward/sampled": ("reward", "mean reward of all sampled replies"),
    "completions/length": ("tokens", "length of replies"),
    "entropy": ("nats a token", "entropy"),
    "kl": ("nats a token", "KL to the reference"),
    "kl_to_start": ("nats a token", "KL to the start"),
    "approx_kl": ("nats a token", "KL to the policy that sampled"),
    "clip_ratio/region_mean": ("share", "tokens that were clipped"),
    "groups/equal": ("share", "groups that teach nothing"),
}
SMOOTHING = 0.9


def draw_rewards(file: Path, picture: Path) -> None:
    """Draw raw and smoothed curves of all metrics that are not 0 throughout."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in json_lines(file)]
    shown = {name: panel for name, panel in PANELS.items() if any(record.get(name) for record in records)}
    width = 3.6 * len(shown)
    figure = Figure(figsize=(width, 3.2))
    margins = {"left": 0.75 / width, "right": 1 - 0.15 / width, "bottom": 0.16, "top": 0.9, "wspace": 0.3}
    axes = figure.subplots(1, len(shown), squeeze=False, gridspec_kw=margins)
    for ax, (name, (unit, title)) in zip(axes[0], shown.items(), strict=True):
        points = [(record["step"], record[name]) for record in records if name in record]
        steps, values = [step for step, _ in points], [value for _, value in points]
        ax.plot(steps, values, color="#b8d0e3", linewidth=1)
        ax.plot(steps, _smoothed(values), color="#1b6ca8", linewidth=1.8)
        ax.set_title(title, fontsize=10, y=1.0)  # a given height: otherwise matplotlib measures all labels for it
        ax.set_xlabel("step")
        ax.set_ylabel(unit)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _smoothed(values: list[float]) -> list[float]:
    """Return an exponential moving average with bias correction."""
    average, weight, found = 0.0, 0.0, []
    for value in values:
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        found.append(average / weight)
    return found
