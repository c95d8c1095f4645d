"""`agentkit`, the command line. One file per command; a command imports its dependencies when it runs.

An error says what was given, the rule and the fix; `agentkit --debug COMMAND` shows the traceback.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from agentkit.cli import chat, demo, doctor, mcp, models, resume, run, trace
from agentkit.errors import AgentKitError

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as in shells."""

MAX_ERROR_CHARS = 4_000
"""Characters of an error that are printed; enough for a difference of tool definitions, or a server's reply."""

EXTRAS = {"eval": "evals", "compare": "evals", "calibrate": "evals", "specialise": "train"}
"""Extra that a command needs, where several bring a module; `local` for all others."""


class _Commands(TyperGroup):
    """Command group that reports the error of any command without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            its_own = isinstance(error, (typer.Abort, BrokenPipeError)) or hasattr(error, "exit_code")
            if its_own or ctx.params.get("debug"):
                raise
            raise typer.Exit(_report(error, ctx.invoked_subcommand or "")) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Agents that run offline on real tools.",
)
app.command()(run.run)
app.command()(resume.resume)
app.command()(resume.runs)
app.command()(chat.chat)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(mcp.app, name="mcp")
app.add_typer(models.app, name="models")
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
    from agentkit.cli.console import show_warnings

    show_warnings()


def main() -> None:
    """Run the command line."""
    app()


def _report(error: BaseException, command: str) -> int:
    """Print an error of a command and return the exit status."""
    from agentkit.cli.console import error_lines, notes_console, one_line, plain

    error = _only_one(error)
    if isinstance(error, KeyboardInterrupt):
        notes_console().print("stopped", style="yellow")
        return INTERRUPTED
    if isinstance(error, AgentKitError):
        text = error_lines(str(error), MAX_ERROR_CHARS)
    elif (fix := _missing_extra(error, command)) is not None:
        text = fix
    else:
        what = one_line(f"{type(error).__name__}: {error}", MAX_ERROR_CHARS)
        text = f"{what} (`agentkit --debug COMMAND` shows where)"
    notes_console().print(plain(f"error: {text}", "red"))
    return 1


def _missing_extra(error: BaseException, command: str) -> str | None:
    """Return the error that an extra is not installed; None if `error` is another one."""
    from mcp_servers.missing_modules import how_to_install

    if not isinstance(error, ImportError):
        return None
    fix = how_to_install(error, prefer=(EXTRAS.get(command, "local"),))
    return None if fix is None else f"`agentkit {command}`: {fix}"


def _only_one(error: BaseException) -> BaseException:
    """Return the single error inside exception groups, or the error itself."""
    inner = cast("tuple[BaseException, ...]", getattr(error, "exceptions", ()))
    return _only_one(inner[0]) if len(inner) == 1 else error


if __name__ == "__main__":
    main()
