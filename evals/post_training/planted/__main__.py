"""PPO with a reward model, DPO, SimPO, ORPO and KTO on one planted preference, with a model trained from scratch.

    python -m evals.post_training.planted --out DIR
    python -m evals.post_training.planted --out DIR --seed 3

A nano model learns careless replies. Pairs of its own replies are ordered by a judge whose rules are known
exactly. Each method learns from the same pairs; PPO uses a reward model trained only on these pairs. The judge
then compares each policy's replies with the base's, on prompts that no stage has used. Prints the table and writes
it with `results.json` and a plot. The same command resumes after an interruption and repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evals.post_training.planted.recipes import METHODS
from modelstack.files import replacing

if TYPE_CHECKING:
    from rich.console import Console

    from evals.post_training.planted.measuring import Measured
    from modelstack.posttrain.stages.stage import Stage

SEEDS = tuple(range(8))
TABLE_FILE, RESULTS_FILE, PLOT_FILE = "planted.md", "results.json", "planted.png"


def take(out: Path, split: Literal["development", "final"], seed: int, console: Console) -> list[Measured]:
    """Create the missing stages of a seed; return their figures and write them to the folder."""
    from evals.post_training.planted import stages

    folder = out / f"seed-{seed}"
    base = stages.base_of(folder, seed, console)
    stages.write_pairs(folder, base, seed)
    reward = stages.reward_of(folder, seed, console)
    policies = {method: stages.policy_of(folder, method, seed, console) for method in METHODS}
    return _measured(folder, {"base": base, **policies}, base, reward, split, seed)


def _measured(
    folder: Path,
    policies: dict[str, Stage],
    base: Stage,
    reward: Stage,
    split: Literal["development", "final"],
    seed: int,
) -> list[Measured]:
    from evals.post_training.planted.measuring import measure, measured_from, yardstick

    against = None
    found: list[Measured] = []
    for method, policy in policies.items():
        file = folder / f"measured-{split}-{method}.json"
        of = [base.record.fingerprint, reward.record.fingerprint, policy.record.fingerprint]
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if known.get("of") == of:
            found.append(measured_from(known["measured"]))
            continue
        against = against or yardstick(base, reward, split, seed)
        found.append(measure(method, policy, against))
        with replacing(file) as temporary:
            temporary.write_text(json.dumps({"of": of, "measured": found[-1].plain()}) + "\n", encoding="utf-8")
    return found


def accuracy_of(folder: Path) -> float:
    """Return the share of held-back pairs that a reward model orders correctly."""
    from modelstack.posttrain.stages.stage import read_record
    from modelstack.preferences.reward.scores import ACCURACY

    after = read_record(folder / "reward").evaluation.after
    return next(each.value for each in after if each.name == ACCURACY)


def write(out: Path, measured: Sequence[Measured], seeds: Sequence[int]) -> str:
    """Write table, figures and plot; return the table."""
    from evals.post_training.planted.report import draw, table

    accuracies = [accuracy_of(out / f"seed-{seed}") for seed in seeds]
    text = table(measured, accuracies)
    content = {"reward_model_accuracy": accuracies, "measured": [each.plain() for each in measured]}
    with replacing(out / TABLE_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with replacing(out / RESULTS_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(measured, out / PLOT_FILE)
    return text


def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for stages, table and plot.")],
    seed: Annotated[list[int] | None, typer.Option(help="Seed; may be repeated; default: 0 to 7.")] = None,
    split: Annotated[str, typer.Option(help="final, or development for tuning.")] = "final",
    on: Annotated[Literal["local", "ray"], typer.Option(help="Where the seeds run.")] = "local",
) -> None:
    """Train and judge all methods; print each method's win rate and its distance from the base."""
    from rich.console import Console

    from evals.post_training.seeds import results_of_seeds

    if split not in ("development", "final"):
        raise typer.BadParameter(f"split {split!r} must be development or final")
    seeds = list(dict.fromkeys(seed or SEEDS))
    groups = results_of_seeds(partial(take, out.resolve(), split), seeds, Console(), on=on)
    measured = [each for group in groups for each in group]
    typer.echo(write(out, measured, seeds))
    typer.echo(str(out / PLOT_FILE))


if __name__ == "__main__":
    typer.run(main)
