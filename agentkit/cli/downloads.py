"""Fetches models with a progress bar, or with progress lines if the output is not a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LINES_PER_FILE = 10
_BYTES_PER_LINE = 50_000_000
"""Bytes per progress line if the size is unknown."""


def prepare_model(model: str, notes: Console) -> None:
    """Fetch the file of a local model if it is missing; do nothing for other models.

    Raises:
        ModelFileError: it cannot be fetched.
        UserError: the name is not understood.
    """
    from agentkit.models.catalog.entries import is_present
    from agentkit.models.resolve import split_local

    local = split_local(model)
    if local is not None and not is_present(local[0]):
        pull_shown(local[0], notes)


def pull_shown(spec: str, notes: Console) -> Path:
    """Fetch a model file unless an undamaged copy exists, show the progress and return the path.

    Raises:
        ModelFileError: it cannot be fetched.
        UserError: the name is not understood.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from agentkit.cli.console import one_line, plain
    from agentkit.models.catalog.entries import is_present, parse_spec, pull

    if isinstance(parse_spec(spec), Path):
        return pull(spec)  # a file of the user's own is not fetched

    def tell(line: str) -> None:
        notes.print(plain(one_line(line, 400), "dim"))

    if not is_present(spec):
        notes.print(plain(f"fetching {_facts(spec)}; it is kept for the next time"))
    if not notes.is_terminal:
        return pull(spec, progress=heartbeat(tell), tell=tell)
    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task(one_line(spec, 40), total=None)
        return pull(spec, progress=lambda done, total: bar.update(task, completed=done, total=total), tell=tell)


def heartbeat(tell: Callable[[str], None]) -> Callable[[int, int | None], None]:
    """Return a listener that prints a line for every tenth of a download, for logs and pipes."""
    n_told = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal n_told
        n_lines = done // _BYTES_PER_LINE if total is None else done * _LINES_PER_FILE // max(total, 1)
        if n_lines > n_told:
            of = "" if total is None else f" of {total / 1e6:.0f}"
            tell(f"{done / 1e6:.0f}{of} MB")
            n_told = n_lines

    return progress


def _facts(spec: str) -> str:
    from agentkit.models.catalog.entries import CatalogEntry, parse_spec

    found = parse_spec(spec)
    if not isinstance(found, CatalogEntry):
        return spec
    terms = "" if found.open_source else f", not an open-source licence: {found.licence_url}"
    return f"{found.id} ({found.size / 1e6:.0f} MB, {found.licence}{terms})"
