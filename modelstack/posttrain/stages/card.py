"""Model card of a stage: `README.md`, generated from the record alone, so that card and record agree.

Structure as in Model Cards for Model Reporting (Mitchell et al., 2019).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from modelstack.posttrain.stages.record import DataFile, Measurement, Origin, StageRecord

CARD_FILE, PLOT = "README.md", "curves.png"
_SHORT = 12
"""Number of shown digits of a hash."""


def card(record: StageRecord) -> str:
    """Return the card as Markdown."""
    parts = [
        f"# {record.name}\n",
        f"{record.what}\n",
        markdown_table(("", ""), _origin_rows(record)),
        *_plot(record),
        *_evaluation(record),
        *_data(record),
        *_training(record),
        *_files(record),
        "## Recipe\n",
        _indented(json.dumps(record.recipe, indent=1, ensure_ascii=False)),
    ]
    return "\n".join(parts)


def change(before: Measurement | None, after: Measurement) -> str:
    """Return the difference of two figures, or an empty text without a figure before."""
    return "" if before is None else f"{after.value - before.value:+.4f}"


def shown(measured: Measurement | None) -> str:
    """Return a figure with its interval and its number of examples."""
    if measured is None:
        return ""
    interval = (
        "" if measured.low is None or measured.high is None else f"{measured.low:.4f} to {measured.high:.4f}, "
    )
    return f"{measured.value:.4f} ({interval}n = {measured.n:,})"


def _origin_rows(record: StageRecord) -> Iterator[tuple[str, str]]:
    yield "kind", record.kind
    for parent in record.parents:
        yield "from", _lineage(parent)
    yield "base, SHA-256", f"`{record.base_sha256}`"
    yield "recipe, SHA-256", f"`{record.recipe_sha256}`"
    yield "seed", str(record.seed)


def _lineage(origin: Origin) -> str:
    own = f"{origin.name} ({origin.kind}, `{origin.sha256[:_SHORT]}`)"
    above = " and ".join(_lineage(parent) for parent in origin.parents)
    return f"{own}, from {above}" if above else own


def _plot(record: StageRecord) -> list[str]:
    return [f"![Curves of the training]({PLOT})\n"] if PLOT in record.files else []


def _evaluation(record: StageRecord) -> list[str]:
    before = {each.name: each for each in record.evaluation.before}
    rows = [
        (each.name, shown(before.get(each.name)), shown(each), change(before.get(each.name), each), each.note)
        for each in record.evaluation.after
    ]
    if not rows:
        return []
    head = ("", "before", "after", "change", "")
    return ["## Evaluation\n", "Intervals are of 95 %.\n", markdown_table(head, rows)]


def _data(record: StageRecord) -> list[str]:
    data = record.data
    if not data.files:
        return []
    head = ("file", "for", "examples", "share", "kinds", "sources", "licences", "SHA-256")
    left_out = [f"{data.n_too_long:,} training examples were longer than a row and left out.\n"]
    reports = [
        f"### {name}\n\n{_indented(json.dumps(report, indent=1, ensure_ascii=False))}"
        for name, report in data.reports.items()
    ]
    return [
        "## Data\n",
        markdown_table(head, map(_data_row, data.files)),
        *(left_out if data.n_too_long else []),
        *reports,
    ]


def _data_row(file: DataFile) -> tuple[str, ...]:
    counts = (_counts(each) for each in (file.kinds, file.sources, file.licences))
    share = "" if file.share is None else f"{file.share:.1%}"
    return (file.name, file.role, f"{file.n_examples:,}", share, *counts, f"`{file.sha256[:_SHORT]}`")


def _training(record: StageRecord) -> list[str]:
    rows = [(name, _number(value)) for name, value in record.metrics.items()]
    rows += record.versions.items()
    return ["## Training\n", markdown_table(("", ""), rows)] if rows else []


def _files(record: StageRecord) -> list[str]:
    rows = [(name, f"{facts.n_bytes:,}", f"`{facts.sha256}`") for name, facts in sorted(record.files.items())]
    return ["## Files\n", markdown_table(("file", "bytes", "SHA-256"), rows)] if rows else []


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def _number(value: float | int | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; no text can break out of its cell."""
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Return text that cannot break out of its table cell."""
    return " ".join(text.replace("|", "\\|").split())


def _indented(text: str) -> str:
    # An indented block cannot be closed, and no heading can be forged, by a line of a recipe or report.
    return "\n".join(f"    {line}" for line in text.splitlines()) + "\n"
