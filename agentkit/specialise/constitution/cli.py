"""Command `agentkit constitution`, added to the command line by an entry point.

The complete workflow, from a constitution to a model:

    agentkit constitution show > mine.toml
    agentkit constitution revise mine.toml --prompts prompts.jsonl --model openai:NAME --out runs/revised
    modelstack sft RECIPE.toml data.training='["runs/revised/examples.jsonl"]'
    agentkit constitution compare mine.toml --prompts prompts.jsonl --model openai:NAME --out runs/compared
    modelstack prefer RECIPE.toml data.training='["runs/compared/pairs.jsonl"]'
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.errors import UserError
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from modelstack.preferences.constitution.run import ConstitutionRecipe, Told
    from modelstack.preferences.constitution.schema import Constitution

app = PlainTyper(
    no_args_is_help=True,
    help="Training data by a constitution: critique and revision, and pairs from AI feedback (2212.08073).",
)

Constituted = Annotated[
    str, typer.Argument(metavar="CONSTITUTION.toml", help='A constitution; "default" is the one shipped here.')
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="Keys over the recipe.")]
Prompts = Annotated[
    Path, typer.Option("--prompts", "-p", metavar="FILE", help='JSONL: {"prompt": ...}, with id, keep, replies.')
]
ModelName = Annotated[
    str,
    typer.Option("--model", "-m", help="Criticises, revises and judges; the embedded model is too small for it."),
]
Replier = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Gives the replies: the model to train. Default: --model.")
]


def _print_keys(as_text: bool | None) -> None:
    if as_text is not None:
        from modelstack.commands.recipe_arguments import show_keys
        from modelstack.preferences.constitution.run import ConstitutionRecipe

        show_keys(ConstitutionRecipe, as_text=as_text)


Keys = Annotated[
    bool | None,
    typer.Option(
        "--keys/--keys-json", is_eager=True, callback=_print_keys, help="List the keys of a recipe; or as JSON."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a started one is continued.")]
Recipe = Annotated[Path | None, typer.Option(metavar="RECIPE.toml", help="How it is asked; all has defaults.")]


def register(commands: typer.Typer) -> None:
    """Add the commands to `agentkit`."""
    commands.add_typer(app, name="constitution")


@app.command()
def revise(
    constitution: Constituted,
    prompts: Prompts,
    model: ModelName,
    out: Out,
    overrides: Overrides = None,
    replier: Replier = None,
    recipe: Recipe = None,
    keys: Keys = None,
) -> None:
    """Criticise and revise replies; leave examples that `modelstack sft` reads."""
    _run("revise", constitution, prompts, (replier or model, model), out, recipe, overrides or [])


@app.command()
def compare(
    constitution: Constituted,
    prompts: Prompts,
    model: ModelName,
    out: Out,
    overrides: Overrides = None,
    replier: Replier = None,
    recipe: Recipe = None,
    keys: Keys = None,
) -> None:
    """Judge two replies to each prompt; leave pairs that `modelstack prefer` reads."""
    _run("compare", constitution, prompts, (replier or model, model), out, recipe, overrides or [])


@app.command()
def show(constitution: Constituted = "default") -> None:
    """Print a constitution after checking it; a good start for one's own."""
    from modelstack.errors import UserError as StackError
    from modelstack.preferences.constitution.schema import DEFAULT, DEFAULT_FILE, read_constitution

    try:
        read_constitution(constitution)
    except StackError as error:
        raise UserError(str(error)) from error
    file = DEFAULT_FILE if constitution == DEFAULT else Path(constitution)
    typer.echo(file.read_text(encoding="utf-8"), nl=False)


def _run(
    stage: str,
    constitution: str,
    prompts: Path,
    names: tuple[str, str],
    out: Path,
    recipe: Path | None,
    overrides: list[str],
) -> None:
    import anyio

    from agentkit.cli.console import notes_console, output_console, plain
    from agentkit.cli.downloads import prepare_model
    from modelstack.errors import UserError as StackError
    from modelstack.preferences.constitution.run import EXAMPLES, PAIRS, ConstitutionRecipe
    from modelstack.preferences.constitution.schema import read_constitution
    from modelstack.recipe_file import read_recipe
    from modelstack.terminal.progress_bars import progress_bars

    notes = notes_console()
    try:
        settings = read_recipe(ConstitutionRecipe, recipe, overrides)
        read = read_constitution(constitution)
        for name in dict.fromkeys(names):
            prepare_model(name, notes)
        with progress_bars(notes) as shown:

            def told(done: int, total: int) -> None:
                shown("prompts", done, total)

            n_made, n_asked = anyio.run(_stage, stage, read, prompts, names, out, settings, told)
    except StackError as error:
        raise UserError(str(error)) from error
    made, file = ("examples", EXAMPLES) if stage == "revise" else ("pairs", PAIRS)
    output_console().print(plain(f"{out / file}: {n_made} {made} from {n_asked} prompts"))


async def _stage(
    stage: str,
    constitution: Constitution,
    prompts: Path,
    names: tuple[str, str],
    out: Path,
    recipe: ConstitutionRecipe,
    told: Told,
) -> tuple[int, int]:
    """Run a stage; return the numbers of resulting examples or pairs and of prompts."""
    from agentkit.models.resolve import resolve_model
    from agentkit.specialise.constitution.models import ModelWriter, chooser_of
    from modelstack.preferences.constitution.prompts import read_prompts
    from modelstack.preferences.constitution.run import Models, run_comparisons, run_revisions

    items = read_prompts(prompts)
    models = {name: resolve_model(name) for name in names}
    async with AsyncExitStack() as entered:
        for model in models.values():
            await entered.enter_async_context(model)
        replier, critic = (ModelWriter(models[name], name) for name in names)
        chooser = chooser_of(models[names[1]]) if stage == "compare" else None
        who = Models(replier, critic, chooser)
        if stage == "revise":
            revised = await run_revisions(constitution, items, recipe, who, out, told)
            return sum(each.target is not None for each in revised), len(items)
        compared = await run_comparisons(constitution, items, recipe, who, out, told)
        return sum(each.preference is not None for each in compared), len(items)
