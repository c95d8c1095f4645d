"""`modelstack tokenizer`: train one, and report what it costs and saves."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Train a tokenizer; report what it costs and saves.")
