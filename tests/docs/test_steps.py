"""The tables of the twelve steps name files and tests that exist, and each step has its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelstack.commands.steps import STEPS
from tests.docs.blocks import ROOT

STEP_PAGES = sorted((ROOT / "docs" / "steps").glob("*.md"))
_ROW = re.compile(r"^\| [^|]+ \| `([^`]+)` \| [^|]*\| `([^`]+)` \|$", re.MULTILINE)
_PAGE_OF = {"toolcalls": "tools"}


@pytest.mark.parametrize("page", STEP_PAGES, ids=lambda page: page.stem)
def test_a_table_of_techniques_names_files_and_tests_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    rows = _ROW.findall(text)
    header = "| Technique | File | Source | Proof |"
    assert len(rows) == sum(
        len(re.findall(r"^\|", table, re.MULTILINE)) - 1
        for table in (part.partition("\n\n")[0] for part in text.split(header)[1:])
    )
    for file, proof in rows:
        assert (ROOT / "modelstack" / file).exists(), file
        assert (ROOT / "tests" / "modelstack" / proof).exists(), proof


def test_each_step_has_a_page_that_names_its_commands() -> None:
    for step in STEPS:
        text = (ROOT / "docs" / "steps" / f"{_PAGE_OF.get(step.name, step.name)}.md").read_text(encoding="utf-8")
        for command in step.commands:
            assert f"modelstack {command}" in text, f"{step.name}: {command}"
