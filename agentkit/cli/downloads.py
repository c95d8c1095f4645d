"""Fetches models and shows the progress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from agentkit.models.catalog.embedders import EmbedderEntry


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
    from agentkit.cli.console import one_line, print_wrapped
    from agentkit.models.catalog.entries import is_present, parse_spec, pull
    from modelstack.terminal.progress_bars import progress_bars

    if isinstance(parse_spec(spec), Path):
        return pull(spec)  # a file of the user's own is not fetched

    if not is_present(spec):
        print_wrapped(notes, f"fetching {_facts(spec)}; it is kept for the next time")
    name = one_line(spec, 40)
    with progress_bars(notes, count=_megabytes) as shown:
        return pull(
            spec,
            progress=lambda done, total: shown(name, done, total),
            tell=lambda line: print_wrapped(notes, one_line(line, 400), "dim"),
        )


def pull_embedder_shown(entry: EmbedderEntry, notes: Console) -> Path:
    """Fetch an embedding model unless undamaged copies exist, show the progress and return its folder.

    Raises:
        ModelFileError: it cannot be fetched.
    """
    from agentkit.cli.console import one_line, print_wrapped
    from agentkit.models.catalog.embedders import pull_embedder
    from modelstack.terminal.progress_bars import progress_bars

    if not entry.is_present():
        facts = f"{entry.id} ({entry.size / 1e6:.0f} MB, {entry.licence})"
        print_wrapped(notes, f"fetching {facts}; it is kept for the next time")
    with progress_bars(notes, count=_megabytes) as shown:
        return pull_embedder(
            entry,
            progress=lambda done, total: shown(entry.id, done, total),
            tell=lambda line: print_wrapped(notes, one_line(line, 400), "dim"),
        )


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"


def _facts(spec: str) -> str:
    from agentkit.models.catalog.entries import CatalogEntry, parse_spec

    found = parse_spec(spec)
    if not isinstance(found, CatalogEntry):
        return spec
    terms = "" if found.open_source else f", not an open-source licence: {found.licence_url}"
    return f"{found.id} ({found.size / 1e6:.0f} MB, {found.licence}{terms})"
