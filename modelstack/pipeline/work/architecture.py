"""Step 4: a small ablation on the recipe's own text; a choice is taken if it is shown to be better."""

from __future__ import annotations

from typing import Any

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.record import StepResult, write_json

CHOICE_FILE, OUTCOMES = "choice", "outcomes"


def work(job: StepJob) -> StepResult:
    """Compare the choices and write the one to train.

    Raises:
        UserError: A choice gives an invalid config, or the text is too short.
    """
    from modelstack.architecture.ablation import report, running
    from modelstack.architecture.ablation.choices import BASE, Choice
    from modelstack.architecture.ablation.training import Budget
    from modelstack.architecture.config import build

    table = job.recipe.architecture
    base = build(BASE | table.base)
    plan = running.Plan(
        base.with_(max_position_embeddings=max(table.length, base.max_position_embeddings)),
        tuple(Choice(name, ", ".join(changes), changes) for name, changes in table.choices.items()),
        Budget(steps=table.steps, rows=table.rows, length=table.length, learning_rate=table.learning_rate),
        tuple(range(table.seeds)),
        tuple(sorted(job.of("data/text").glob("*.jsonl"))),
    )
    outcomes = running.run(
        plan,
        job.folder / OUTCOMES,
        n_processes=table.processes,
        on_finished=lambda name, seed, found: job.say(f"{name}, seed {seed}: {found.bits_per_byte:.4f}"),
    )
    rows = report.rows_of(plan, outcomes)
    report.draw(plan, rows, outcomes, job.folder / "ablation.png")
    better = [row for row in rows if row.verdict == "better"]
    best = min(better, key=lambda row: row.bits_per_byte) if better else None
    changes: dict[str, Any] = table.choices[best.name] if best is not None else {}
    figures = {
        row.name: {"bits_per_byte": row.bits_per_byte, "difference": row.difference, "verdict": row.verdict}
        for row in rows
    }
    (job.folder / CHOICE_FILE).mkdir(exist_ok=True)
    name = "base" if best is None else best.name
    write_json(job.folder / CHOICE_FILE / "choice.json", {"name": name, "changes": changes, "rows": figures})
    head = ("choice", "bits per byte", "difference", "verdict", "parameters")
    shown = [
        (r.name, f"{r.bits_per_byte:.4f}", _difference(r), r.verdict, f"{r.parameters:,}")
        for r in rows
    ]  # fmt: skip
    why = "none was shown to be better" if best is None else f"{best.difference:+.4f} bits per byte"
    return StepResult(
        what=f"{len(table.choices)} choices with {table.seeds} seeds each: {name} ({why})",
        content=(CHOICE_FILE,),
        facts={"choice": name, "runs": len(outcomes)},
        table=(head, *shown),
    )


def _difference(row: Any) -> str:
    if row.name == "base":
        return ""
    return f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})"
