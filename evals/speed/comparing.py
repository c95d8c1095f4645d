"""Compares a measurement with an earlier one as ratios, to detect changes in speed.

Figures are paired by name; the values of a comparison by its title and program. A ratio is meaningful only if
machine, packages and parameters are equal, so differences are listed.
"""

from __future__ import annotations

from pathlib import Path

from agentkit.errors import UserError
from evals.harness.suite import Table
from evals.speed.results import Figure
from evals.speed.running import Record, read_record


def read_records(path: Path) -> dict[str, Record]:
    """Read the records of an earlier run, by benchmark, from a folder or a single file.

    Raises:
        UserError: there are no records, or the file is not a record.
    """
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    found = [record for each in paths if (record := read_record(each)) is not None]
    if not found:
        raise UserError(
            f"{path} holds no results of benchmarks: name a folder that `python -m evals.speed --out FOLDER` "
            f"has written, or one NAME.json in it."
        )
    return {record.benchmark: record for record in found}


def against_earlier(record: Record, earlier: Record) -> Table:
    """Return a table of every quantity in both records of a benchmark, with the ratio of now to before."""
    then = _quantities(earlier)
    rows = [
        (
            name,
            f"{then[name].value:.4g} {now.unit}",
            f"{now.value:.4g} {now.unit}",
            _ratio(now.value, then[name].value),
        )
        for name, now in _quantities(record).items()
        if name in then and then[name].unit == now.unit
    ]
    title = f"{record.benchmark}: against {earlier.before.time[:10]}, {earlier.machine.commit or 'no commit'}"
    return Table(title, ("figure", "before", "now", "now / before"), tuple(rows))


def differences(before: Record, now: Record) -> list[str]:
    """Return the differences between two records besides the code; such differences make ratios unreliable."""
    found = [
        name
        for name in ("cpu", "cores", "governor", "memory_gib", "system", "python")
        if getattr(before.machine, name) != getattr(now.machine, name)
    ]
    packages = {**before.machine.packages, **now.machine.packages}
    found += [key for key in packages if before.machine.packages.get(key) != now.machine.packages.get(key)]
    if before.quick != now.quick:
        found.append("one is a short run")
    if before.result is not None and now.result is not None:
        then, here = before.result.parameters, now.result.parameters
        found += [key for key in {**then, **here} if then.get(key) != here.get(key)]
    return found


def _quantities(record: Record) -> dict[str, Figure]:
    if record.result is None:
        return {}
    found = {figure.name: figure for figure in record.result.figures}
    for comparison in record.result.comparisons:
        for program, value in comparison.values.items():
            name = f"{comparison.title}: {program}"
            found.setdefault(name, Figure(name, value, comparison.unit))
    return found


def _ratio(now: float, before: float) -> str:
    return f"{now / before:.2f}" if before else ""
