"""The commands that README and the documentation name exist, with the options that they are given."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

import agentkit.cli.main
import modelstack.cli
from mcp_servers.__main__ import SERVERS
from tests.docs.blocks import PAGES, ROOT, blocks_of
from tests.docs.console import commands_of

PROGRAMS = {
    "agentkit": typer.main.get_command(agentkit.cli.main.app),
    "modelstack": typer.main.get_command(modelstack.cli.app),
}
INLINE = re.compile(r"`((?:agentkit|agentkit-mcp|modelstack|python -m|make) [^`\n]+)`")
OURS = {"evals", "mcp_servers", "tools", "tests"}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _told() -> Iterator[tuple[str, str]]:
    """Yield each command that a page names, with where it stands."""
    for page in PAGES:
        prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        yield from ((str(page.relative_to(ROOT)), found) for found in INLINE.findall(prose))
        for block in blocks_of(page):
            if block.language == "sh":
                lines = block.code.replace("\\\n", " ").splitlines()
                yield from ((str(block), line) for line in lines)
            elif block.language == "console":
                yield from ((str(block), command) for command, _ in commands_of(block.code))


def _words(line: str) -> list[str]:
    """Return the words of the first command of a line, without its environment and its redirections."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a command with a "..." left out
        words = line.split()
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words = words[1:]
    end = next(
        (index for index, word in enumerate(words) if word in {"|", ">", "&&", ";", "2>&1", "&"}), len(words)
    )
    return words[:end]


def _check(command: Any, words: list[str]) -> None:
    """Fail where a word names no command of a group, or an option is unknown to its command."""
    while hasattr(command, "resolve_command") and words and not words[0].startswith("-"):
        if words[0].isupper():  # a placeholder
            return
        _, command, words = command.resolve_command(command.context_class(command), words)
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    forwards = command.context_settings.get("ignore_unknown_options", False)
    for word in itertools.takewhile(lambda word: word != "--", [] if forwards else words):
        if re.fullmatch(r"--?[a-zA-Z][\w-]*(?:=.*)?", word):
            name = word.partition("=")[0]
            assert name in {*options, "--help"} or name[:2] in options - {"--"}, f"no option {name}"


TOLD = tuple(_told())


@pytest.mark.parametrize("place", sorted({place for place, _ in TOLD}))
def test_named_commands_exist_with_their_options(place: str) -> None:
    for line in (line for at, line in TOLD if at == place):
        match _words(line):
            case ["agentkit" | "modelstack" as program, *words]:
                try:
                    _check(PROGRAMS[program], words)
                except Exception as error:
                    pytest.fail(f"{place}: {line}: {error or type(error).__name__}", pytrace=False)
            case ["python", "-m", module, *_] if module.islower() and module.split(".")[0] in OURS:
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{place}: {module}"
            case ["agentkit-mcp", server, *_] if server.islower():
                assert server in SERVERS, f"{place}: agentkit-mcp {server}"
            case ["make", target, *_] if target.islower():
                assert target in TARGETS, f"{place}: make {target}"
            case _:
                pass
