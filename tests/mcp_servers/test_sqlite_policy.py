"""The SQLite rules as pure functions, fuzzed."""

from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from mcp_servers.sqlite import policy
from mcp_servers.sqlite.policy import Limits, fit_rows, is_allowed, quoted_name, render_cell


@given(st.integers(0, 60), st.none() | st.text(max_size=8), st.none() | st.text(max_size=8))
def test_reading_never_allows_a_changing_action(action: int, first: str | None, second: str | None) -> None:
    reading = policy._READS.keys() | {sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_PRAGMA}
    for schema in ("main", "temp", None):
        if is_allowed(action, first, second, schema, write=False):
            assert action in reading


@given(st.text(max_size=20).filter(lambda text: "\0" not in text))
def test_any_name_can_be_quoted(name: str) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return
    assert connection.execute(f"select 1 as {quoted_name(name)}").description[0][0] == name
    connection.close()


@given(
    st.lists(st.lists(st.none() | st.integers() | st.floats() | st.text() | st.binary(), max_size=5), max_size=20)
)
def test_rendered_rows_keep_their_limits(rows: list[list[object]]) -> None:
    limits = Limits(max_rows=5, max_cell_chars=10, max_answer_bytes=300)
    fitting, truncated = fit_rows(rows, limits)
    assert len(fitting) <= 5
    assert truncated == (len(fitting) < len(rows))
    assert all(render_cell(cell, 10) == cell or isinstance(cell, str) for row in fitting for cell in row)
