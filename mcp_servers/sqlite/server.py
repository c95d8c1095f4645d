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
from mcp_servers.sqlite.exporting import Exporter, ExportFolder
from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.resources import SchemaResources
from mcp_servers.sqlite.results import Changes, Exported, Plan, Rows, Table, TableList
from mcp_servers.strict import ADDS, CHANGES, READS, strict_server, strict_tool

NAME = "agentkit-sqlite"
INSTRUCTIONS = (
    "One SQLite database. Call list_tables first; it shows the columns. Write values as ? in the sql and give "
    "them in parameters."
)
READ_ONLY = " Nothing can be changed."
WORKER = "mcp_servers.sqlite.worker"
# Seconds beyond a statement's own limit, for opening the file, waiting for locks, and the answer.
GRACE_S = 3.0
DEFAULT_SAMPLE_ROWS = 3
MAX_SAMPLE_ROWS = 10

Parameters = Annotated[Sequence[int | float | str | None], Field(description="Values for the ? marks, in order.")]


class Database:
    """The tools of one database file."""

    def __init__(self, path: str, limits: Limits, child: KillableChild, *, may_write: bool) -> None:
        """Serve the file at `path` from `child`; `may_write` also allows plans of changes."""
        self.path = path
        self._may_write = may_write
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

    def explain(
        self, sql: Annotated[str, Field(description="One statement.")], parameters: Parameters = ()
    ) -> Plan:
        """Show how a statement would be run: which tables are read as a whole, which by an index."""
        return Plan(**self._ask("explain", sql=sql, parameters=parameters, may_write=self._may_write))

    def execute(
        self,
        sql: Annotated[str, Field(description="One INSERT, UPDATE, DELETE, CREATE, ALTER or DROP statement.")],
        parameters: Parameters = (),
    ) -> Changes:
        """Change the database with SQL."""
        return Changes(**self._ask("execute", sql=sql, parameters=parameters))

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        request = {"do": do, "database": self.path, "limits": asdict(self._limits), **arguments}
        try:
            return self._child.call(request, self._limits.timeout_s + GRACE_S)
        except ChildTimeout as error:
            raise ToolFailure(
                f"The statement ran longer than {self._limits.timeout_s:g} s and was stopped; nothing was "
                "changed. Add a WHERE clause or a LIMIT."
            ) from error
        except ChildCrash as error:
            raise ToolFailure("The statement made SQLite fail; nothing was changed. Simplify it.") from error


class Exports:
    """The tool that writes files; offered only with `--export`."""

    def __init__(self, exporter: Exporter) -> None:
        """Write with `exporter`."""
        self._exporter = exporter

    def export_csv(
        self,
        sql: Annotated[str, Field(description="One SELECT statement.")],
        file: Annotated[str, Field(description="Name of the new file, like 'orders.csv'.")],
        parameters: Parameters = (),
    ) -> Exported:
        """Write all rows of a query to a new CSV file."""
        return self._exporter.export(sql, parameters, file)


def build_server(
    path: str, *, write: bool = False, export: str | None = None, limits: Limits | None = None
) -> Server[Any]:
    """Return a server for the database file; it can be passed to `mcp.Client` as it is.

    Args:
        path: Database file.
        write: Whether to offer `execute`, too.
        export: Folder for files of `export_csv`; None: that tool is not offered.
        limits: Limits of one call.

    Raises:
        StartError: The file does not exist or cannot be read (or written, if `write`), or the folder cannot be
            opened.
    """
    limits = limits or Limits()
    child = KillableChild(WORKER)
    closing = [child.close]
    database = Database(_checked(path, write), limits, child, may_write=write)
    reading = (database.list_tables, database.describe_table, database.query, database.explain)
    tools = [strict_tool(tool, READS) for tool in reading]
    if export is not None:
        exporter = Exporter(ExportFolder(export), database.path, limits)
        tools.append(strict_tool(Exports(exporter).export_csv, ADDS))
        closing.append(exporter.close)
    if write:
        tools.append(strict_tool(database.execute, CHANGES))
    instructions = INSTRUCTIONS if write else INSTRUCTIONS + READ_ONLY

    def close() -> None:
        for close_one in closing:
            close_one()

    offered = SchemaResources(database.list_tables, database.describe_table)
    return strict_server(
        NAME,
        instructions=instructions,
        tools=tools,
        resources=offered.resources(),
        prompts=offered.prompts(),
        on_close=close,
    )


def _checked(path: str, write: bool) -> str:
    """Return the absolute path: the child may have another working directory in a test."""
    resolved = Path(path).resolve()
    if not resolved.is_file():
        raise StartError(f"{path!r} is not a file. Create a database first, for example with `sqlite3 {path}`.")
    if not os.access(resolved, os.R_OK | (os.W_OK if write else 0)):
        raise StartError(f"{path!r} cannot be {'written' if write else 'read'} by this user.")
    return str(resolved)
