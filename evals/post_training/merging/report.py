"""Report of the merging experiment: table, plot, and tree of stages."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console

from evals.post_training.merging.experiment import Measured
from evals.post_training.merging.skills import SKILLS
from modelstack.files import replacing
from modelstack.posttrain.stages.lineage import find_stages, lineage, tree

REPORT, PICTURE = "REPORT.md", "skills.png"
COLOURS = {"base": "#7a7a7a", "parent": "#c9752b", "child": "#1b6ca8"}


def write_report(measured: Sequence[Measured], stages: Path, out: Path, command: str, seed: int) -> str:
    """Write `REPORT.md` and `skills.png`; return the report."""
    n = measured[0].rewards[SKILLS[0].name].n
    lines = [
        "# Merging two adapters",
        "",
        f"Greedy replies to {n} held-back tasks of each skill as llama.cpp serves the model, judged by the tasks' "
        f"verifiers; 95 % intervals; seed {seed}.",
        "",
        f"    {command}",
        "",
        f"| model | | {' | '.join(skill.name for skill in SKILLS)} | mean |",
        f"|---|---|{'---|' * (len(SKILLS) + 1)}",
        *(_line(each) for each in measured),
        "",
        f"![skills]({PICTURE})",
        "",
        "```",
        *_tree(stages),
        "```",
        "",
    ]
    text = "\n".join(lines)
    with replacing(out / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    _draw(measured, out / PICTURE)
    return text


def _line(measured: Measured) -> str:
    rewards = [measured.rewards[skill.name] for skill in SKILLS]
    mean = sum(each.value for each in rewards) / len(rewards)
    return f"| {measured.name} | {measured.kind} | {' | '.join(map(str, rewards))} | {mean:.3f} |"


def _tree(stages: Path) -> list[str]:
    shown = StringIO()
    Console(file=shown, width=110).print(tree(lineage(find_stages([stages]))))
    return [line.rstrip() for line in shown.getvalue().rstrip().splitlines()]


def _draw(measured: Sequence[Measured], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(6.4, 5.2), layout="constrained")
    first, second = (skill.name for skill in SKILLS)
    for each in measured:
        x, y = each.rewards[first], each.rewards[second]
        ax.errorbar(
            x.value,
            y.value,
            xerr=[[x.value - x.low], [x.high - x.value]],
            yerr=[[y.value - y.low], [y.high - y.value]],
            fmt="o",
            color=COLOURS[each.kind],
            elinewidth=0.8,
        )
        ax.annotate(each.name, (x.value, y.value), textcoords="offset points", xytext=(6, 6))
    ax.set_xlabel(f"{first}: share right")
    ax.set_ylabel(f"{second}: share right")
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_title("Two skills, merged")
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
