"""`agentkit`, the command line. One file per command; a command imports its dependencies when it runs.

An error says what was given, the rule and the fix; `agentkit --debug COMMAND` shows the traceback.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any, cast

import typer

from agentkit.cli import acp, chat, demo, doctor, mcp, memory, models, resume, run, serve, skills, studio, trace
from modelstack.terminal.plain_help import PlainGroup, PlainTyper

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as in shells."""


class _Commands(PlainGroup):
    """Command group that reports the error of any command without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            its_own = isinstance(error, (typer.Abort, BrokenPipeError)) or hasattr(error, "exit_code")
            if its_own or ctx.params.get("debug"):
                raise
            raise typer.Exit(_report(error, ctx.invoked_subcommand or "")) from error


app = PlainTyper(
    cls=_Commands,
    no_args_is_help=True,
    help="Agents that run offline on real tools.",
)
app.command()(run.run)
app.command()(resume.resume)
app.command()(resume.runs)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(studio.studio)
app.command()(acp.acp)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(mcp.app, name="mcp")
app.add_typer(memory.app, name="memory")
app.add_typer(models.app, name="models")
app.add_typer(skills.app, name="skills")
app.add_typer(trace.app, name="trace")
for _plugin in entry_points(group="agentkit.commands"):  # commands of other packages, such as `agentkit eval`
    _plugin.load()(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from mcp_servers.distribution import NAME

        typer.echo(f"agentkit {version(NAME)}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take what stands before the command."""
    from agentkit.cli.error_output import show_warnings

    show_warnings()


def main() -> None:
    """Run the command line."""
    app()


def _report(error: BaseException, command: str) -> int:
    """Print an error of a command and return the exit status."""
    from agentkit.cli.console import notes_console, print_wrapped
    from agentkit.cli.error_output import error_text

    error = _only_one(error)
    if isinstance(error, KeyboardInterrupt):
        notes_console().print("stopped", style="yellow")
        return INTERRUPTED
    print_wrapped(notes_console(), f"error: {error_text(error, command)}", "red")
    return 1


def _only_one(error: BaseException) -> BaseException:
    """Return the single error inside exception groups, or the error itself."""
    inner = cast("tuple[BaseException, ...]", getattr(error, "exceptions", ()))
    return _only_one(inner[0]) if len(inner) == 1 else error


if __name__ == "__main__":
    main()
