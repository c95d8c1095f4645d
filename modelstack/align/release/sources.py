"""Results of the project's measuring programs as figures: evaluations, attacks, tables of refusals.

| given | written by |
|---|---|
| a file of `figures.Results`, JSON or TOML | `modelstack release tamper` and the like; by hand |
| a folder with `summary.json` | `agentkit eval SUITE --log-dir FOLDER` |
| a folder with `attempts.jsonl` | `modelstack attack MODEL --out FOLDER` |
| `results.json` with a table | `python -m tools.refusals.evaluate DATA --out FOLDER` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelstack.align.attack.report import Rate, rows_by
from modelstack.align.attack.run import RECORDS_FILE, read_records
from modelstack.align.release.figures import MAX_RESULTS_BYTES, Figure, Results, read_results, share
from modelstack.errors import UserError
from modelstack.files import read_json_object
from modelstack.run_folder import RunFolder

SUMMARY = "summary.json"
_INTERVAL = re.compile(r"(-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\)")


def read_source(path: Path) -> Results:
    """Return the figures of a results file, or of the folder of a measuring program.

    Raises:
        UserError: The path is none of them, or its content is broken.
    """
    if (path / SUMMARY).is_file():
        return _evaluation(path / SUMMARY)
    if (path / RECORDS_FILE).is_file():
        return _attack(path)
    if path.is_dir():
        raise UserError(
            f"results {path}: the folder has neither {SUMMARY} of `agentkit eval` nor {RECORDS_FILE} of "
            f"`modelstack attack`; name one of these, or a file"
        )
    if path.suffix == ".json" and path.is_file():
        content = read_json_object(path, MAX_RESULTS_BYTES)
        if {"columns", "rows"} <= content.keys():
            return _table(content, path)
    return read_results(path)


def _evaluation(file: Path) -> Results:
    summary = read_json_object(file, MAX_RESULTS_BYTES)
    try:
        identity = summary["identity"]
        suite, seed = identity["suite"], int(identity.get("seed", 0))
        options = "".join(f" -o {key}={value}" for key, value in identity.get("options", {}).items())
        part = "refusals" if suite == "refusals" else "evaluation"
        figures = [
            Figure(
                part=part,
                name=f"{suite}, {line['group']}",
                better="higher",
                seed=seed,
                command=f"agentkit eval {suite} -m {identity['model']}{options}",
                **{key: line["score"][key] for key in ("value", "low", "high", "n")},
            )
            for line in summary["lines"]
        ]
        return Results(figures=tuple(figures))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no summary of `agentkit eval`: {_brief(error)}") from error


def _attack(folder: Path) -> Results:
    records = read_records(folder)
    try:
        plan = json.loads(RunFolder(folder).recipe.read_text(encoding="utf-8"))["resolved"]
        seed, target = int(plan["seed"]), str(plan["target"])
        options = (
            f" --samples {plan['samples']} --temperature {plan['temperature']} --max-tokens {plan['max_tokens']}"
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} has no plan of `modelstack attack`: {_brief(error)}") from error
    n = sum(each.harmful for each in records if each.transform == records[0].transform) if records else 0
    command = f"modelstack attack {target} --rows ROWS --n {n} --seed {seed}{options}"

    def figures() -> Iterator[Figure]:
        everything = rows_by(records, lambda _: "all transforms")
        for row in [*everything, *rows_by(records, lambda each: each.transform)]:
            for name, rate in (("attacks that succeeded", row.attack), ("harmless twins refused", row.refused)):
                if rate.of:
                    yield _rate(f"{name}, {row.name}", rate, command, seed)

    return Results(figures=tuple(figures()))


def _rate(name: str, rate: Rate, command: str, seed: int) -> Figure:
    return share("red team", name, rate.n, rate.of, better="lower", command=command, seed=seed)


def _table(content: dict[str, Any], path: Path) -> Results:
    """Return the last column of a table of refusals; the stages before it are the columns in front."""
    try:
        columns = [str(each) for each in content["columns"]]
        first = columns.index("n") + 1
        figures: list[Figure] = []
        for row in content["rows"]:
            cells = dict(zip(columns, row, strict=True))
            match = _INTERVAL.fullmatch(cells[columns[-1]])
            if match is None or len(columns) <= first:
                raise ValueError(f"cell {cells[columns[-1]]!r} is no value with its interval")
            value, low, high = map(float, match.groups())
            is_harmful = cells["want"] == "refuse"
            figures.append(
                Figure(
                    part="refusals",
                    name=f"{cells['requests']}, {'harmful' if is_harmful else 'harmless'} requests refused",
                    value=value,
                    low=low,
                    high=high,
                    n=int(cells["n"]),
                    better="higher" if is_harmful else "lower",
                    command="python -m tools.refusals.evaluate DATA --stage STAGE",
                )
            )
        return Results(figures=tuple(figures))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no table of `tools.refusals.evaluate`: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    return repr(error)
