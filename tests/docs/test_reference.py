"""The generated reference is current, and complete."""

from __future__ import annotations

import agentkit
from tests.docs.blocks import ROOT
from tools.docs import recipe_pages
from tools.docs.command_pages import FOLDER, PROGRAMS, page
from tools.docs.llms_txt import FILE, llms_txt


def test_the_reference_of_the_command_line_is_what_the_programs_say() -> None:
    for program in PROGRAMS:
        written = (FOLDER / f"{program}.md").read_text(encoding="utf-8")
        assert written == page(program), "run `python -m tools.docs.command_pages`"


def test_the_reference_of_recipes_is_what_their_models_say() -> None:
    for file, text in recipe_pages.pages().items():
        assert file.read_text(encoding="utf-8") == text, "run `python -m tools.docs.recipe_pages`"


def test_each_public_name_has_its_place_in_the_reference() -> None:
    folder = ROOT / "docs" / "reference" / "api"
    listed = [
        line.removeprefix("::: ")
        for file in folder.glob("*.md")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("::: ")
    ]
    assert len(listed) == len(set(listed))
    for name in agentkit.__all__:
        value = getattr(agentkit, name)
        module = getattr(value, "__module__", "")
        places = {f"{module}.{name}", module}
        assert module in {"types", "typing"} or places & set(listed), (
            f"{module}.{name} is on no page of docs/reference/api"
        )


def test_the_table_of_contents_for_language_models_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == llms_txt(), "run `python -m tools.docs.llms_txt`"
