"""Step 6: account for the time of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.commands.help import explained


@explained(
    reads="events.jsonl in the folder of a run",
    writes="a table on the terminal",
    example="modelstack goodput runs/nano",
    then="fewer or more checkpoints: `checkpoints.every` of the recipe",
)
def goodput(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, with its events.jsonl.")],
) -> None:
    """Print the share of a run's time in which it advanced, and the rest by cause."""
    from modelstack.stability.fault_injection import read_ledgers
    from modelstack.stability.goodput import account
    from modelstack.stability.run_events import EVENTS_FILE, read_events

    for line in account(read_events(folder / EVENTS_FILE), read_ledgers(folder)).lines():
        typer.echo(line)
