"""Fetching a model with a progress bar, before anything else is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def prepare_model(model: str, notes: Console) -> None:
    """Fetch the file of a local model if it is not there; do nothing for other models.

    Raises:
        ModelFileError: it cannot be fetched.
        UserError: the name is not understood.
    """
    from agentkit.models.catalog import is_present
    from agentkit.models.resolve import split_local

    local = split_local(model)
    if local is not None and not is_present(local[0]):
        pull_shown(local[0], notes)


def pull_shown(spec: str, notes: Console) -> Path:
    """Fetch a model file under a progress bar and return its path.

    Raises:
        ModelFileError: it cannot be fetched.
        UserError: the name is not understood.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from agentkit.cli.console import one_line, plain
    from agentkit.models.catalog import is_present, pull

    if not is_present(spec):
        notes.print(plain(f"fetching {spec}; it is kept for the next time"))
    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task(one_line(spec, 40), total=None)
        return pull(spec, progress=lambda done, total: bar.update(task, completed=done, total=total))
