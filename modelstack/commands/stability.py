"""Step 6: account for the time of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.commands.help import AsJson, explained


@explained(
    reads="events.jsonl in the folder of a run",
    writes="a table on the terminal",
    example="modelstack goodput runs/nano",
    then="fewer or more checkpoints: `checkpoints.every` of the recipe",
)
def goodput(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, with its events.jsonl.")],
    as_json: AsJson = False,
) -> None:
    """Print the share of a run's time in which it advanced, and the rest by cause."""
    from rich.console import Console

    from modelstack.stability.fault_injection import read_ledgers
    from modelstack.stability.goodput import account
    from modelstack.stability.run_events import EVENTS_FILE, read_events
    from modelstack.terminal.tables import Column, Table, print_json, print_tables

    found = account(read_events(folder / EVENTS_FILE), read_ledgers(folder))
    columns = (
        Column("time", "cause"),
        Column("seconds", show="{:,.1f}".format),
        Column("share", show="{:.1%}".format),
    )
    causes = [(cause, round(seconds, 3), round(share, 4)) for cause, seconds, share in found.seconds_by_cause()]
    by_cause = Table(columns, causes, found.head)
    counted = {name: n for name, n in found.counts.items() if n}
    counts = Table((Column("counted"), Column("number")), list(counted.items()))
    if as_json:
        print_json({"goodput": found.share, "seconds": by_cause.records(), "counts": counted})
    else:
        print_tables(Console(), *(table for table in (by_cause, counts) if table.rows))
