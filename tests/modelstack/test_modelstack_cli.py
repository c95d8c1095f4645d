"""The `modelstack` command: its steps, its help, its mistakes; nothing heavy is imported to help."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.commands.overview import WIDTH, overview, runs_in
from modelstack.commands.steps import RECIPES, STEPS
from modelstack.errors import UserError
from modelstack.shipped_recipes import FOLDERS, recipe_path

COMMANDS = {words for step in STEPS for words in step.commands} | RECIPES.keys()


def helped(words: str) -> str:
    result = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["train", "--help"], ["data", "mix", "--help"], ["recipes"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, json; from typer.testing import CliRunner; from modelstack.cli import app; "
        "done = CliRunner().invoke(app, json.loads(sys.argv[1])); "
        "heavy = [m for m in ('torch', 'transformers', 'gguf', 'matplotlib', 'numpy') if m in sys.modules]; "
        "print(json.dumps([done.exit_code, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True)
    assert json.loads(done.stdout) == [0, []], done.stderr


def test_alone_it_shows_the_steps_in_order_with_their_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = CliRunner().invoke(app, []).output
    names = re.findall(r"^ ?(\d+)  (\w+) ", output, re.MULTILINE)
    assert names == [(str(number), step.name) for number, step in enumerate(STEPS, 1)]
    assert len(STEPS) == 12
    for words in COMMANDS - RECIPES.keys():
        assert re.search(rf"(^ +|, ){words}(,|$)", output, re.MULTILINE), words
    assert "Last in" not in output
    assert max(map(len, output.splitlines())) <= WIDTH
    assert "\x1b" not in output


def write(file: Path, content: Any, seconds: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    os.utime(file, (seconds, seconds))


def test_alone_it_shows_the_newest_runs_of_the_folder_with_step_and_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("runs/tools/stage.json"), {"stage": {"kind": "sft"}}, 1_000_000_000)
    write(Path("runs/nano/report.md"), "", 1_100_000_000)
    write(Path("runs/web/card.md"), "", 1_200_000_000)
    write(Path("runs/liked/recipe.json"), {"resolved": {"recipe": {"optimizer": {}, "method": {}}}}, 1_300_000_000)
    write(Path("runs/damaged/stage.json"), [], 1_400_000_000)
    write(Path("runs/other/notes.txt"), "", 1_500_000_000)
    write(Path(f"runs/{'long' * 40}/plan.json"), {}, 1_600_000_000)
    page = overview(Path("runs"))
    shown = page.partition("Last in runs\n")[2].splitlines()
    assert shown[0].split()[0] == "decide" and shown[0].endswith("...")
    assert [line.split()[0] for line in shown[1:5]] == ["stage", "preferences", "data", "train"]
    assert "liked  not finished" in shown[2]
    assert re.search(r"train +2004-11-\d\d \d\d:\d\d  nano$", shown[4])
    assert shown[5] == ""  # the sft stage is the sixth
    assert {run.path.name: run.step for run in runs_in(Path("runs"))}["tools"] == "sft"
    assert max(map(len, page.splitlines())) <= WIDTH


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_help_says_what_a_command_reads_and_writes_an_example_and_the_next_one(words: str) -> None:
    output = helped(words)
    assert [part for part in ("Reads:", "Writes:", "Example:", "Next:") if part not in output] == []
    assert f"modelstack {words} " in output or f"modelstack {words}\n" in output


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_commands_in_help_exist_with_the_recipes_that_they_name(words: str) -> None:
    table = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    paragraphs = (table[words].help or "").replace("\\[", "[").split("\n\n")
    lines = [line for line in paragraphs if line.startswith(("Example: ", "Next: "))]
    for told in re.findall(r"(?<!/)modelstack ([a-z][^;`]*)", " ; ".join(lines)):
        named = told.split(",")[0] if "'" not in told else told
        arguments = shlex.split(named.strip())
        command = " ".join(arguments[:2]) if " ".join(arguments[:2]) in COMMANDS else arguments[0]
        assert command in COMMANDS, told
        recipe = arguments[len(command.split())] if command in FOLDERS else "RECIPE"
        if not recipe.isupper() and not recipe.endswith(".toml"):
            assert recipe_path(recipe, command).is_file()


def test_a_word_that_begins_several_commands_lists_them() -> None:
    listed = CliRunner().invoke(app, ["data"])
    assert listed.exit_code == 0
    assert [line.split()[1] for line in listed.output.splitlines() if line.startswith("  data ")] == [
        "run",
        "mix",
        "synthesise",
        "quality",
        "tools",
    ]
    assert CliRunner().invoke(app, ["data", "--help"]).output == listed.output
    unknown = CliRunner().invoke(app, ["data", "mixx"], env={"COLUMNS": "200"})
    assert unknown.exit_code == 2 and "No such command 'data mixx'" in unknown.stderr


def test_one_word_may_be_a_command_and_begin_another(tmp_path: Path) -> None:
    assert "train [OPTIONS]" in helped("train") and "train sweep [OPTIONS]" in helped("train sweep")
    missing = str(tmp_path / "missing.toml")
    for arguments in (["train", missing], ["train", "sweep", missing]):
        assert "missing.toml does not exist" in " ".join(CliRunner().invoke(app, arguments).stderr.split())


def test_a_mistake_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["import", "gguf", str(tmp_path / "no.gguf"), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert result.stderr.startswith("modelstack: ") and "no.gguf" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_debug_shows_where_a_mistake_came_from() -> None:
    result = CliRunner().invoke(app, ["--debug", "count", "no-such-model"])
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match="no-such-model"):
        raise result.exception
