"""Help of the commands as plain text: equal on a terminal and in a pipe, and brackets are only brackets.

Typer's default takes help texts for Rich markup, where `[key=value]` is a style and is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import cleandoc
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

Command = TypeVar("Command", bound=Callable[..., Any])


class PlainTyper(typer.Typer):
    """Application, or group of its commands, whose help is plain text."""

    def __init__(self, *, cls: type[PlainGroup] | None = None, **options: Any) -> None:
        """Create an application without commands.

        Args:
            cls: Class of its group; None takes `PlainGroup`.
            options: Passed to `typer.Typer`.
        """
        super().__init__(
            cls=cls or PlainGroup,
            rich_markup_mode=None,
            add_completion=False,
            pretty_exceptions_enable=False,
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Command], Command]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a decorator that adds a command."""
        return super().command(name, cls=PlainCommand, **options)


class PlainCommand(TyperCommand):
    """Command whose usage line shows an argument's notation as it is written: `RECIPE [key=value ...]`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create a command; its arguments without a notation are shown in capitals."""
        super().__init__(*arguments, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and parameter.metavar is None:
                parameter.metavar = (parameter.name or "").upper()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line after the command's name."""
        arguments = [p for p in self.get_params(ctx) if isinstance(p, TyperArgument) and not p.hidden]
        return ["[OPTIONS]", *map(_notation, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options, then the options of each panel below its name."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                usual = "Arguments" if isinstance(parameter, TyperArgument) else "Options"
                panels.setdefault(_panel(parameter) or usual, []).append(record)
        for panel, rows in panels.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)


class PlainGroup(TyperGroup):
    """Group of commands whose help shows the whole first paragraph of each command, by panels."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands below the names of their panels, in the order in which they were added."""
        write_commands(self.commands, formatter)


def write_commands(commands: Mapping[str, Any], formatter: Any) -> None:
    """Write names and first paragraphs of commands below the names of their panels."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for name, command in commands.items():
        if not command.hidden:
            summary = " ".join(cleandoc(command.help or "").split("\n\n")[0].split())
            panels.setdefault(_panel(command) or "Commands", []).append((name, summary))
    width = max((len(name) for rows in panels.values() for name, _ in rows), default=0)
    for panel, rows in panels.items():
        with formatter.section(panel):
            formatter.write_dl([(f"{name:<{width}}", summary) for name, summary in rows])


def _panel(part: object) -> str | None:
    """Return the name of the panel of a command or a parameter."""
    panel = getattr(part, "rich_help_panel", None)
    return panel if isinstance(panel, str) else None


def _notation(argument: TyperArgument) -> str:
    name = argument.display_name_raw
    if any(sign in name for sign in "[] "):
        return name
    name = f"{name.removesuffix('...')}..." if argument.nargs != 1 else name
    return name if argument.required else f"[{name}]"
