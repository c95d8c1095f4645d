"""`agentkit runs` and `agentkit resume`: list the runs in the journal, and resume one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.options import AllowEnvOption, HeaderOption, JournalOption, JsonOption, journal_file
from agentkit.errors import CheckpointError

if TYPE_CHECKING:
    from agentkit.persistence.checkpointer import RunSummary


def runs(
    journal: JournalOption = None,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS", help="Only these: running (or killed), failed, needs_approval, completed, ..."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs.")] = 20,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="RUN_ID", help="Delete this run; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs that can be resumed, latest first."""
    import anyio

    from agentkit.cli.console import local_time, minute_of, notes_console, print_tables
    from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer
    from modelstack.terminal.tables import Column, Table, print_json

    keeper = SQLiteCheckpointer(journal_file(journal))

    async def listed() -> list[RunSummary]:
        for run_id in delete or ():
            await keeper.delete(run_id)
        return list(await keeper.list_runs(status=status, limit=limit))  # pyright: ignore[reportArgumentType]

    columns = (
        Column("run", "run_id"),
        Column("changed", "updated", minute_of),
        Column("status"),
        Column("task", below=True),
    )
    found = [(r.run_id, local_time(r.updated_at), r.status, r.metadata.get("task")) for r in anyio.run(listed)]
    table = Table(columns, found)
    if as_json:
        print_json(table.records())
    elif found:
        print_tables(table)
    else:
        notes_console().print("no runs", style="dim")


def resume(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run's id, or a unique beginning of it.")],
    journal: JournalOption = None,
    as_json: JsonOption = False,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
) -> None:
    """Resume a run that was killed, failed, or waits for an approval. Exit status: see `agentkit run`.

    A header with a secret that was typed in `agentkit run` is not stored, so it is given again.
    """
    import anyio

    from agentkit.cli.options import AgentOptions
    from agentkit.cli.run import perform

    path = journal_file(journal)
    found = anyio.run(_find, path, run_id)
    options = AgentOptions.from_metadata(found.metadata, path, headers=header or (), allow_env=allow_env or ())
    perform(options, run_id=found.run_id, as_json=as_json)


async def _find(journal: Path, beginning: str) -> RunSummary:
    from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer

    keeper = SQLiteCheckpointer(journal)
    found = [run for run in await keeper.list_runs(limit=100_000) if run.run_id.startswith(beginning)]
    if len(found) != 1:
        raise CheckpointError(
            f"run id {beginning!r} matches {len(found)} runs in {str(journal)!r}; `agentkit runs` lists them."
        )
    return found[0]
