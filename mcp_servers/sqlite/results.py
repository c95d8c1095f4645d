"""What the SQLite tools return: fields for programs, short plain text for the model."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from mcp_servers.sqlite.policy import Cell
from mcp_servers.strict import ToolResult

TRUNCATED = "(more rows not shown; add a LIMIT, a WHERE clause, or fewer columns)"


class TableName(BaseModel):
    """A table or view and its columns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: str = Field(description="table, view or virtual.")
    columns: list[str]


class TableList(ToolResult):
    """Tables of the database, by name."""

    tables: list[TableName]
    truncated: bool

    def as_text(self) -> str:
        """`name(column, column)`, one a line."""
        lines = [
            f"{table.name}({', '.join(table.columns)})" + (" view" if table.kind == "view" else "")
            for table in self.tables
        ]
        return "\n".join([*(lines or ["no tables"]), *(["(more tables not shown)"] if self.truncated else [])])


class Column(BaseModel):
    """A column of a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: str = Field(description="As declared; empty if it was not.")
    not_null: bool
    primary_key: bool
    references: str | None = Field(
        description="table.column of a foreign key; the table alone means its primary key."
    )

    def as_line(self) -> str:
        """The column in SQL's words."""
        words = [self.name, self.type, "primary key" if self.primary_key else ""]
        words += [
            "not null" if self.not_null else "",
            f"references {self.references}" if self.references else "",
        ]
        return " ".join(word for word in words if word)


class Table(ToolResult):
    """A table in full."""

    name: str
    kind: str
    columns: list[Column]
    unique: list[list[str]] = Field(description="Groups of columns whose values are unique.")
    sample_rows: list[list[Cell]]
    truncated: bool = Field(description="Whether columns or rows of the sample were left out.")

    def as_text(self) -> str:
        """Columns, then sample rows."""
        lines = [f"{self.kind} {self.name}", *(column.as_line() for column in self.columns)]
        lines += [f"unique: {', '.join(group)}" for group in self.unique]
        if self.sample_rows:
            names = [column.name for column in self.columns]
            lines += ["sample rows:", _lines(names, self.sample_rows)]
        return "\n".join(lines)


class Rows(ToolResult):
    """Rows that a query gave."""

    columns: list[str]
    rows: list[list[Cell]]
    truncated: bool = Field(description="Whether rows are missing because a limit was reached.")

    def as_text(self) -> str:
        """A header line, then one row a line."""
        if not self.rows:
            return "(one row is too large; select fewer columns)" if self.truncated else "no rows"
        return _lines(self.columns, self.rows) + (f"\n{TRUNCATED}" if self.truncated else "")


class Changes(Rows):
    """What a statement changed, and the rows that its RETURNING clause gave."""

    changed_rows: int

    def as_text(self) -> str:
        """The count, then the returned rows."""
        text = "done: 1 row changed" if self.changed_rows == 1 else f"done: {self.changed_rows} rows changed"
        return f"{text}\n{super().as_text()}" if self.columns else text


def _lines(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    return "\n".join(" | ".join(map(_word, row)) for row in (columns, *rows))


def _word(cell: Cell) -> str:
    """Return a cell on one line, so that a value cannot look like another row."""
    if cell is None:
        return "NULL"
    return (
        str(cell).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        if isinstance(cell, str)
        else str(cell)
    )
