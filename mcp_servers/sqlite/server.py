"""The SQLite tools as a model sees them; the statements run in `worker.py`, in a child process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from mcp.server.lowlevel.server import Server
from pydantic import Field

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.results import Changes, Rows, Table, TableList
from mcp_servers.strict import CHANGES, READS, strict_server, strict_tool

NAME = "agentkit-sqlite"
INSTRUCTIONS = (
    "One SQLite database. Call list_tables first; it shows the columns. Write values as ? in the sql and give "
    "them in parameters."
)
READ_ONLY = " Nothing can be changed."
WORKER = "mcp_servers.sqlite.worker"
# Time beyond a statement's own for opening the file, a lock held by others, and the answer.
GRACE_S = 3.0
DEFAULT_SAMPLE_ROWS = 3
MAX_SAMPLE_ROWS = 10

Parameters = Annotated[Sequence[int | float | str | None], Field(description="Values for the ? marks, in order.")]


class Database:
    """The tools of one database file."""

    def __init__(self, path: str, limits: Limits, child: KillableChild) -> None:
        """Serve the file at `path` from `child`."""
        self._path = path
        self._limits = limits
        self._child = child

    def list_tables(self) -> TableList:
        """List the tables and their columns."""
        return TableList(**self._ask("list_tables"))

    def describe_table(
        self,
        table: Annotated[str, Field(description="Name of a table.")],
        sample_rows: Annotated[
            int, Field(ge=0, le=MAX_SAMPLE_ROWS, description="Number of rows to show.")
        ] = DEFAULT_SAMPLE_ROWS,
    ) -> Table:
        """Show a table's columns, types, keys and some rows."""
        return Table(**self._ask("describe_table", table=table, rows=sample_rows))

    def query(
        self, sql: Annotated[str, Field(description="One SELECT statement.")], parameters: Parameters = ()
    ) -> Rows:
        """Read from the database with SQL."""
        return Rows(**self._ask("query", sql=sql, parameters=parameters))

    def execute(
        self,
        sql: Annotated[str, Field(description="One INSERT, UPDATE, DELETE, CREATE, ALTER or DROP statement.")],
        parameters: Parameters = (),
    ) -> Changes:
        """Change the database with SQL."""
        return Changes(**self._ask("execute", sql=sql, parameters=parameters))

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        request = {"do": do, "database": self._path, "limits": asdict(self._limits), **arguments}
        try:
            return self._child.call(request, self._limits.timeout_s + GRACE_S)
        except ChildTimeout as error:
            raise ToolFailure(
                f"The statement ran longer than {self._limits.timeout_s:g} s and was stopped; nothing was "
                "changed. Add a WHERE clause or a LIMIT."
            ) from error
        except ChildCrash as error:
            raise ToolFailure("The statement made SQLite fail; nothing was changed. Simplify it.") from error


def build_server(path: str, *, write: bool = False, limits: Limits | None = None) -> Server[Any]:
    """Return a server for the database file; it can be passed to `mcp.Client` as it is.

    Raises:
        StartError: The file does not exist or cannot be read (or written, if `write`).
    """
    child = KillableChild(WORKER)
    database = Database(_checked(path, write), limits or Limits(), child)
    tools = [strict_tool(tool, READS) for tool in (database.list_tables, database.describe_table, database.query)]
    if write:
        tools.append(strict_tool(database.execute, CHANGES))
    instructions = INSTRUCTIONS if write else INSTRUCTIONS + READ_ONLY
    return strict_server(NAME, instructions=instructions, tools=tools, on_close=child.close)


def _checked(path: str, write: bool) -> str:
    """Return the absolute path: the child runs with the same working directory, but a test need not."""
    resolved = Path(path).resolve()
    if not resolved.is_file():
        raise StartError(f"{path!r} is not a file. Create a database first, for example with `sqlite3 {path}`.")
    if not os.access(resolved, os.R_OK | (os.W_OK if write else 0)):
        raise StartError(f"{path!r} cannot be {'written' if write else 'read'} by this user.")
    return str(resolved)
