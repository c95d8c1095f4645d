"""Tables of the command line: for people on a terminal, tab-separated in a pipe, or as JSON.

A terminal gets columns that are as wide as their longest word. Columns that do not fit beside each other follow in
further blocks, each with the first column again; a table whose words do not even fit so is printed row by row.
Words are never broken. A pipe gets one line per row, independent of any width: a header of keys, then raw values.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "
_INDENT = "    "
"""Indent of the lines below a row."""
_READABLE = 24
"""Characters of a text column below which its cells are not wrapped: narrower text is hard to read."""
_NUMBER = re.compile(r"(?!\d{4}-\d\d-)(?!.*[a-z]{6})[-+±<]?\d", re.IGNORECASE)
"""Beginning of a cell that is aligned to the right: a figure, with a unit or not; no date and no sentence."""


@dataclass(frozen=True, slots=True)
class Column:
    """Column of a table."""

    heading: str
    key: str = ""
    """Name in a pipe and in JSON; "" derives it from the heading."""
    show: Callable[[Any], str] | None = None
    """Text of a value on a terminal; None takes the value as in a pipe."""
    below: bool = False
    """Whether a terminal shows the value on lines of its own below the row, without the heading."""

    @property
    def name(self) -> str:
        """The key, or the heading as a key."""
        return self.key or re.sub(r"\W+", "_", self.heading.replace("%", "percent")).strip("_").lower()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under columns."""

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    title: str = ""

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as objects by the columns' keys."""
        keys = [column.name for column in self.columns]
        return [dict(zip(keys, row, strict=True)) for row in self.rows]


def print_tables(console: Console, *tables: Table) -> None:
    """Print tables: laid out for the console's width on a terminal, tab-separated elsewhere."""
    for number, table in enumerate(tables):
        if number:
            console.print()
        if console.is_terminal:
            for line, style in _laid_out(table, console.width):
                _print_line(console, line, style)
        else:
            # Written past rich, which turns tabs into spaces.
            console.file.write("".join(f"{line}\n" for line in _tab_separated(table)))


def print_json(value: object) -> None:
    """Print a value as indented JSON on standard output; characters outside ASCII are escaped."""
    print(json.dumps(value, indent=1, default=str))


def print_wrapped(console: Console, text: str, *, indent: str = "", style: str = "") -> None:
    """Print a paragraph: wrapped between words on a terminal, on one line elsewhere.

    Args:
        console: Receives the text.
        text: The paragraph; it is not markup.
        indent: Indent of the second and further lines, also of those that the text brings.
        style: Style of the text.
    """
    for number, part in enumerate(text.split("\n")):
        line = indent + part if number else part
        for shown in _wrapped(line, console.width, indent) if console.is_terminal else [line]:
            _print_line(console, shown, style)


def _print_line(console: Console, line: str, style: str = "") -> None:
    from rich.text import Text

    console.print(Text(line, style=style), soft_wrap=True)


def _tab_separated(table: Table) -> list[str]:
    title = [f"# {table.title}"] if table.title else []
    rows = [[_raw(value) for value in row] for row in table.rows]
    return [*title, *("\t".join(row) for row in ([column.name for column in table.columns], *rows))]


def _raw(value: Any) -> str:
    """Return a value for a pipe: no thousands separators, no line breaks, "" for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{_raw(key)}={_raw(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_raw, value))
    return " ".join(str(value).split())


# -- on a terminal --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Column as text."""

    heading: str
    cells: list[str]
    is_number: bool

    @property
    def least(self) -> int:
        """Width at which no word breaks, and no text is wrapped to less than a readable width."""
        words = max((_width(word) for text in (self.heading, *self.cells) for word in text.split()), default=1)
        return max(words, min(_READABLE, max(map(_width, self.cells), default=0)))

    @property
    def full(self) -> int:
        """Width at which nothing is wrapped."""
        return max(1, _width(self.heading), *map(_width, self.cells))


def _laid_out(table: Table, width: int) -> list[tuple[str, str]]:
    """Return lines and their styles."""
    drawn = [_drawn(column, [row[k] for row in table.rows]) for k, column in enumerate(table.columns)]
    beside = [each for each, column in zip(drawn, table.columns, strict=True) if not column.below]
    below = [each.cells for each, column in zip(drawn, table.columns, strict=True) if column.below]
    lines = [(line, "bold") for line in _wrapped(table.title, width, "")] if table.title else []
    blocks = _blocks(beside, width)
    if blocks is None or (len(blocks) > 1 and len(table.rows) == 1):
        return [*lines, *_row_by_row(drawn, width)]
    for number, block in enumerate(blocks):
        lines += [("", "")] if number else []
        lines += _grid(block, below if number == 0 else [], width)
    return lines


def _drawn(column: Column, values: Sequence[Any]) -> _Drawn:
    show = column.show or _raw
    cells = ["" if value is None else show(value) for value in values]
    is_number = any(cells) and all(_NUMBER.match(cell) for cell in cells if cell)
    return _Drawn(column.heading, cells, is_number)


def _blocks(columns: Sequence[_Drawn], width: int) -> list[list[_Drawn]] | None:
    """Distribute columns over blocks that fit; the first column stands in each. None if one does not fit."""
    first, *others = columns
    blocks, used = [[first]], first.least
    for column in others:
        # Words that are too long for the last column run over the edge; no column beside it moves.
        needed = len(_GAP) + (min(column.least, _READABLE) if column is columns[-1] else column.least)
        if used + needed > width:
            if len(blocks[-1]) == 1 or first.least + needed > width:
                return None
            blocks.append([first])
            used = first.least
        blocks[-1].append(column)
        used += needed
    return blocks


def _grid(columns: Sequence[_Drawn], below: Sequence[list[str]], width: int) -> list[tuple[str, str]]:
    widths = _shrunk(columns, width - len(_GAP) * (len(columns) - 1))
    headings = _row_lines([column.heading for column in columns], columns, widths, at_end=True)
    lines = [(line, "bold") for line in headings]
    lines.append((_GAP.join("─" * each for each in widths), "dim"))
    for row in range(len(columns[0].cells)):
        lines += [(line, "") for line in _row_lines([c.cells[row] for c in columns], columns, widths)]
        for cells in below:
            if cells[row]:
                lines += [(line, "dim") for line in _indented(cells[row], width)]
    return lines


def _indented(text: str, width: int) -> list[str]:
    return [line for part in text.split("\n") for line in _wrapped(_INDENT + part, width, _INDENT + "  ")]


def _shrunk(columns: Sequence[_Drawn], room: int) -> list[int]:
    """Return widths that fit, from the full ones by narrowing the widest column again and again."""
    widths, least = [c.full for c in columns], [c.least for c in columns]
    if sum(least) > room:  # only words of the last column may run over the edge
        least[-1] = min(least[-1], _READABLE)
    while sum(widths) > room:
        wide = [k for k, each in enumerate(widths) if each > least[k]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _row_lines(
    cells: Sequence[str], columns: Sequence[_Drawn], widths: Sequence[int], *, at_end: bool = False
) -> list[str]:
    """Return the lines of a row; `at_end` moves short cells to the last line, next to their column."""
    wrapped = [_wrapped(cell, each, "") for cell, each in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    filled = [[""] * (height - len(p)) + p if at_end else p + [""] * (height - len(p)) for p in wrapped]
    return [
        _GAP.join(
            _padded(parts[k], each, right=column.is_number)
            for parts, column, each in zip(filled, columns, widths, strict=True)
        ).rstrip()
        for k in range(height)
    ]


def _row_by_row(columns: Sequence[_Drawn], width: int) -> list[tuple[str, str]]:
    """Return each row as lines of heading and value."""
    margin = max(_width(column.heading) for column in columns) + len(_GAP)
    lines: list[tuple[str, str]] = []
    for row in range(len(columns[0].cells)):
        lines += [("", "")] if row else []
        for column in columns:
            text = _padded(column.heading, margin) + column.cells[row]
            lines += [(line, "") for line in _wrapped(text, width, " " * margin)] if column.cells[row] else []
    return lines


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    """Wrap between words; a line break in the text stays one, and a text's own indent holds for all its lines."""
    indent = indent or text[: len(text) - len(text.lstrip(" "))]
    lines = [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(
            part,
            max(width, len(indent) + 1),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
            drop_whitespace=True,
        )
    ]
    return lines or [""]


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * max(0, width - _width(text))
    return space + text if right else text + space


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
