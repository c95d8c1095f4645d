"""Help shared by all commands: input, output, an example, the next command; the option `--json`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated, TypeVar

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
"""Option of the commands whose result is data."""

_UNWRAPPED = "\b\n"
"""Keeps a paragraph on one line, so that a command can be copied."""

Command = TypeVar("Command", bound=Callable[..., None])


def explained(*, reads: str, writes: str, example: str, then: str) -> Callable[[Command], Command]:
    """Add input, output, an example and the next command to a command's help, which is its docstring.

    Args:
        reads: Input of the command.
        writes: Output of the command.
        example: Complete command line that works if the files that it names exist.
        then: The next command, or what to do with the output.
    """

    def add(command: Command) -> Command:
        is_command = then.startswith(("modelstack ", "agentkit "))
        lines = [f"Reads: {reads}", f"Writes: {writes}", f"{_UNWRAPPED}Example: {example}"]
        lines.append(f"{_UNWRAPPED if is_command else ''}Next: {then}")
        command.__doc__ = "\n\n".join([cleandoc(command.__doc__ or ""), *lines]) + "\n"
        return command

    return add
