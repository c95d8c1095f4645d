"""`modelstack count`: cost of models before they are built; needs neither torch nor weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.architecture.config import ModelConfig


def count(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="A published size by name, a config.json, or a checkpoint folder."
        ),
    ],
    context: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 8192,
    batch: Annotated[int, typer.Option(help="Sequences decoded together.")] = 1,
    value_bytes: Annotated[int, typer.Option("--bytes", help="Bytes of a cached value.")] = 2,
    tokens: Annotated[float | None, typer.Option(help="Tokens of a training run, for example 15e12.")] = None,
) -> None:
    """Count parameters, FLOPs, weight bytes and cache bytes of models, side by side."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from modelstack.architecture.counts.table import Workload, sections

    workload = Workload(context, batch, value_bytes, tokens)
    table = Table(header_style="bold")
    table.add_column("")
    for model in models:
        table.add_column(Text(model), justify="right", overflow="fold")
    for section in sections([find_config(model) for model in models], workload):
        table.add_section()
        table.add_row(Text(section.title, style="bold"))
        for row in section.rows:
            table.add_row(row.label, *row.cells)
    Console().print(table)


def find_config(model: str) -> ModelConfig:
    """Return the config for a published name, a file or a folder. An existing path takes precedence over a name.

    Raises:
        UserError: No such file or name exists, or the file is not the config of a known family.
    """
    from modelstack.architecture.presets.registry import from_hf, published

    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    elif not path.exists() and path.suffix != ".json":
        return published(model)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; give a config.json, a folder with one, or the name of a published size"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must contain one JSON object, the config of a model")
    return from_hf(values)
