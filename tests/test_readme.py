"""README is one page: short, its links lead to files, a command beside each figure. tests/docs runs its code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_one_page_of_short_lines() -> None:
    assert len(TEXT.split()) <= 900
    assert len(TEXT.splitlines()) <= 150
    assert max(map(len, TEXT.splitlines())) <= 120


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 20
    for link in links:
        assert (ROOT / link.partition("#")[0]).is_file(), link


def test_each_measured_figure_has_its_command_in_the_same_paragraph() -> None:
    table = TEXT.partition("| CPU of one step")[2]
    assert "`python -m evals.speed.agent_loop`" in table.partition("\n\n")[2].partition("\n\n")[0]
    for paragraph in re.split(r"\n\n", TEXT):
        if re.search(r"\d+ of \d+|interval \.\d|\d %", paragraph):
            assert re.search(r"`(?:agentkit|modelstack|python -m) [^`]+`", paragraph), paragraph
