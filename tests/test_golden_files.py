"""Every command has a golden file of its output, or a reason why it has none."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer

from agentkit.cli.main import app as agentkit
from modelstack.cli import app as modelstack
from tests.golden import commands_of

WITHOUT = {
    "agentkit acp": "speaks a protocol until its input ends; `test_acp.py` is its client",
    "agentkit improve gate": "compares two models; its tables are those of `agentkit improve run`",
    "agentkit serve": "serves until it is stopped; `test_serve.py` holds what it prints",
    "agentkit studio": "serves until it is stopped; `test_serve.py` holds what it prints",
    "agentkit constitution show": "prints a file of the package as it is",
    "modelstack recipes show": "prints a file of the package as it is",
}
"""Commands without a golden file, with the reason."""


def commands(program: str, app: typer.Typer) -> set[str]:
    """Return the commands of a program that are not groups of others."""
    names = {" ".join((program, *words)) for words in commands_of(app)}
    groups = {name for name in names if any(each.startswith(f"{name} ") for each in names)}
    return names - groups | {"modelstack train", "modelstack release", "modelstack sae"}  # they begin others, too


def test_every_command_has_a_golden_file_of_its_output() -> None:
    known = commands("agentkit", agentkit) | commands("modelstack", modelstack)
    shown: set[str] = set()
    for file in Path(__file__).parent.rglob("golden/*.txt"):
        for line in re.findall(
            r"^\[(?:terminal|pipe).*?\] \$ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE
        ):
            line = " ".join(shlex.split(line))
            shown.add(max((name for name in known if f"{line} ".startswith(f"{name} ")), key=len, default=line))
    assert known - shown == WITHOUT.keys()
