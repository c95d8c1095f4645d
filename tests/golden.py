"""Golden files: the output of commands, at 80 columns on a terminal and in a pipe, as files that are reviewed.

`python -m pytest tests -k golden --update-golden` writes them anew; look at the difference with `git diff` before
you commit it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.cells import cell_len
from typer.testing import CliRunner

WIDTH = 80
UPDATE = "--update-golden"
_SIZED = {"NO_COLOR": "1", "COLUMNS": str(WIDTH), "LINES": "40", "PAGER": "cat"}
TERMINAL = {**_SIZED, "TERM": "xterm", "TTY_COMPATIBLE": "1"}
"""A terminal that moves its cursor; `on_screen` reads its output."""
PIPE = {**_SIZED, "TERM": "dumb", "TTY_COMPATIBLE": "0"}
_CONTROL = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)")
Replace = Sequence[tuple[str, str]]
"""Regular expressions of texts that differ between runs, and what stands for them."""
IDS_AND_TIMES: Replace = (
    (r"run_[0-9a-f]{16}", "run_0123456789abcdef"),
    (r"\d{4}-\d\d-\d\d([ T])\d\d:\d\d", r"2026-03-01\g<1>08:30"),
    (r":30:\d\d[+-]\d\d:\d\d", ":30:00+00:00"),
    (r"\b\d+\.\d\d s\b", "0.00 s"),
    (r"\b\d+\.\d s\b", "0.0 s"),
)


class Golden:
    """Compares outputs of one application with the files of a folder."""

    def __init__(self, app: typer.Typer, program: str, folder: Path, *, update: bool) -> None:
        self._app = app
        self._program = program
        self._folder = folder
        self._update = update

    def check(
        self,
        name: str,
        *commands: str | Sequence[str],
        replace: Replace = (),
        typed: str = "",
        piped: bool = True,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Run commands on a terminal, then in a pipe, and compare with the file NAME.txt.

        Args:
            name: Name of the file.
            commands: Command lines without the program's name.
            replace: Applied to the output in this order.
            typed: Standard input.
            piped: Whether to show the output in a pipe, too.
            before: Called before each command, for example to make its data anew.
        """
        shown = []
        for command in commands:
            words = command.split() if isinstance(command, str) else list(command)
            line = shlex.join([self._program, *words])
            modes = [("terminal", TERMINAL)] if "--json" not in words else []  # JSON is the same on both
            modes += [("pipe", PIPE)] if piped else []
            for title, environment in modes:
                before()
                options: dict[str, Any] = {"input": typed, "env": environment, "prog_name": self._program}
                result = CliRunner().invoke(self._app, words, **options)
                if result.exception is not None and not isinstance(result.exception, SystemExit):
                    raise result.exception
                status = f", status {result.exit_code}" if result.exit_code else ""
                text = _replaced(on_screen(result.output) if title == "terminal" else result.output, replace)
                shown.append(f"[{title}{status}] $ {_replaced(line, replace)}\n{text.rstrip()}\n")
                if title == "terminal":
                    _check_width(text)
        self.compare(name, "\n".join(shown))

    def compare(self, name: str, text: str) -> None:
        """Compare a text with the file NAME.txt, or write it."""
        file = self._folder / f"{name}.txt"
        assert "\x1b" not in text
        if self._update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), f"{file} is missing; {UPDATE} writes it"
        assert text == file.read_text(encoding="utf-8")


def commands_of(app: typer.Typer) -> list[tuple[str, ...]]:
    """Return the words of the application itself and of all its commands and groups."""

    def found(command: Any, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        inner: dict[str, Any] = getattr(command, "commands", {})
        return [words, *(path for name, each in inner.items() for path in found(each, (*words, name)))]

    return found(typer.main.get_command(app), ())


def on_screen(output: str) -> str:
    """Return the text that an output leaves on a terminal, without styles, erased bars and spaces at ends.

    A line that is wider than the terminal stays one line.
    """
    lines, row, column = [""], 0, 0
    for piece in _CONTROL.split(output):
        match piece[:1], piece[1:]:
            case "\n", _:
                row, column = row + 1, 0
                lines += [""] * (row == len(lines))
            case "\r", _:
                column = 0
            case "\x1b", "[2K":
                lines[row] = ""
            case "\x1b", control if control.endswith("A"):
                row = max(0, row - int(control[1:-1] or 1))
            case "\x1b", control if control.endswith(("m", "h", "l")):  # a style; the cursor shown or hidden
                pass
            case "\x1b", control:
                raise ValueError(f"control sequence {control!r} of the output is not known")
            case _:
                line = lines[row].ljust(column)
                lines[row] = line[:column] + piece + line[column + len(piece) :]
                column += len(piece)
    while lines[row + 1 :] and not lines[-1]:
        del lines[-1]
    return "\n".join(line.rstrip() for line in lines)


def _replaced(text: str, replace: Replace) -> str:
    for pattern, replacement in replace:
        text = re.sub(pattern, replacement, text)
    return text


def _check_width(text: str) -> None:
    """No line is wider than the terminal, unless it ends in a long word or is a command to copy."""
    for line in text.splitlines():
        is_command = line.lstrip().startswith(("Example: ", "Next: "))
        assert cell_len(line) <= WIDTH or is_command or cell_len(line.split()[-1]) > WIDTH // 3, line
