"""Pages of figures: current, and each figure with command, machine and date."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import ROOT
from tools.docs.benchmark_pages import FOLDER, Page, markdown, pages, read_page


def test_pages_are_what_their_files_of_figures_say() -> None:
    for file, text in pages().items():
        assert file.read_text(encoding="utf-8") == text, "run `python -m tools.docs.benchmark_pages`"


def test_files_that_figures_name_exist_and_cells_are_short() -> None:
    for file in sorted(FOLDER.glob("*.toml")):
        for figure in read_page(file).figure:
            assert figure.details is None or (ROOT / figure.details).is_file(), figure.details
            assert all(len(cell) <= 120 for row in figure.rows for cell in row), figure.title


def test_a_row_that_does_not_fit_its_columns_is_refused() -> None:
    figure = {
        "title": "t", "about": "", "columns": ["a", "b"], "rows": [["1"]],
        "command": "c", "machine": "m", "date": "2026-01-01",
    }  # fmt: skip
    with pytest.raises(ValueError, match=re.escape("'t': 2 columns, but the row ('1',)")):
        Page.model_validate({"title": "", "about": "", "machines": {"m": "M"}, "figure": [figure]})
    figure["rows"] = [["1", "2"]]
    page = Page.model_validate({"title": "", "about": "", "machines": {"m": "M"}, "figure": [figure]})
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n`c`; M; 2026-01-01." in markdown(page, "x.toml")
