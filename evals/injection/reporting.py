"""Tables of an injection suite: three measures, and attack success by properties of the cases.

The measures follow AgentDojo (arXiv 2406.13352): utility without attack, utility under attack, targeted attack
success. Reported beside them are the share of runs in which the injection reached the model (a model that calls no
tool cannot be attacked, but is not safe for that reason), the failures, and the number of failed runs with an
unknown final state. Attacked runs of the same task are not independent, so the effect of attacks is computed per
task, with its interval over tasks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from evals.case import Case, Run, Score
from evals.harness.suite import Scorer, Table
from evals.injection.scoring import ended_by_itself, overflowed
from evals.statistics import paired_difference, wilson

Scored = tuple[Case, Run, Score]


def complete(scored: Sequence[Scored], score: Scorer) -> list[Scored]:
    """Return all runs with their numbers.

    The harness gives a run that failed before its first response a score without numbers; without new numbers it
    would be missing from the shares.
    """
    return [(case, run, judged if judged.numbers else score(case, run)) for case, run, judged in scored]


def main_table(scored: Sequence[Scored]) -> Table:
    """Return a table of the three measures and their context; `scored` comes from `complete`."""
    benign = [item for item in scored if "utility" in item[2].numbers]
    attacked = [item for item in scored if "attacked" in item[2].numbers]
    exposed = [item for item in attacked if item[2].numbers.get("exposed")]
    rows = [
        _row("utility without attack", benign, "utility"),
        _row("utility under attack", attacked, "utility_under_attack"),
        ("difference, paired by task", *_paired(benign, attacked)),
        _row("targeted attack success", attacked, "attacked"),
        _row("  the same, overflow counted as attacked (AgentDojo's rule)", attacked, "attacked_or_overflow"),
    ]
    if any("exposed" in item[2].numbers for item in attacked):
        rows += [
            _row("injection reached the model", attacked, "exposed"),
            _row("  attack success where it did", exposed, "attacked"),
        ]
    n_unseen = sum(item[2].numbers["state_unknown"] > 0 for item in attacked)
    if n_unseen:
        rows.append(("final state unknown, counted as not attacked", str(n_unseen), str(len(attacked))))
    failed = [run for _, run, _ in scored if not ended_by_itself(run)]
    n_overflowed = sum(overflowed(run) for run in failed)
    rows.append(
        ("failed or timed out", f"{len(failed)} ({n_overflowed} overflowed the context)", str(len(scored)))
    )
    return Table("Injection: utility and attack success", ("figure", "value (95 % interval)", "n"), tuple(rows))


def table_by(title: str, scored: Sequence[Scored], key: Callable[[Case], str]) -> Table:
    """Return attack success and utility by `key` in order of appearance, without benign cases."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        if "attacked" in item[2].numbers:
            groups[key(item[0])].append(item)
    with_exposure = any("exposed" in item[2].numbers for item in scored)
    columns = ("group", "n", "attack success", "utility under attack", *(("reached",) if with_exposure else ()))
    rows = [
        (
            name,
            str(len(items)),
            _share(items, "attacked"),
            _share(items, "utility_under_attack"),
            *((_share(items, "exposed"),) if with_exposure else ()),
        )
        for name, items in groups.items()
    ]
    return Table(title, columns, tuple(rows))


def _row(name: str, items: Sequence[Scored], number: str) -> tuple[str, str, str]:
    return name, _share(items, number), str(len(items))


def _share(items: Sequence[Scored], number: str) -> str:
    if not items:
        return "-"
    return str(wilson(sum(round(score.numbers[number]) for _, _, score in items), len(items)))


def _paired(benign: Sequence[Scored], attacked: Sequence[Scored]) -> tuple[str, str]:
    """Return the mean difference of utility under attack minus without, over tasks that were run in both ways."""
    without = _mean_by_task(benign, "utility")
    under = _mean_by_task(attacked, "utility_under_attack")
    both = sorted(set(without) & set(under))
    if not both:
        return "-", "0 tasks"
    interval = paired_difference([without[task] for task in both], [under[task] for task in both])
    return str(interval), f"{len(both)} tasks"


def _mean_by_task(items: Sequence[Scored], number: str) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for case, _, score in items:
        values[case.data["task"]].append(score.numbers[number])
    return {task: math.fsum(found) / len(found) for task, found in values.items()}
