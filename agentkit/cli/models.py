"""`agentkit models`: list the catalog, fetch and verify models, clear the prompt cache."""

from __future__ import annotations

from typing import Annotated

import typer

from agentkit.cli.options import JsonOption
from modelstack.terminal.plain_help import PlainTyper

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


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models of the catalog: size, memory, licence, purpose, and whether it is downloaded."""
    from agentkit.cli.console import notes_console, print_tables, print_wrapped
    from agentkit.models.catalog.embedders import EMBEDDERS
    from agentkit.models.catalog.entries import CATALOG, is_present
    from agentkit.models.local.profiles import DEFAULT_PROFILE, PROFILES
    from modelstack.terminal.tables import Column, Table, print_json

    profiles = {model_id: profile for profile, model_id in PROFILES.items()}
    columns = (
        Column("model", "id"),
        Column("profile", "", lambda profile: f"{profile} *" if profile == DEFAULT_PROFILE else profile),
        Column("file", "bytes", lambda size: f"{size / 1e6:.0f} MB"),
        Column("memory", "memory_bytes", lambda size: f"{size / 1e9:.1f} GB"),
        Column("here", "is_present"),
        Column("licence"),
        Column("description", below=True),
        Column("for", "good_for", lambda purpose: f"for {purpose}", below=True),
        Column("terms", "restricted_by", lambda url: f"not an open-source licence: {url}", below=True),
    )
    rows = [
        (
            entry.id,
            profiles.get(entry.id),
            entry.size,
            entry.memory,
            is_present(entry.id),
            entry.licence,
            entry.description,
            entry.good_for,
            None if entry.open_source else entry.licence_url,
        )
        for entry in CATALOG.values()
    ]
    rows += [
        (
            entry.id,
            None,
            entry.size,
            entry.memory,
            entry.is_present(),
            entry.licence,
            entry.description,
            entry.good_for,
            None,
        )
        for entry in EMBEDDERS.values()
    ]
    if as_json:
        print_json(Table(columns, rows).records())
        return
    print_tables(Table(columns, rows))
    for line in (
        "* is `local`. local:PROFILE has the shipped adapter, if any; local:ID has none.",
        "memory: measured, of a process after an answer, with the default window.",
        "Others: hf:OWNER/REPO/FILE.gguf, https://HOST/FILE.gguf#sha256=..., ./FILE.gguf",
    ):
        print_wrapped(notes_console(), line, "dim")


@app.command()
def pull(model: SpecArgument) -> None:
    """Download a model, verify its hash, and print its path."""
    from agentkit.cli.console import notes_console, output_console, plain
    from agentkit.cli.downloads import pull_embedder_shown, pull_shown
    from agentkit.models.catalog.embedders import EMBEDDERS

    if (embedder := EMBEDDERS.get(model)) is not None:
        output_console().print(plain(str(pull_embedder_shown(embedder, notes_console()))))
        return
    output_console().print(plain(str(pull_shown(_file_of(model), notes_console()))))


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="All of the catalog if absent.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare fetched models with their hashes. Exit status 1: one is damaged, or the named one is missing."""
    from agentkit.cli.console import print_tables
    from agentkit.models.catalog.embedders import EMBEDDERS
    from agentkit.models.catalog.entries import CATALOG
    from agentkit.models.catalog.entries import verify as verify_model
    from modelstack.terminal.tables import Column, Table, print_json

    specs = [*CATALOG, *EMBEDDERS] if model is None else [_file_of(model)]
    states = {spec: EMBEDDERS[spec].verify() if spec in EMBEDDERS else verify_model(spec) for spec in specs}
    rows = [
        (spec, state, None if state == "ok" else f"agentkit models pull {spec}") for spec, state in states.items()
    ]
    table = Table((Column("model"), Column("state"), Column("fix")), rows)
    if as_json:
        print_json(table.records())
    else:
        print_tables(table)
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
