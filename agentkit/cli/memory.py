"""`agentkit memory`: list, search, forget and export what agents remember."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from agentkit.cli.options import JsonOption
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from agentkit.memory.store import MemoryRecord, MemoryStore

T = TypeVar("T")

EXPORTED_TOGETHER = 500
"""Memories that are read at once."""

app = PlainTyper(no_args_is_help=True, help="What agents remember of their users: list, search, forget, export.")

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file of `Memory`, or that of the MCP server `memory`.")
]
UserOption = Annotated[
    str | None,
    typer.Option("--user", "-u", metavar="USER", help="Whose memories; the shared ones if absent."),
]


@app.command("list")
def list_memories(
    file: FileArgument,
    user: UserOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest memories of a user."""
    _print(_done(file, lambda store: store.list(user, limit=limit)), as_json)


@app.command()
def search(
    file: FileArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Words to look for.")],
    user: UserOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, best first.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Search the memories of a user by words."""
    matches = _done(file, lambda store: store.search(user, query, limit=limit))
    _print([match.record for match in matches], as_json)


@app.command()
def forget(
    file: FileArgument,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids, as `list` shows them.")] = None,
    user: UserOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All memories of the user.")] = False,
) -> None:
    """Delete memories of a user. Exit status 1: one of the ids is unknown.

    Their text is then no longer in the file; the file of the MCP server `memory` keeps it in its history.
    """
    from agentkit.cli.console import count_of, notes_console, output_console, plain
    from agentkit.errors import UserError

    if everything == bool(ids):
        raise UserError("forget takes the ids of memories, or --all for all of the user; give one of the two.")
    unknown: list[str] = []

    async def delete(store: MemoryStore) -> int:
        if not ids:
            return await store.forget_user(user)
        n_deleted = 0
        for each in ids:
            if await store.forget(user, each):
                n_deleted += 1
            else:
                unknown.append(each)
        return n_deleted

    n_deleted = _done(file, delete)
    what = "memory" if n_deleted == 1 else "memories"
    output_console().print(plain(f"{n_deleted:,} {what} forgotten"))
    if unknown:
        names = ", ".join(map(repr, unknown))
        told = f"{count_of(len(unknown), 'id')} unknown here: {names}; `agentkit memory list` shows ids"
        notes_console().print(plain(told, "yellow"))
        raise typer.Exit(1)


@app.command()
def export(file: FileArgument, user: UserOption = None) -> None:
    """Write all memories of a user to standard output, one JSON object a line, newest first."""
    import json

    async def read_all(store: MemoryStore) -> list[MemoryRecord]:
        records: list[MemoryRecord] = []
        while part := await store.list(user, limit=EXPORTED_TOGETHER, offset=len(records)):
            records += part
        return records

    for record in _done(file, read_all):
        typer.echo(json.dumps(asdict(record)))


def _done(file: Path, work: Callable[[MemoryStore], Awaitable[T]]) -> T:
    """Return the result of work with the store of a file.

    Raises:
        UserError: the file does not exist.
    """
    import anyio

    from agentkit.errors import UserError
    from agentkit.memory.toolset import Memory
    from mcp_servers.near_paths import near_path

    if not file.is_file():
        raise UserError(f"memory file {near_path(file)} `Memory(FILE)` in a program creates one.")
    store = Memory(file).store

    async def run() -> T:
        try:
            return await work(store)
        finally:
            store.close()

    return anyio.run(run)


def _print(records: Sequence[MemoryRecord], as_json: bool) -> None:
    from agentkit.cli.console import local_time, minute_of, notes_console, plain, print_tables
    from modelstack.terminal.tables import Column, Table, print_json

    if as_json:
        print_json([asdict(record) for record in records])
        return
    if not records:
        notes_console().print(plain("nothing is remembered", "dim"))
        return
    columns = (
        Column("id"),
        Column("written", "", minute_of),
        Column("kind"),
        Column("by", "origin"),
        Column("tainted"),
        Column("text", below=True),
    )
    rows = [
        (each.id, local_time(each.created), each.kind, each.origin, each.tainted, each.text) for each in records
    ]
    print_tables(Table(columns, rows))
