"""Command `agentkit specialise`, added to the command line by an entry point (extra `train`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.options import AllowEnvOption, HeaderOption
from agentkit.errors import UserError
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from agentkit.specialise.run import Start


def register(app: typer.Typer) -> None:
    """Add the command to `agentkit`."""
    app.command()(specialise)


def _print_keys(as_text: bool | None) -> None:
    if as_text is not None:
        from agentkit.specialise.recipe import SpecialiseRecipe
        from modelstack.commands.recipe_arguments import show_keys

        show_keys(SpecialiseRecipe, as_text=as_text)


def specialise(
    mcp: Annotated[
        list[str],
        typer.Option(
            "--mcp", metavar="SERVER", help="A command in quotes, a URL, or an mcpServers JSON file; repeatable."
        ),
    ],
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Keys over the recipe.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="local, local:PROFILE, local:ID or local:PATH.gguf: what is trained on."
        ),
    ] = "local",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; a started one is continued.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="RECIPE.toml", help="How many examples, how long; all has defaults.")
    ] = None,
    writer: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Says some requests in other words; none: nobody does. The embedded model is too small for it.",
        ),
    ] = "none",
    examples: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Examples of your own; `agentkit trace export-dataset` writes some."),
    ] = None,
    keys: Annotated[
        bool | None,
        typer.Option(
            "--keys/--keys-json",
            is_eager=True,
            callback=_print_keys,
            help="List the keys of a recipe; or as JSON.",
        ),
    ] = None,
) -> None:
    """Train the local model on your tools: data from the live servers, held-back test, adapter, report.

    Tools that say of themselves that they only read are called, to find values and to try the examples;
    execute=never forbids that. Nothing else of a server is ever called.
    """
    if find_spec("torch") is None:
        raise UserError(f"`agentkit specialise` needs torch: {install_command('train')}")
    from agentkit.cli.console import notes_console, output_console, plain
    from agentkit.cli.options import servers_of
    from agentkit.models.resolve import resolve_model
    from agentkit.specialise.recipe import SpecialiseRecipe
    from agentkit.specialise.report import REPORT
    from agentkit.specialise.run import Wanted
    from agentkit.specialise.run import specialise as run
    from modelstack.errors import UserError as StackError
    from modelstack.posttrain.stages.stage import ADAPTER_GGUF
    from modelstack.recipe_file import read_recipe
    from modelstack.train.run.stopping import STOPPED

    try:
        settings = read_recipe(SpecialiseRecipe, recipe, overrides or ())
        folder = out or Path("runs") / settings.name
        wanted = Wanted(
            toolsets=servers_of(mcp, header or (), allow_env or ()),
            command_words=[word for value in mcp for word in _words(value, allow_env or ())],
            start=start_of(model),
            recipe=settings,
            writer=None if writer == "none" else resolve_model(writer),
            more_examples=tuple(examples or ()),
        )
        stage = run(wanted, folder, notes_console())
    except StackError as error:
        raise UserError(str(error)) from error
    if stage is None:
        raise typer.Exit(STOPPED)
    output_console().print(plain(f"adapter: {folder / ADAPTER_GGUF}\nreport: {folder / REPORT}"))


def _words(server: str, allow_env: Sequence[str]) -> list[str]:
    """Return the words of a server's command line, or of the command lines in a configuration file."""
    from agentkit.mcp.config import load_mcp_config

    file = Path(server).expanduser()
    if server.endswith(".json") and file.is_file():
        return [word for each in load_mcp_config(file, allow_env=allow_env).values() for word in each.args]
    return server.split()


def start_of(model: str) -> Start:
    """Return the weights and the shipped adapter that a model name refers to.

    Raises:
        UserError: The name is not a local model's, or has options.
    """
    from agentkit.models.catalog.entries import local_path
    from agentkit.models.local.profiles import profile_of
    from agentkit.models.local.shipped import shipped_folder
    from agentkit.models.resolve import split_local
    from agentkit.specialise.run import Start

    local = split_local(model)
    if local is None or local[1]:
        raise UserError(
            f"model {model!r} cannot be trained: name local, local:PROFILE, local:ID or local:PATH.gguf, without "
            f"options."
        )
    weights = Path(local_path(local[0]))
    return Start(weights, shipped_folder(local[0]) if profile_of(model) else None, model)
