"""Writes the pages of figures, `docs/benchmarks/NAME.md`, from `docs/benchmarks/NAME.toml`.

    python -m tools.docs.benchmark_pages

A figure has a table, the command that prints it, the machine and the date. An entry without one is an error.
"""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


class Figure(BaseModel):
    """A measurement: a table with its command, machine and date."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    command: str
    machine: str
    """Key of `Page.machines`."""
    date: date
    details: str | None = None
    """File of the repository with intervals, curves or the errors made."""

    @model_validator(mode="after")
    def _rows_fit_columns(self) -> Self:
        if wrong := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(f"{self.title!r}: {len(self.columns)} columns, but the row {wrong[0]}")
        return self


class Page(BaseModel):
    """The figures of one page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    about: str
    machines: dict[str, str]
    figure: tuple[Figure, ...]


def read_page(file: Path) -> Page:
    """Return the page that a TOML file holds."""
    return Page.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def markdown(page: Page, source: str) -> str:
    """Return a page of figures in Markdown.

    Args:
        page: The figures.
        source: Name of the TOML file, which the page names as its origin.
    """
    parts = [
        f"<!-- Written by `python -m tools.docs.benchmark_pages` from {source}. -->",
        f"# {page.title}",
        page.about,
    ]
    for figure in page.figure:
        lines = [figure.columns, ("---",) * len(figure.columns), *figure.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        origin = f"`{figure.command}`; {page.machines[figure.machine]}; {figure.date}."
        details = f" Details: `{figure.details}`." if figure.details else ""
        parts += [f"## {figure.title}", figure.about.strip(), table, f"{origin}{details}"]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """Return the text of each page by its file."""
    return {
        source.with_suffix(".md"): markdown(read_page(source), source.name)
        for source in sorted(FOLDER.glob("*.toml"))
    }


def main() -> None:
    """Write all pages."""
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
        print(f"{file.relative_to(FOLDER.parents[1])}: {text.count('## ')} figures")


if __name__ == "__main__":
    main()
