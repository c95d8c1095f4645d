"""Help shared by all commands: input, output, an example, the next command; the option `--json`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
"""Option of the commands whose result is data."""

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
        lines = (f"Reads: {reads}", f"Writes: {writes}", f"\b\nExample: {example}", f"Next: {then}")
        text = "\n\n".join(lines)  # the backspace keeps the example on one line, so that it can be copied
        command.__doc__ = f"{(command.__doc__ or '').rstrip()}\n\n{text}\n"
        return command

    return add
