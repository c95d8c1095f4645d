"""`modelstack`, the command line: the commands of `modelstack.commands.steps`, by the words of their names.

A mistake of the user is one line with the fix; `modelstack --debug COMMAND` shows the traceback. A command of two
words ("train sweep") may begin with the word of another one ("train"), so all of them are names of one table, and
a word that begins several commands lists them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_servers.missing_modules import how_to_install
from modelstack.commands.overview import overview
from modelstack.commands.steps import RECIPES, STEPS
from modelstack.errors import UserError
from modelstack.terminal.plain_help import PlainGroup, PlainTyper, write_commands


class _Commands(PlainGroup):
    """Commands of one or two words; reports the mistakes that any of them raises."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        first, *others = args
        if others and f"{first} {others[0]}" in self.commands:
            return super().resolve_command(ctx, [f"{first} {others[0]}", *others[1:]])
        group = {name: command for name, command in self.commands.items() if name.startswith(f"{first} ")}
        if first in self.commands or not group:
            return super().resolve_command(ctx, args)
        if others and others[0] != "--help":
            ctx.fail(f"No such command '{first} {others[0]}'.\nCommands: {', '.join(group)}")
        formatter = ctx.make_formatter()
        write_commands(group, formatter)
        typer.echo(formatter.getvalue().strip())
        ctx.exit()

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (UserError, OSError, ModuleNotFoundError) as error:
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError):
                raise
            from rich.console import Console

            from modelstack.terminal.tables import print_wrapped

            explanation = _explanation(error, ctx.invoked_subcommand or "")
            print_wrapped(Console(stderr=True), f"modelstack: {explanation}", style="red")
            raise typer.Exit(1) from error


app = PlainTyper(
    cls=_Commands,
    invoke_without_command=True,
    help="Train and post-train models of your own. `modelstack` alone shows the steps and the last runs.",
)
for number, step in enumerate(STEPS, 1):
    for words, function in step.commands.items():
        app.command(words, rich_help_panel=f"{number} {step.name}")(function)
for words, function in RECIPES.items():
    app.command(words, rich_help_panel="Recipes")(function)


@app.callback()
def options(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Show the steps when no command is given."""
    if ctx.invoked_subcommand is None:
        typer.echo(overview(Path("runs")))


def main() -> None:
    """Run the command line."""
    app()


def _explanation(error: Exception, command: str) -> str:
    extra = "data" if command.startswith("data ") else "train"
    if isinstance(error, ImportError) and (fix := how_to_install(error, prefer=(extra, "release"))) is not None:
        return fix
    return " ".join(str(error).split())
