"""`agentkit models`: what the catalog holds, fetching and checking it, and clearing what models left behind."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Models that run in this process: list, pull, verify, clear-prompts.")

SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="An id of the list, hf:OWNER/REPO/FILE.gguf or https://HOST/FILE.gguf#sha256=..."
    ),
]


@app.command("list")
def list_models() -> None:
    """List the models of the catalog and whether they are here."""
    from agentkit.cli.console import output_console, plain
    from agentkit.models.catalog import CATALOG, is_present

    output = output_console()
    for entry in CATALOG.values():
        state = "here" if is_present(entry.id) else "not here"
        facts = f"{entry.id}  {entry.size / 1e6:.0f} MB  {entry.licence}  {state}  {entry.description}"
        output.print(plain(facts))
    output.print(plain("Others: hf:OWNER/REPO/FILE.gguf, https://HOST/FILE.gguf#sha256=..., ./FILE.gguf", "dim"))


@app.command()
def pull(model: SpecArgument) -> None:
    """Fetch a model, check its hash, and print where it lies."""
    from agentkit.cli.console import notes_console, output_console, plain
    from agentkit.cli.downloads import pull_shown

    output_console().print(plain(str(pull_shown(model, notes_console()))))


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="All of the catalog if absent.")] = None,
) -> None:
    """Compare fetched models with their hashes. Exit status 1: one is damaged, or the named one is missing."""
    from agentkit.cli.console import output_console, plain
    from agentkit.models.catalog import CATALOG
    from agentkit.models.catalog import verify as verify_model

    states = {spec: verify_model(spec) for spec in ([model] if model is not None else CATALOG)}
    for spec, state in states.items():
        fix = "" if state == "ok" else f"  (agentkit models pull {spec})"
        output_console().print(plain(f"{spec}  {state}{fix}"))
    if "damaged" in states.values() or (model is not None and states[model] != "ok"):
        raise typer.Exit(1)


@app.command("clear-prompts")
def clear_prompts() -> None:
    """Remove the prompt cache: what models evaluated of earlier prompts. Replies stay the same."""
    from agentkit.cli.console import output_console, plain
    from agentkit.models.prompt_cache import prompt_cache_folder
    from modelstack.inference.state_store import StateStore

    removed = StateStore(prompt_cache_folder()).clear()
    output_console().print(plain(f"{removed.n_states} prompts, {removed.n_bytes / 1e6:.0f} MB removed"))
