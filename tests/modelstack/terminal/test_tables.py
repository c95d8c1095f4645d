"""Tables: no word breaks at any width, nothing is lost, and a pipe gets the same bytes whatever its width."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from modelstack.terminal.tables import Column, Table, print_json, print_tables, print_wrapped

WORDS = st.text(st.sampled_from("abcdefgh0123456789ü漢"), min_size=1, max_size=20)
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def pipe(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=width)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@st.composite
def tables(draw: st.DrawFn) -> Table:
    n_columns = draw(st.integers(1, 9))
    below = [False, *draw(st.lists(st.booleans(), min_size=n_columns - 1, max_size=n_columns - 1))]
    columns = tuple(Column(draw(WORDS), f"k{k}", below=is_below) for k, is_below in enumerate(below))
    rows = draw(st.lists(st.tuples(*[TEXTS] * n_columns), min_size=1, max_size=4))
    return Table(columns, rows)


@given(tables(), st.integers(20, 120))
def test_every_word_of_every_cell_is_on_the_terminal_whole(table: Table, width: int) -> None:
    console = terminal(width)
    print_tables(console, table)
    shown = printed(console).split()
    for row in table.rows:
        assert all(word in shown for cell in row for word in cell.split())


@given(tables(), st.integers(40, 120))
def test_lines_fit_unless_the_last_word_is_long(table: Table, width: int) -> None:
    console = terminal(width)
    print_tables(console, table)
    for line in printed(console).splitlines():
        assert len(line) <= width or len(line.split()[-1]) > 4


@given(tables())
def test_a_pipe_gets_tab_separated_rows_whatever_the_width(table: Table) -> None:
    narrow, wide = pipe(20), pipe(200)
    print_tables(narrow, table)
    print_tables(wide, table)
    assert printed(narrow) == printed(wide)
    header, *rows = [line.split("\t") for line in printed(narrow).splitlines()]
    assert header == [column.name for column in table.columns]
    assert rows == [list(row) for row in table.rows]


def test_values_are_raw_in_a_pipe_and_readable_on_a_terminal() -> None:
    columns = (Column("file"), Column("size", "bytes", "{:,}".format), Column("here"), Column("of", show=str))
    table = Table(columns, [("a\tb\nc", 1234567, True, {"x": 1, "y": [2, 3]}), ("d", None, False, None)])
    piped, shown = pipe(), terminal()
    print_tables(piped, table)
    print_tables(shown, table)
    assert printed(piped).splitlines()[1:] == ["a b c\t1234567\tyes\tx=1, y=2, 3", "d\t\tno\t"]
    assert "1,234,567" in printed(shown)


def test_titles_tell_tables_apart() -> None:
    one, other = (Table((Column("n"),), [(1,)], title) for title in ("one", "other"))
    console = pipe()
    print_tables(console, one, other)
    assert printed(console) == "# one\nn\n1\n\n# other\nn\n1\n"


def test_columns_that_do_not_fit_follow_in_blocks_with_the_first_one_again() -> None:
    columns = (Column("name"), *(Column(f"a-number-{k}") for k in range(8)))
    console = terminal(60)
    print_tables(console, Table(columns, [("x", *range(8)), ("y", *range(8))]))
    headings = [line for line in printed(console).splitlines() if line.startswith("name")]
    assert len(headings) == 2 and max(map(len, printed(console).splitlines())) <= 60


def test_one_long_row_is_shown_line_by_line() -> None:
    columns = tuple(Column(f"heading-{k}") for k in range(9))
    console = terminal(40)
    print_tables(console, Table(columns, [tuple(f"value-{k}" for k in range(9))]))
    assert printed(console).splitlines()[0] == "heading-0  value-0"


def test_a_date_and_a_sentence_are_no_numbers() -> None:
    columns = (Column("run"), Column("day"), Column("ended"), Column("share"))
    console = terminal()
    print_tables(console, Table(columns, [("a", "2026-03-01", "1 completed", "7 %"), ("b", "", "", "12.5 %")]))
    assert printed(console).splitlines()[2] == "a    2026-03-01  1 completed     7 %"


def test_no_cell_is_markup() -> None:
    for console in (terminal(), pipe()):
        print_tables(console, Table((Column("[bold]name"),), [("[red]x[/red]",)]))
        assert "[bold]name" in printed(console) or "bold_name" in printed(console)
        assert "[red]x[/red]" in printed(console)


def test_a_paragraph_wraps_on_a_terminal_alone() -> None:
    text = "one two three four five six"
    shown, piped = terminal(12), pipe(12)
    print_wrapped(shown, text, indent="  ")
    print_wrapped(piped, text, indent="  ")
    assert printed(shown) == "one two\n  three four\n  five six\n"
    assert printed(piped) == text + "\n"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"a": "ü\u202e"}])
    shown = capsys.readouterr().out
    assert shown.isascii() and json.loads(shown) == [{"a": "ü\u202e"}]
