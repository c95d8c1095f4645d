"""Writes the reference of the command line, `docs/reference/cli/PROGRAM.md`, from the programs themselves.

python -m tools.docs.command_pages
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import agentkit.cli.main
import modelstack.cli

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "cli"
PROGRAMS = {"agentkit": agentkit.cli.main.app, "modelstack": modelstack.cli.app}


def commands(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    """Yield each command below a group, with the words that call it."""
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def section(words: str, command: Any) -> str:
    """Return the reference of a command: its usage, its help and a table of its options."""
    context = command.context_class(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    parts = [f"## {words}", f"```text\n{usage}\n```", _prose(command.help or "")]
    records = [parameter.get_help_record(context) for parameter in command.params if parameter.name != "help"]
    rows = [(f"`{names.replace('|', ', ')}`", _cell(help_text)) for names, help_text in filter(None, records)]
    if rows:
        lines = [("argument or option", "meaning"), ("---", "---"), *rows]
        parts.append("\n".join(f"| {name} | {meaning} |" for name, meaning in lines))
    return "\n\n".join(part for part in parts if part)


def _prose(text: str) -> str:
    """Return a help text in Markdown: its indented lines are code."""
    text = inspect.cleandoc(text).replace("\f", "").replace("\b\n", "")
    return re.sub(r"<(?=[\w/])", r"\\<", text)


def _cell(text: str) -> str:
    """Return a text as the cell of a table: neither `|` nor `<` means anything there."""
    return re.sub(r"(?<!\\)[|<]", r"\\\g<0>", " ".join(text.split()))


def page(program: str) -> str:
    """Return the reference of a program in Markdown."""
    group = typer.main.get_command(PROGRAMS[program])
    found = list(commands(group, program))
    listed = "\n".join(
        f"- [`{words}`](#{words.replace(' ', '-')}): {_first_line(command)}" for words, command in found
    )
    head = (
        f"<!-- Written by `python -m tools.docs.command_pages`. -->\n\n# {program}\n\n{_prose(group.help or '')}"
    )
    return "\n\n".join([head, listed, *(section(words, command) for words, command in found)]) + "\n"


def _first_line(command: Any) -> str:
    return (command.help or "").strip().partition("\n")[0]


def main() -> None:
    """Write the page of each program."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        text = page(program)
        (FOLDER / f"{program}.md").write_text(text, encoding="utf-8")
        print(f"docs/reference/cli/{program}.md: {text.count(chr(10) + '## ')} commands")


if __name__ == "__main__":
    main()
