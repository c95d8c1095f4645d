"""README's code runs as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modelstack.commands.steps import RECIPES, STEPS
from modelstack.shipped_recipes import FOLDERS, recipe_path

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS)
def test_the_readme_example_runs_offline_and_prints_an_answer(
    code: str, tmp_path: Path, smollm2_gguf: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.md").write_text("milk\neggs\nflour\n", encoding="utf-8")
    code = code.replace('"local"', '"local:tiny"')  # the model that tests have, whichever is the default
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "RunUsage(requests=" in done.stdout


def test_the_readme_names_only_files_and_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"(?:pytest |\]\()((?:tests|mcp_servers|docs|evals)/[\w/.-]+)", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:evals|mcp_servers)[\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_readme_names_only_commands_and_recipes_of_modelstack_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {words for step in STEPS for words in step.commands} | RECIPES.keys()
    told = re.findall(r"^modelstack ([a-z][^#\n]*)", text, re.MULTILINE) + re.findall(
        r"`modelstack ([a-z][^`]+)`", text
    )
    assert len(told) > 30
    for line in told:
        first, *others = shlex.split(line)
        pair = f"{first} {others[0]}" if others else first
        command = pair if pair in commands else first
        assert command in commands, line
        if command in FOLDERS and len(words := [first, *others]) > len(command.split()):
            recipe = words[len(command.split())]
            assert recipe.isupper() or recipe.endswith(".toml") or recipe_path(recipe, command), line
