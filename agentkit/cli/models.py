"""`agentkit models`: list the catalog, fetch and verify models, clear the prompt cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from agentkit.models.catalog.entries import CatalogEntry

app = PlainTyper(
    no_args_is_help=True,
    help="Models that run in this process: list, pull, verify, clear-prompts.",
)

SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An id or profile of the list, hf:OWNER/REPO/FILE.gguf or https://HOST/FILE.gguf#sha256=...",
    ),
]

_ROW = "{:<19}{:<10}{:>8}{:>9}   {:<6}{}"
"""Column widths of the list; a line with the longest licence stays below 80 columns."""


@app.command("list")
def list_models() -> None:
    """List the models of the catalog: size, memory, licence, purpose, and whether it is downloaded."""
    from agentkit.cli.console import output_console, plain
    from agentkit.models.catalog.entries import CATALOG
    from agentkit.models.local.profiles import DEFAULT_PROFILE, PROFILES

    output = output_console()
    profiles = {model_id: profile for profile, model_id in PROFILES.items()}
    output.print(plain(_ROW.format("MODEL", "PROFILE", "FILE", "MEMORY", "HERE", "LICENCE"), "bold"))
    for entry in CATALOG.values():
        profile = profiles.get(entry.id, "")
        output.print(plain(_facts(entry, f"{profile} *" if profile == DEFAULT_PROFILE else profile)))
        output.print(plain(f"  {entry.description}", "dim"))
        output.print(plain(f"  for {entry.good_for}", "dim"))
        if not entry.open_source:
            output.print(plain(f"  not an open-source licence: {entry.licence_url}", "yellow"))
    for line in (
        "* is `local`. local:PROFILE has the shipped adapter, if any; local:ID has none.",
        "MEMORY: measured, of a process after an answer, with the default window.",
        "Others: hf:OWNER/REPO/FILE.gguf, https://HOST/FILE.gguf#sha256=..., ./FILE.gguf",
    ):
        output.print(plain(line, "dim"))


def _facts(entry: CatalogEntry, profile: str) -> str:
    from agentkit.models.catalog.entries import is_present

    here = "yes" if is_present(entry.id) else "no"
    size, memory = f"{entry.size / 1e6:.0f} MB", f"{entry.memory / 1e9:.1f} GB"
    return _ROW.format(entry.id, profile, size, memory, here, entry.licence)


@app.command()
def pull(model: SpecArgument) -> None:
    """Download a model, verify its hash, and print its path."""
    from agentkit.cli.console import notes_console, output_console, plain
    from agentkit.cli.downloads import pull_shown

    output_console().print(plain(str(pull_shown(_file_of(model), notes_console()))))


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="All of the catalog if absent.")] = None,
) -> None:
    """Compare fetched models with their hashes. Exit status 1: one is damaged, or the named one is missing."""
    from agentkit.cli.console import output_console, plain
    from agentkit.models.catalog.entries import CATALOG
    from agentkit.models.catalog.entries import verify as verify_model

    specs = list(CATALOG) if model is None else [_file_of(model)]
    states = {spec: verify_model(spec) for spec in specs}
    for spec, state in states.items():
        fix = "" if state == "ok" else f"  (agentkit models pull {spec})"
        output_console().print(plain(f"{spec}  {state}{fix}"))
    if "damaged" in states.values() or (model is not None and states[specs[0]] != "ok"):
        raise typer.Exit(1)


@app.command("clear-prompts")
def clear_prompts() -> None:
    """Delete the prompt cache, the evaluated beginnings of earlier prompts. Replies do not change."""
    from agentkit.cli.console import output_console, plain
    from agentkit.models.local.prompt_cache import prompt_cache_folder
    from modelstack.inference.state_store import StateStore

    removed = StateStore(prompt_cache_folder()).clear()
    output_console().print(plain(f"{removed.n_states} prompts, {removed.n_bytes / 1e6:.0f} MB removed"))


def _file_of(name: str) -> str:
    """Return the spec of a model's file; accepts `local` and `local:PROFILE`, too."""
    from agentkit.models.resolve import split_local

    local = split_local(name)
    return name if local is None else local[0]
