"""The files that the examples ask about are small, and the database is the one that its program writes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_shop_is_what_its_program_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "make_shop.py", tmp_path / "shop.db"], check=True)
    assert _dump(EXAMPLES / "shop.db") == _dump(tmp_path / "shop.db")
    assert (EXAMPLES / "shop.db").stat().st_size < 50_000


def test_the_list_of_things_to_do_has_seven_lines_and_one_overdue() -> None:
    todo = (EXAMPLES / "notes/todo.md").read_text(encoding="utf-8")
    assert len(todo.splitlines()) == 7
    assert todo.count("overdue") == 1


def _dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as opened:
        return list(opened.iterdump())
