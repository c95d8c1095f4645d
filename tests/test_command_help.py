"""Help of every command: no bracket of its source is lost, and no line is wider than a terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agentkit.cli.main import app as agentkit
from modelstack.cli import app as modelstack
from tests.golden import PIPE, commands_of

APPS = {"agentkit": agentkit, "modelstack": modelstack}
COMMANDS = [(name, words) for name, app in APPS.items() for words in commands_of(app)]


def sources(command: Any) -> list[str]:
    """Help texts of a command, its parameters and its subcommands, as they are written."""
    texts = [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
    texts += [p.metavar or "" for p in command.params]
    return texts + [(each.help or "").partition("\n\n")[0] for each in getattr(command, "commands", {}).values()]


def unspaced(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize(
    ("name", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_no_bracket_of_a_help_text_is_lost(name: str, words: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(APPS[name])
    for word in words:
        command = command.commands[word]
    shown = unspaced(CliRunner().invoke(APPS[name], [*words, "--help"], env=PIPE).output)
    for text in sources(command):
        for bracketed in re.findall(r"\S*\[[^\]]*\]\S*", text):
            assert unspaced(bracketed) in shown
