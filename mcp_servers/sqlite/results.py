"""Results of the SQLite tools: fields for programs, short plain text for the model."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from mcp_servers.hidden import on_one_line
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
            f"{_word(table.name)}({', '.join(map(_word, table.columns))})"
            + (" view" if table.kind == "view" else "")
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
        """Return the column in SQL's words."""
        words = [self.name, self.type, "primary key" if self.primary_key else ""]
        words += [
            "not null" if self.not_null else "",
            f"references {self.references}" if self.references else "",
        ]
        return " ".join(_word(word) for word in words if word)


class Table(ToolResult):
    """A table with columns, unique groups and sample rows."""

    name: str
    kind: str
    columns: list[Column]
    unique: list[list[str]] = Field(description="Groups of columns whose values are unique.")
    sample_rows: list[list[Cell]]
    truncated: bool = Field(description="Whether columns or rows of the sample were left out.")

    def as_text(self) -> str:
        """Columns, then sample rows."""
        lines = [f"{self.kind} {_word(self.name)}", *(column.as_line() for column in self.columns)]
        lines += [f"unique: {', '.join(map(_word, group))}" for group in self.unique]
        if self.sample_rows:
            names = [column.name for column in self.columns]
            lines += ["sample rows:", _lines(names, self.sample_rows)]
        return "\n".join(lines)


class Rows(ToolResult):
    """Rows of a query."""

    columns: list[str]
    rows: list[list[Cell]]
    truncated: bool = Field(description="Whether rows are missing because a limit was reached.")

    def as_text(self) -> str:
        """A header line, then one row a line."""
        if not self.rows:
            return "(one row is too large; select fewer columns)" if self.truncated else "no rows"
        return _lines(self.columns, self.rows) + (f"\n{TRUNCATED}" if self.truncated else "")


class PlanStep(BaseModel):
    """A line of a query plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: int = Field(description="0 at the root of the tree.")
    detail: str = Field(description="In SQLite's words: SCAN reads all rows, SEARCH some.")


class Plan(ToolResult):
    """Query plan of a statement."""

    steps: list[PlanStep]
    scanned: list[str] = Field(description="Tables or aliases of which every row is read.")
    searched: list[str] = Field(description="Tables or aliases in which an index or the key finds the rows.")
    indexed_on_the_fly: list[str] = Field(description="Those for which an index is built just for this statement.")
    truncated: bool

    def as_text(self) -> str:
        """The tables by the way they are read, then the tree."""
        lines = [
            *_tables("reads every row of", self.scanned),
            *_tables("finds rows by an index or key in", self.searched),
            *_tables("has no index and builds one each time for", self.indexed_on_the_fly),
        ]
        lines += [f"{'  ' * step.depth}{_word(step.detail)}" for step in self.steps]
        lines += ["(more steps not shown)"] if self.truncated else []
        return "\n".join(lines) or "nothing is read from a table"


class Exported(ToolResult):
    """A new CSV file."""

    file: str
    rows: int = Field(description="Without the header.")
    columns: int
    size_bytes: int
    formula_cells: int = Field(
        description="Texts that a spreadsheet may run as formulas: they begin with = + - @."
    )
    replaced_texts: int = Field(description="Texts that are not UTF-8; their broken bytes became U+FFFD.")

    def as_text(self) -> str:
        """The file and its size, then warnings."""
        counts = f"{self.rows} row{'' if self.rows == 1 else 's'}, {self.size_bytes} bytes"
        lines = [f"wrote {self.file}: {counts}"]
        if self.formula_cells:
            lines.append(
                f"texts that begin like spreadsheet formulas (= + - @), left as they are: {self.formula_cells}; "
                "in a spreadsheet import the columns as text"
            )
        if self.replaced_texts:
            lines.append(f"texts that were not UTF-8: {self.replaced_texts}; hex(column) gives their bytes")
        return "\n".join(lines)


class Changes(Rows):
    """Number of changed rows, and the rows of a RETURNING clause."""

    changed_rows: int

    def as_text(self) -> str:
        """The count, then the returned rows."""
        text = "done: 1 row changed" if self.changed_rows == 1 else f"done: {self.changed_rows} rows changed"
        return f"{text}\n{super().as_text()}" if self.columns else text


def _tables(label: str, names: Sequence[str]) -> list[str]:
    return [f"{label}: {', '.join(map(_word, names))}"] if names else []


def _lines(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    return "\n".join(" | ".join(map(_word, row)) for row in (columns, *rows))


def _word(cell: Cell) -> str:
    """Return a cell or a name on one line and without hidden characters, so it cannot imitate another one."""
    if cell is None:
        return "NULL"
    return on_one_line(cell.replace("\\", "\\\\")) if isinstance(cell, str) else str(cell)
