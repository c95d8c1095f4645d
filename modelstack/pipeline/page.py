"""Page of a pipeline: one HTML file with what each step was worth, plots, samples, lineage and the explanations.

It has no script and asks for nothing: plots are SVG in the file, and its policy forbids requests. Texts come from
models and from users, so all of them are escaped. It is written from the files of the run alone, whatever is done.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelstack.align.sae.feature_pages import shown
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.pipeline.explain import explanations
from modelstack.pipeline.measuring import BITS, IS_BETTER_LOWER, Evaluated, read_evaluation
from modelstack.pipeline.page_plots import ablation_plot, cost_plot, loss_plot, refusal_plot
from modelstack.pipeline.record import StepRecord, read_record
from modelstack.pipeline.steps import BY_NAME, STEPS
from modelstack.pipeline.worth import Worth, worth_of_steps
from modelstack.posttrain.stages.record import Measurement

STATE_FILE, PAGE_FILE = "pipeline.json", "index.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --paper: #fbfaf8; --line: #d9d5cd; --dim: #62605b;
  --accent: #a8450f; --good: #1c6e3d; --bad: #ab2320; --soft: #f1eee8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --paper: #191a1c; --line: #3b3c3f; --dim: #a3a19b;
  --accent: #ef9b62; --good: #6fc994; --bad: #f08a86; --soft: #242629 } }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .2rem 0 } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem;
  border-top: 1px solid var(--line); padding-top: 1rem } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p { max-width: 46rem } .dim, small { color: var(--dim) } a { color: var(--accent) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .92rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line) }
th { font-weight: 600; white-space: nowrap } .n { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap } .better { color: var(--good) } .worse { color: var(--bad) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { font-size: .9rem; color: var(--dim) } svg { width: 100%; height: auto }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif } svg .axis { stroke: var(--line) }
svg .grid { stroke: var(--line); stroke-dasharray: 2 3 }
svg .a { stroke: var(--accent); fill: none; stroke-width: 2 }
svg .b { stroke: var(--dim); fill: none; stroke-width: 1.5 } svg .bar { fill: var(--accent) }
svg .bar2 { fill: var(--dim); opacity: .45 } svg .dot { fill: var(--accent) }
tbody th { width: 7rem } th + td pre { min-width: 12rem } .scroll + .scroll { margin-top: 1.5rem }
details { border-bottom: 1px solid var(--line); padding: .4rem 0 } summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; margin: .2rem 0;
  background: var(--soft); padding: .5rem .7rem } code { font: .92em ui-monospace, monospace;
  overflow-wrap: anywhere } ol.tree { list-style: none; padding-left: 0 } ol.tree ol { list-style: none;
  padding-left: 1.2rem; border-left: 1px solid var(--line) } .mark { font-size: .85rem; color: var(--dim) }
"""


def write_page(folder: Path) -> Path:
    """Write the page of a pipeline into its folder and return its path.

    Raises:
        UserError: The folder holds no pipeline.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no pipeline: {STATE_FILE} cannot be read ({error})") from error
    with replacing(folder / PAGE_FILE) as temporary:
        temporary.write_text(page(folder, state), encoding="utf-8")
    return folder / PAGE_FILE


def page(folder: Path, state: Mapping[str, Any]) -> str:
    """Return the page as HTML."""
    records = {step.name: record for step in STEPS if (record := _record(folder / step.folder)) is not None}
    rows = {row["name"]: row for row in state["steps"]}
    measured = [
        found
        for step in STEPS
        if step.makes_model and step.name in records and (found := read_evaluation(folder, step.name)) is not None
    ]
    parts = [
        f"<h1>{_text(state['name'])}</h1>",
        f"<p class=dim>Twelve steps from raw text to an agent; version {_text(state['package'])}, hash of all "
        f"outputs <code>{_text(state['digest'][:16])}</code>. Intervals are of 95 %.</p>",
        _steps(rows, records),
        "<h2>What each step was worth</h2>",
        "<p>A figure without the step and with it. A difference is coloured if its interval excludes 0; others "
        "may be chance. Data and tokenizers are compared by small trainings of equal computation.</p>",
        _worth(worth_of_steps(folder)),
        "<h2>The same evaluation after every step</h2>",
        "<p>After every step that changes the model. The change is against the step before; a change whose "
        "intervals overlap may be chance.</p>",
        _spanning(measured),
        "<h2>Plots</h2>",
        f"<div class=plots>{''.join(_figures(folder, records, rows))}</div>",
        "<h2>The same prompts after every step</h2>",
        "<p>Most probable tokens, cut at a fixed length.</p>",
        _samples(measured),
        "<h2>Lineage</h2>",
        "<p>Each step with the hash of its output, below the steps that it read. "
        "<code>modelstack stage lineage</code> checks every file.</p>",
        _lineage(records, rows),
        "<h2>The steps</h2>",
        *(_details(name, records.get(name), rows.get(name, {})) for name in BY_NAME),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_text(state['name'])}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _record(folder: Path) -> StepRecord | None:
    try:
        return read_record(folder)
    except UserError:
        return None


def _text(text: object) -> str:
    return html.escape(str(text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already; a head is aligned like the cells below it."""
    numbers = [cell.startswith("<td class=n>") for cell in rows[0]] if rows else []
    heads = "".join(
        f"<th class=n>{cell}</th>" if place < len(numbers) and numbers[place] else f"<th>{cell}</th>"
        for place, cell in enumerate(head)
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(text: str, kind: str = "") -> str:
    return f"<td class={kind}>{text}</td>" if kind else f"<td>{text}</td>"


def _steps(rows: Mapping[str, Mapping[str, Any]], records: Mapping[str, StepRecord]) -> str:
    shown_rows: list[list[str]] = []
    total = planned = 0.0
    for step in STEPS:
        row, record = rows.get(step.name, {}), records.get(step.name)
        status = row.get("status", "waiting")
        seconds = record.seconds if record is not None and status == "done" else None
        total, planned = total + (seconds or 0), planned + (row.get("planned_seconds") or 0)
        what = (
            _text(record.result.what) if record is not None and status == "done" else f"<em>{_text(status)}</em>"
        )
        memory = f"{record.peak_memory_bytes / 1e6:,.0f} MB" if record is not None and status == "done" else ""
        link = f'<a href="#{step.name}">{step.name}</a>'
        cells = (str(step.number), link, what, _time(seconds), _time(row.get("planned_seconds")), memory)
        shown_rows.append([_cell(cell, "n" if place in (0, 3, 4, 5) else "") for place, cell in enumerate(cells)])
    sums = ("", "all", "", _time(total), _time(planned), "")
    shown_rows.append([_cell(cell, "n" if place in (3, 4) else "") for place, cell in enumerate(sums)])
    return _table(("", "step", "outcome", "took", "planned", "memory"), shown_rows)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _worth(found: Sequence[Worth]) -> str:
    if not found:
        return "<p><em>Nothing was compared yet.</em></p>"
    rows: list[list[str]] = []
    for each in found:
        digits = _digits(each.figure)
        difference = "" if each.difference is None else _signed(*each.difference, digits)
        link = f'<a href="#{each.step}">{each.step}</a>'
        rows.append(
            [
                *map(_cell, (link, _text(each.compared), _text(each.figure))),
                _cell(f"{each.before:.{digits}f}", "n"),
                _cell(f"{each.after:.{digits}f}", "n"),
                _cell(f'<span class="{each.verdict or "dim"}">{difference}</span>', "n"),
                _cell(_text(each.cases)),
            ]
        )
    return _table(("step", "compared", "figure", "first", "second", "difference, 95 %", "of"), rows)


def _digits(figure: str) -> int:
    return 3 if figure.startswith(BITS) else 2


def _signed(value: float, low: float, high: float, digits: int) -> str:
    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def _spanning(measured: Sequence[Evaluated]) -> str:
    if not measured:
        return "<p><em>No model was measured yet.</em></p>"
    names = [each.name for each in measured[0].figures]
    rows: list[list[str]] = []
    for number, now in enumerate(measured):
        before = measured[number - 1] if number else None
        cells = [_cell(f'<a href="#{now.step}">{now.step}</a>')]
        cells += [_cell(_change(now.figure(name), before.figure(name) if before else None), "n") for name in names]
        rows.append(cells)
    return _table(("step", *map(_text, names)), rows)


def _change(now: Measurement | None, before: Measurement | None) -> str:
    if now is None:
        return ""
    digits = _digits(now.name)
    interval = "" if now.low is None or now.high is None else f"{now.low:.{digits}f} to {now.high:.{digits}f}"
    text = f"{now.value:.{digits}f}<br><small>{interval}</small>"
    if before is None or round(now.value - before.value, digits) == 0:
        return text
    difference = now.value - before.value
    is_better = (difference < 0) == (now.name in IS_BETTER_LOWER)
    is_clear = _are_apart(now, before)
    kind = ("better" if is_better else "worse") if is_clear else "dim"
    return f'{text}<br><span class="{kind}">{difference:+.{digits}f}</span>'


def _are_apart(one: Measurement, other: Measurement) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low > other.high or one.high < other.low


def _figures(
    folder: Path, records: Mapping[str, StepRecord], rows: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    def figure(svg: str, caption: str) -> str:
        return f"<figure>{svg}<figcaption>{_text(caption)}</figcaption></figure>"

    for name in ("train", "sft", "preferences"):
        if name in records and (svg := loss_plot(folder / BY_NAME[name].folder / "metrics.jsonl")):
            held_out = "; line: held-out loss" if 'class="a"' in svg else ""
            yield figure(svg, f"{name}: loss by step{held_out}")
    choice = folder / BY_NAME["architecture"].folder / "choice" / "choice.json"
    if "architecture" in records and (svg := ablation_plot(choice)):
        yield figure(svg, "architecture: bits per byte of each choice; shorter is better")
    taken = {
        name: (record.seconds, rows.get(name, {}).get("planned_seconds") or 0.0)
        for name, record in records.items()
    }
    if taken:
        yield figure(cost_plot(taken), "seconds of each step: taken, and planned (grey)")
    tamper = folder / BY_NAME["align"].folder / "results" / "tamper.json"
    if "align" in records and (svg := refusal_plot(tamper)):
        yield figure(svg, "align: requests refused, harmful and harmless (grey), in each state of the model")


def _samples(measured: Sequence[Evaluated]) -> str:
    if not measured:
        return ""
    parts: list[str] = []
    for place, first in enumerate(measured[0].samples):
        kind = "request" if first.is_request else "beginning"
        lines = "".join(
            f"<tr><th>{each.step}</th><td><pre>{shown(each.samples[place].text) or ' '}</pre></td></tr>"
            for each in measured
            if place < len(each.samples)
        )
        head = f"<h3>{_text(first.prompt)} <span class=mark>{kind}</span></h3>"
        parts.append(f"{head}<div class=scroll><table>{lines}</table></div>")
    return "\n".join(parts)


def _lineage(records: Mapping[str, StepRecord], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the steps as a tree: each below the newest step that it read."""
    children: dict[str, list[str]] = {}
    newest_model = ""
    for step in STEPS:
        record = records.get(step.name)
        needs = [need.partition("/")[0] for need in record.inputs if need != "model"] if record is not None else []
        if record is not None and "model" in record.inputs:
            needs.append(newest_model)
        read = [need for need in needs if need in BY_NAME]
        parent = max(read, key=lambda name: BY_NAME[name].number) if read else ""
        children.setdefault(parent, []).append(step.name)
        if step.makes_model and record is not None:
            newest_model = step.name
    return f"<ol class=tree>{_branch('', children, records, rows)}</ol>"


def _branch(
    name: str,
    children: Mapping[str, Sequence[str]],
    records: Mapping[str, StepRecord],
    rows: Mapping[str, Mapping[str, Any]],
) -> str:
    parts: list[str] = []
    for each in children.get(name, ()):
        record = records.get(each)
        mark = (
            f"<code>{record.digest[:12]}</code>"
            if record is not None
            else _text(rows.get(each, {}).get("status", ""))
        )
        below = _branch(each, children, records, rows)
        inner = f"<ol>{below}</ol>" if below else ""
        parts.append(f"<li>{BY_NAME[each].number} <b>{each}</b> <span class=mark>{mark}</span>{inner}</li>")
    return "".join(parts)


def _details(name: str, record: StepRecord | None, row: Mapping[str, Any]) -> str:
    step, found = BY_NAME[name], explanations()[name]
    body = [f"<p>{_text(' '.join(found.lines))}</p>", f"<p class=dim>{_text(found.paper)}</p>"]
    if row.get("status") == "skipped":
        body.insert(0, "<p><b>Skipped.</b> This run has no output of this step.</p>")
    if record is not None:
        body += [f"<p class=worse>{_text(note)}</p>" for note in record.result.notes]
        if record.result.table:
            head, *rows = record.result.table
            cells = [[_cell(_text(cell)) for cell in line] for line in rows]
            body.append(_table([_text(cell) for cell in head], cells))
    listed = "".join(
        f"<li>{_text(part.name)}: <code>modelstack/{_text(part.file)}</code> {_text(part.symbol)}"
        f"{f' <small>{_text(part.source)}</small>' if part.source else ''}</li>"
        for part in found.parts
    )
    body.append(f"<details><summary>Parts and their files</summary><ul>{listed}</ul></details>")
    summary = f"<summary><b>{step.number} {name}</b> {_text(step.about)}</summary>"
    return f'<details id="{name}">{summary}{"".join(body)}</details>'
