"""The result of an improvement for people: history, figures of the gate, texts as a difference."""

from __future__ import annotations

from pathlib import Path

from agentkit.basics.line_diff import line_diff
from agentkit.improve.folder import ImprovementFolder, Index, Version
from agentkit.improve.gate import Verdict
from agentkit.improve.pieces import Pieces
from modelstack.terminal.tables import Column, Table


def history_table(folder: ImprovementFolder, index: Index) -> Table:
    """Return the decisions, the newest last."""
    rows: list[list[str]] = []
    for entry in index.history:
        verdict = folder.version(entry.version).verdict if entry.sha256 else None
        gain = "" if verdict is None else _gain(verdict)
        mark = "accepted" if entry.version == index.accepted and entry is index.history[-1] else ""
        rows.append([str(entry.version), entry.action, entry.at, gain, mark])
    columns = (Column("version"), Column("decision"), Column("at"), Column("gain"), Column("now"))
    return Table(columns, rows, "history")


def verdict_tables(verdict: Verdict) -> list[Table]:
    """Return the figures of a gate and of its guards."""
    figures = [
        ["held-back tasks", str(verdict.n)],
        ["present version", f"{verdict.current:.3f}"],
        ["candidate", f"{verdict.candidate:.3f}"],
        [f"gain, {100 * verdict.level:.1f} % interval", _gain(verdict)],
        ["tasks better, worse", f"{verdict.n_better}, {verdict.n_worse}"],
        ["p of the sign-flip test", f"{verdict.p_value:.4f}" if verdict.p_value >= 0.0001 else "under 0.0001"],
        ["gates on these tasks so far", str(verdict.attempt)],
        ["seed", str(verdict.seed)],
    ]
    guards = [
        [
            guard.name,
            f"{guard.current:g}",
            f"{guard.candidate:g}",
            f"{guard.limit:g}",
            "yes" if guard.holds else "NO",
        ]
        for guard in verdict.guards
    ]
    names = (Column("guard"), Column("present"), Column("candidate"), Column("at most"), Column("holds"))
    return [Table((Column("gate"), Column("value")), figures), Table(names, guards)]


def texts(before: Pieces, after: Pieces) -> list[str]:
    """Return the changed texts as a unified diff."""
    return line_diff(before.lines(), after.lines(), old_name="present", new_name="candidate")


def summary(version: Version, index: Index, out: Path) -> str:
    """Return what was decided, and what to do next."""
    spent = f"{version.spent.rollouts} rollouts, {version.spent.tokens:,} tokens"
    action = next(entry.action for entry in reversed(index.history) if entry.version == version.number)
    match action:
        case "shipped" | "accepted" if index.accepted != version.number:
            decided = (
                f"version {version.number} is the result of this improvement, and was left by a roll-back: "
                f"`agentkit improve rollback {out} --to {version.number}` accepts it again"
            )
        case "shipped" | "accepted":
            decided = f"shipped: version {version.number}; use it with `agent.improved({str(out)!r})`"
        case "waiting":
            decided = (
                f"version {version.number} waits for a review, because a model or a trace gave some of its "
                f"texts: read the difference, then `agentkit improve accept {out}`"
            )
        case "refused" if version.verdict is not None:
            decided = f"refused, version {index.accepted} stays: {'; '.join(version.verdict.reasons)}"
        case _:
            decided = f"no candidate was better on the selection tasks, version {index.accepted} stays"
    return f"{decided} ({spent})"


def _gain(verdict: Verdict) -> str:
    return f"{verdict.gain:+.3f} ({verdict.low:+.3f} to {verdict.high:+.3f})"
