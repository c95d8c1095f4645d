"""`console` blocks: commands behind `$ `, each followed by the output that it prints.

In an expected output a line `...` stands for any number of lines, and `…` for any characters of a line.
`pytest tests/docs --update-golden` writes outputs without such marks anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import Block
from tests.golden import TERMINAL, on_screen


def commands_of(code: str) -> list[tuple[str, str]]:
    """Return the commands of a block with the output below each; a command goes on behind a backslash or `> `."""
    found: list[tuple[str, str]] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
            continue
        command, output = found[-1]
        if command.endswith("\\") and not output:
            found[-1] = (f"{command[:-1]}{line.removeprefix('> ').strip()}", "")
        else:
            found[-1] = (command, f"{output}{line}\n")
    return found


INSTALLED = Path(sys.executable).parent
"""Folder of the installed console scripts."""


def terminal() -> dict[str, str]:
    """Return the environment of a terminal of 80 columns without colours."""
    return os.environ | TERMINAL


def printed(command: str, folder: Path, programs: Path = INSTALLED) -> tuple[str, int]:
    """Run a command as on a terminal; return what it prints and its status. `programs` is first in PATH."""
    path = os.pathsep.join([str(programs), str(INSTALLED), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=terminal() | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
    )
    shown = on_screen(done.stdout.decode())  # bytes: text mode would turn a bar's carriage returns into line feeds
    return "\n".join(line.rstrip() for line in shown.splitlines()) + "\n", done.returncode


def matches(expected: str, output: str) -> bool:
    """Whether an output is the expected one."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else ".*".join(map(re.escape, line.rstrip().split("…"))) + r"\n"
        for line in expected.splitlines()
    )
    return re.fullmatch(pattern, output) is not None


def check_console(block: Block, folder: Path, programs: Path) -> None:
    """Run the commands of a block one after the other, and compare what they print."""
    commands = commands_of(block.code)
    for number, (command, expected) in enumerate(commands):
        output, status = printed(command, folder, programs)
        wanted = block.exit_status if number == len(commands) - 1 else 0
        assert status == wanted, f"{block}: $ {command}\nexited {status}, not {wanted}:\n{output}"
        if expected and not block.output_varies:
            assert matches(expected, output), f"{block}: $ {command}\nexpected:\n{expected}\nprinted:\n{output}"


def update_console(block: Block, folder: Path) -> None:
    """Run the commands of a block, and write what they print to its page, but for outputs with `...` or `…`."""
    code = block.code
    for command, expected in commands_of(block.code):
        output, _ = printed(command, folder)
        varies = block.output_varies or "…" in expected or "..." in expected.splitlines()
        if expected and not varies:
            code = code.replace(expected, output, 1)
    page = block.page.read_text(encoding="utf-8")
    block.page.write_text(page.replace(block.code, code, 1), encoding="utf-8")
