"""The schema of a database as resources, and a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import mcp_types as types
from pydantic import Field

from mcp_servers.completion import Given
from mcp_servers.prompts import Prompt, prompt
from mcp_servers.resources import Body, Resources, Template, uri_of
from mcp_servers.sqlite.results import Table, TableList

TABLE_TEMPLATE = "sqlite:///tables/{table}"
SAMPLE_ROWS = 3


class SchemaResources:
    """Tables and columns of one database."""

    def __init__(self, list_tables: Callable[[], TableList], describe_table: Callable[[str, int], Table]) -> None:
        """Read the schema with the functions of the tools."""
        self._list_tables = list_tables
        self._describe_table = describe_table

    def resources(self) -> Resources:
        """Return the definition for `strict_server`."""
        templates = (
            Template("sqlite:///schema", "schema", "All tables with their columns.", self.schema, "text/plain"),
            Template(
                TABLE_TEMPLATE,
                "table",
                "Columns, types and keys of a table, and some rows.",
                self.table,
                "text/plain",
                {"table": self.tables},
            ),
        )
        return Resources(templates, self.listed)

    def listed(self) -> list[types.Resource]:
        """List the tables."""
        return [
            types.Resource(
                uri=uri_of(TABLE_TEMPLATE, table=each.name),
                name=each.name,
                description=f"{each.kind} with {len(each.columns)} columns",
                mime_type="text/plain",
            )
            for each in self._list_tables().tables
        ]

    def schema(self) -> Body:
        """Read the list of tables."""
        return Body(self._list_tables().as_text())

    def table(self, table: str) -> Body:
        """Read about one table."""
        return Body(self._describe_table(table, SAMPLE_ROWS).as_text())

    def tables(self, value: str, given: Given) -> Sequence[str]:
        """Return the names of the tables."""
        return [each.name for each in self._list_tables().tables]

    def prompts(self) -> list[Prompt]:
        """Return the prompts for `strict_server`."""
        return [prompt(self.answer_from_database)]

    def answer_from_database(
        self, question: Annotated[str, Field(description="As 'Which customers ordered nothing this year?'.")]
    ) -> str:
        """Answer a question from the database, with the SQL that was used."""
        return (
            "Answer the question below from the database, with the tool query. Show the SQL behind the answer. "
            f"If the tables cannot answer it, say what is missing.\n\nTables:\n{self._list_tables().as_text()}\n\n"
            f"Question: {question}"
        )
