"""Plots of a pipeline's page, as SVG whose colours follow the page's light or dark style."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 240, 48, 26, 10
ROW_HEIGHT, LABELS = 26, 190
MOST_POINTS = 400
LONGEST_LABEL = 27
Point = tuple[float, float]


def loss_plot(file: Path) -> str:
    """Return losses by step from a run's `metrics.jsonl`; "" if there are none."""
    losses: list[Point] = []
    held_out: list[Point] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        found = _parsed(line)
        step = found.get("step")
        if not isinstance(step, int):
            continue
        losses_of = found.get("losses")
        total = losses_of.get("total") if isinstance(losses_of, dict) else None
        if isinstance(total, int | float) and math.isfinite(total) and not found.get("rejected"):
            losses.append((step, float(total)))
        elif isinstance(loss := found.get("loss"), int | float) and math.isfinite(loss):
            held_out.append((step, float(loss)))
    return _lines(losses, held_out) if len(losses) > 1 else ""


def ablation_plot(file: Path) -> str:
    """Return the bits per byte of each choice; "" if there is no file."""
    try:
        rows: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError):
        return ""
    values = {name: float(row["bits_per_byte"]) for name, row in rows.items() if _finite(row["bits_per_byte"])}
    return _bars([(name, value, None, f"{value:.3f}") for name, value in values.items()]) if values else ""


def cost_plot(taken: Mapping[str, tuple[float, float]]) -> str:
    """Return the seconds of each step beside the planned ones."""
    return _bars([(name, took, planned, f"{took:,.0f} s") for name, (took, planned) in taken.items()])


def refusal_plot(file: Path) -> str:
    """Return the refused shares of harmful and harmless requests by state of the model; "" if there is no file."""
    try:
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    except (OSError, ValueError, KeyError):
        return ""
    shares: dict[str, dict[str, float]] = {}
    for figure in figures:
        kind, _, state = str(figure["name"]).partition(" requests refused, ")
        shares.setdefault(state, {})[kind] = float(figure["value"])
    rows = [
        (state, of["harmful"], of.get("harmless"), f"{of['harmful']:.2f}")
        for state, of in shares.items()
        if "harmful" in of
    ]
    return _bars(rows, highest=1.0) if rows else ""


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lines(losses: Sequence[Point], held_out: Sequence[Point]) -> str:
    every = [*losses, *held_out]
    right = max(x for x, _ in every) or 1.0
    values = sorted(y for _, y in every)
    low, high = values[0], values[min(len(values) - 1, int(0.995 * len(values)))]
    if high <= low:
        high = low + 1.0

    def place(point: Point) -> str:
        x = LEFT + point[0] / right * (WIDTH - LEFT - 8)
        y = TOP + (1 - (min(point[1], high) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    thinned = losses[:: max(1, len(losses) // MOST_POINTS)]
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for share in (0.0, 0.5, 1.0):
        y = TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)
        value = low + share * (high - low)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for share, anchor in ((0.0, "start"), (1.0, "end")):
        x = LEFT + share * (WIDTH - LEFT - 8)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{share * right:,.0f}</text>')
    parts.append(f'<polyline class="b" points="{" ".join(map(place, thinned))}"/>')
    if len(held_out) > 1:
        parts.append(f'<polyline class="a" points="{" ".join(map(place, held_out))}"/>')
    for point in held_out:
        x, _, y = place(point).partition(",")
        parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="3"/>')
    return "".join([*parts, "</svg>"])


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"


def _bars(rows: Sequence[tuple[str, float, float | None, str]], highest: float | None = None) -> str:
    """Return horizontal bars: name, value, value of the grey bar behind, and text at its end."""
    most = highest or max(max(value, behind or 0.0) for _, value, behind, _ in rows) or 1.0
    room = WIDTH - LABELS - 64
    parts = [f'<svg viewBox="0 0 {WIDTH} {ROW_HEIGHT * len(rows) + 6}" role="img">']
    for number, (name, value, behind, text) in enumerate(rows):
        y = number * ROW_HEIGHT + 4
        if behind is not None:
            size = max(0.0, behind / most * room)
            parts.append(f'<rect class="bar2" x="{LABELS}" y="{y}" width="{size:.1f}" height="{ROW_HEIGHT - 8}"/>')
        size = max(0.0, value / most * room)
        parts.append(f'<rect class="bar" x="{LABELS}" y="{y + 4}" width="{size:.1f}" height="{ROW_HEIGHT - 16}"/>')
        end = LABELS + max(size, (behind or 0.0) / most * room) + 6
        parts.append(f'<text x="{LABELS - 6}" y="{y + 14}" text-anchor="end">{html.escape(_short(name))}</text>')
        parts.append(f'<text x="{end:.1f}" y="{y + 14}">{html.escape(text)}</text>')
    return "".join([*parts, "</svg>"])
