"""Report of a specialisation: results by kind and by tool, and numbers of kept and dropped examples."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from modelstack.files import json_lines, replacing
from modelstack.posttrain.stages.record import Measurement
from modelstack.posttrain.stages.stage import ADAPTER_GGUF, Stage
from modelstack.sft.prior.exact_calls import EXACT, share_interval
from modelstack.sft.run import REPLIES_AFTER, REPLIES_BEFORE

REPORT, PLOT = "report.md", "report.png"
_SHOWN_ERRORS = 12


def write_report(
    out: Path, stage: Stage, manifest: Mapping[str, Any], *, model: str, seconds: float, more: Sequence[str] = ()
) -> Path:
    """Write the page and its plot.

    Args:
        out: Folder of the specialisation.
        stage: The trained stage, with its measurements.
        manifest: Manifest of the data.
        model: Name of the base, as `agentkit run --model` takes it.
        seconds: Duration of the last run of the command.
        more: Sections on later stages.
    """
    before = _replies(stage.path / REPLIES_BEFORE)
    after = _replies(stage.path / REPLIES_AFTER)
    of_before = {each.name: each for each in stage.record.evaluation.before}
    figures = [each for each in stage.record.evaluation.after if each.name.startswith(EXACT)]
    _plot(out / PLOT, figures, of_before)
    page = "\n".join(
        (
            f"# {stage.record.name}\n",
            f"{stage.record.what}\n",
            f"Held-back requests, other words and other values than those trained on; grammar on, greedy, decoded "
            f"by llama.cpp. Intervals are Wilson's, 95 %. The last run took {seconds / 60:.1f} minutes.\n",
            f"![before and after]({PLOT})\n",
            _table(
                ("", "n", "before", "after"),
                ((each.name, each.n, _shown(of_before.get(each.name)), _shown(each)) for each in figures),
            ),
            "## By tool\n",
            _table(("tool", "server", "n", "before", "after"), _by_tool(before, after, manifest["tools"])),
            *more,
            "## Use it\n",
            f"    agentkit run --model '{model}?lora={out / ADAPTER_GGUF}&abstain=true' --mcp SERVER 'REQUEST'\n",
            "## Replies that are still wrong\n",
            *_errors(after),
            "## Data\n",
            _table(("", ""), _facts(manifest)),
        )
    )
    with replacing(out / REPORT) as temporary:
        temporary.write_text(page + "\n", encoding="utf-8")
    return out / REPORT


def _replies(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in json_lines(file)]


def _by_tool(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], servers: Mapping[str, str]
) -> Iterable[tuple[Any, ...]]:
    """Yield a row for each tool: requests that need it, and the shares answered with exactly the right calls."""
    rights: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for one, other in zip(before, after, strict=True):
        wanted = cast("list[dict[str, Any]]", one["wanted"] if isinstance(one["wanted"], list) else [])
        for name in {call["name"] for call in wanted}:
            rights[name].append((bool(one["right"]), bool(other["right"])))
    for name, server in servers.items():
        pairs = rights.get(name, [])
        if pairs:
            shares = [_percent(sum(pair[i] for pair in pairs), len(pairs)) for i in (0, 1)]
            yield f"`{name}`", server, len(pairs), *shares


def _errors(after: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    wrong = [reply for reply in after if not reply["right"]]
    if not wrong:
        yield "None.\n"
        return
    yield f"{len(wrong)} of {len(after)}; the first of them:\n"
    yield _table(
        ("kind", "wanted", "reply"),
        (
            (reply["kind"], _code(json.dumps(reply["wanted"], ensure_ascii=False)), _code(reply["reply"]))
            for reply in wrong[:_SHOWN_ERRORS]
        ),
    )


def _facts(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "tools", len(manifest["tools"])
    yield "calls made to find values", manifest["calls_for_values"]
    yield "parameters with values of the servers' own", len(manifest["values_found"])
    for side in ("train", "test"):
        yield f"examples, {side}", ", ".join(f"{n} {kind}" for kind, n in sorted(manifest[side].items()))
    if manifest["without_words"]:
        yield "tools that nothing could be asked of", ", ".join(manifest["without_words"])
    for reason, n in manifest["counts"].items():
        yield f"left out or noted: {reason}", n


def _plot(file: Path, figures: Sequence[Measurement], before: Mapping[str, Measurement]) -> None:
    """Draw the shares before and after with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 * len(figures) + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()  # matplotlib's annotations are partial
    for shift, name, of, colour in (
        (0.18, "before", before, "0.65"),
        (-0.18, "after", {each.name: each for each in figures}, "C0"),
    ):
        rows = [(i, of[each.name]) for i, each in enumerate(reversed(figures)) if each.name in of]
        values = [m.value for _, m in rows]
        spans = [
            [max(0.0, m.value - (m.low if m.low is not None else m.value)) for _, m in rows],
            [max(0.0, (m.high if m.high is not None else m.value) - m.value) for _, m in rows],
        ]
        axes.barh([i + shift for i, _ in rows], values, 0.34, xerr=spans, label=name, color=colour, capsize=2)
    axes.set_yticks(range(len(figures)), [each.name for each in reversed(figures)])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of held-back requests with exactly the right reply, 95 % interval")
    axes.legend(loc="lower right")
    with replacing(file) as temporary:
        cast(Any, figure).savefig(temporary, format="png", dpi=120)


def _shown(measured: Measurement | None) -> str:
    if measured is None:
        return ""
    low, high = (measured.low or 0.0), (measured.high if measured.high is not None else 1.0)
    return f"{100 * measured.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _percent(n_right: int, n: int) -> str:
    low, high = share_interval(n_right, n)
    return f"{100 * n_right / n:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _code(text: str) -> str:
    """Return text as code in a table cell; a model's output must not be interpreted as Markdown."""
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", " ")[:200] + "`"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
