"""Output of a tokenizer report: tables on the console, a JSON file, bar charts by domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelstack.terminal.tables import Column, Table, print_tables
from modelstack.tokenizer.measures import Interval
from modelstack.tokenizer.report import GroupMeasures, Report, TokenizerMeasures
from modelstack.tokenizer.tokenizer_folder import write_text

if TYPE_CHECKING:
    from rich.console import Console

REPORT_FILE, PLOT_FILE = "report.json", "report.png"
_COLOURS = ("#1b6ca8", "#f2a65a", "#b8b8b8", "#5b8c5a", "#8d6cab", "#c0504d", "#4f4f4f")
Measure = Callable[[GroupMeasures], Interval | None]
_PANELS: tuple[tuple[str, Measure], ...] = (
    ("bytes per token (more is better)", lambda group: group.bytes_per_token),
    ("tokens per word (fewer is better)", lambda group: group.tokens_per_word),
)


def store_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.png` to a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    return folder / REPORT_FILE, draw_report(report, folder / PLOT_FILE)


def print_report(report: Report, console: Console) -> None:
    """Print the measures of the tokenizers, in total and by group."""
    tables = [_summary(report)]
    for kind in ("domain", "language"):
        if any(group.kind == kind for group in report.tokenizers[0].groups):
            tables += [_by_group(report, kind, f"{label}, by {kind}", measure) for label, measure in _PANELS]
    if report.tokenizers[0].parity:
        tables.append(_parity(report))
    print_tables(console, *tables)


def _table(title: str, first: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    columns = (Column(first), *(Column(name, name) for name in names))
    return Table(columns, [(label, *cells) for label, cells in rows], title)


def _summary(report: Report) -> Table:
    cost = report.cost
    whole: list[GroupMeasures] = [each.group() for each in report.tokenizers]
    owner = "tied" if cost.tied else "untied"
    rows: list[tuple[str, list[str]]] = [
        ("ids (special)", [f"{each.n_ids:,} ({each.n_special})" for each in report.tokenizers]),
        ("bytes per token", [_shown(group.bytes_per_token) for group in whole]),
        ("tokens to the first", [_shown(group.tokens_to_first) for group in whole]),
        ("tokens per word", [_shown(group.tokens_per_word) for group in whole]),
        ("words that are one token", [_shown(group.whole_words, percent=True) for group in whole]),
        ("Rényi efficiency (2.5)", [f"{each.renyi_efficiency:.3f}" for each in report.tokenizers]),
        (
            "ids unseen / below 5",
            [f"{each.unseen_share:.1%} / {each.rare_share:.1%}" for each in report.tokenizers],
        ),
        ("longest token, bytes", [f"{each.longest_token_bytes}" for each in report.tokenizers]),
        ("which begins with", [f"{each.longest_token[:6]!r}" for each in report.tokenizers]),
        ("tokens cutting characters", [f"{each.n_cut_characters:,}" for each in report.tokenizers]),
        ("numbers split alike", [_digits(each) for each in report.tokenizers]),
        ("documents not exact", [f"{each.round_trip_failures:,}" for each in report.tokenizers]),
        (
            f"embedding, {cost.width} wide, {owner}",
            [f"{each.embedding_parameters / 1e6:.1f} M ({each.share_of_model:.1%})" for each in report.tokenizers],
        ),
        ("encoding, MB/s", [f"{each.megabytes_per_second:.1f}" for each in report.tokenizers]),
    ]
    return _table(f"on {_amount(report)}; ± 95 %", "measure", _names(report), rows)


def _names(report: Report) -> list[str]:
    return [each.name for each in report.tokenizers]


def _amount(report: Report) -> str:
    whole = report.tokenizers[0].group()
    return f"{whole.n_documents:,} documents, {whole.n_bytes / 1e6:.1f} MB"


def _by_group(report: Report, kind: str, title: str, measure: Measure) -> Table:
    rows = [
        (f"{groups[0].name} ({groups[0].n_documents:,})", [_shown(measure(group)) for group in groups])
        for groups in zip(*(each.groups for each in report.tokenizers), strict=True)
        if groups[0].kind == kind
    ]
    return _table(title, kind, _names(report), rows)


def _parity(report: Report) -> Table:
    rows = [
        (language, [_shown(each.parity.get(language)) for each in report.tokenizers])
        for language in report.tokenizers[0].parity
    ]
    return _table("parity: tokens of the same lines to those of the base", "language", _names(report), rows)


def _digits(measured: TokenizerMeasures) -> str:
    """Return the share for the worst length, and the split of nine digits."""
    worst = min(split.share for split in measured.digits)
    pieces = measured.digits[-1].pieces
    return f"{worst:.0%}, " + (f"{pieces[0]} each" if len(set(pieces)) == 1 else "+".join(map(str, pieces)))


def _shown(interval: Interval | None, *, percent: bool = False) -> str:
    """Return an estimate and the wider side of its interval; the JSON file has both sides."""
    if interval is None:
        return "-"
    half = max(interval.high - interval.value, interval.value - interval.low)
    return f"{interval.value:.1%} ±{half * 100:.1f}" if percent else f"{interval.value:.3f} ±{half:.3f}"


def draw_report(report: Report, path: Path) -> Path:
    """Draw both panels side by side, with a group of bars per domain, and return the path."""
    from matplotlib.figure import Figure

    names = [group.name for group in report.tokenizers[0].groups]
    n_bars = len(names) * len(report.tokenizers)
    figure = Figure(figsize=(11, 1.6 + 0.17 * n_bars + 0.12 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (label, measure) in zip(panels, _PANELS, strict=True):
        for k, each in enumerate(report.tokenizers):
            _draw_bars(axes, k, len(report.tokenizers), [measure(group) for group in each.groups], each)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(y=0.01)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)
    figure.supxlabel(f"{_amount(report)}; 95 % intervals over documents", fontsize=8, color="#555555")
    figure.savefig(path, dpi=150)
    return path


def _draw_bars(
    axes: Any, k: int, n: int, intervals: Sequence[Interval | None], measured: TokenizerMeasures
) -> None:
    """Draw one tokenizer's bars with their intervals and values."""
    drawn = [(row, interval) for row, interval in enumerate(intervals) if interval is not None]
    height = 0.8 / n
    places = [row + (k - (n - 1) / 2) * height for row, _ in drawn]
    values = [interval.value for _, interval in drawn]
    errors = [[i.value - i.low for _, i in drawn], [i.high - i.value for _, i in drawn]]
    size = f"{measured.n_ids:,}"
    label = measured.name if size in measured.name else f"{measured.name} ({size} ids)"
    style = {"linewidth": 1, "capsize": 1.5}
    colour = _COLOURS[k % len(_COLOURS)]
    axes.barh(
        places, values, height * 0.92, xerr=errors, color=colour, label=label, ecolor="#444444", error_kw=style
    )
    for place, (_, interval) in zip(places, drawn, strict=True):
        axes.annotate(
            f"{interval.value:.2f}",
            (interval.high, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color="#333333",
        )
