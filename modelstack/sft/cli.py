"""`modelstack sft`: a recipe in, a stage out; `merge`: of an adapter a model; `lineage`; `fit-prior`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.errors import UserError
from modelstack.posttrain.command import Arguments, Out, run_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from modelstack.sft.prior.masses import Asked, Origin


def sft(arguments: Arguments, out: Out = None) -> None:
    """Fine-tune a model on examples, LoRA or all weights; the same command goes on where a run was stopped."""
    from modelstack.sft.recipe import SftRecipe
    from modelstack.sft.run import fine_tune

    run_recipe(SftRecipe, fine_tune, arguments, out)


def merge(
    stage: Annotated[Path, typer.Argument(help="Folder of a stage with an adapter.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new stage.")],
    weights: Annotated[
        Path | None, typer.Option(help="What the adapter goes on; else where its own run had it from.")
    ] = None,
    gguf_type: Annotated[
        str | None, typer.Option("--gguf", help="Write model.gguf too, in these numbers: f16, q8_0, q4_1, ...")
    ] = None,
) -> None:
    """Merge a stage's adapter into its base: a checkpoint, and a quantised file for llama.cpp, as a new stage."""
    from modelstack.posttrain.stages.merge import merge_stage

    merged = merge_stage(stage, out, weights=weights, gguf_type=gguf_type)
    typer.echo(f"{out}: {merged.record.what}")


def lineage(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Stages, or folders that have some in them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the stages as JSON.")] = False,
) -> None:
    """Draw which stage came of which, each held against its record; a damaged one ends with status 1."""
    import json

    from rich.console import Console

    from modelstack.posttrain.stages import lineage as stages

    nodes = stages.lineage(stages.find_stages(folders))
    if as_json:
        typer.echo(json.dumps(stages.as_json(nodes), indent=1))
    else:
        Console().print(stages.tree(nodes))
    damaged = [node for node in nodes.values() if node.state == "damaged"]
    for node in damaged:
        typer.secho(f"damaged: {node.name} in {node.path}: {'; '.join(node.faults)}", err=True, fg="red")
    if damaged:
        raise typer.Exit(1)


def fit_prior(
    source: Annotated[
        Path,
        typer.Argument(metavar="EXAMPLES|MASSES", help="Held-back examples, or with --refit the masses of them."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the prior; its masses lie beside it.")],
    model: Annotated[Path | None, typer.Option(help="GGUF file of the model.")] = None,
    lora: Annotated[Path | None, typer.Option(help="GGUF file of the adapter on it.")] = None,
    n_examples: Annotated[int, typer.Option("--examples", min=1, help="Ask so many at most.")] = 600,
    limit: Annotated[
        float, typer.Option(min=0, max=1, help="Wrong abstentions, as a share of the examples with calls.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(help="Of which examples are asked.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the model; measured if not given.")] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Fit from a file of masses; no model is asked.")] = False,
) -> None:
    """Fit how much words and an abstention's bias count in choosing a tool, for one model and adapter."""
    from rich.console import Console

    from modelstack.files import replacing
    from modelstack.sft.prior.fit import fitted, lines
    from modelstack.sft.prior.masses import read_masses, write_masses

    console = Console()
    if not out.parent.is_dir():  # said now, not after minutes of asking
        raise UserError(f"folder {out.parent} is not there; make it, or name another --out")
    if refit:
        origin, asked = read_masses(source)
    elif model is None:
        raise UserError("which model to ask is missing: --model FILE.gguf, or --refit and a file of masses")
    else:
        origin, asked = _asked(console, source, model, lora, n_examples, seed, threads)
        write_masses(out.with_suffix(".masses.jsonl"), origin, asked)
    prior = fitted(asked, origin, limit)
    with replacing(out) as temporary:
        temporary.write_text(prior.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for line in lines(prior):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _asked(
    console: Console, file: Path, model: Path, lora: Path | None, n_examples: int, seed: int, threads: int | None
) -> tuple[Origin, list[Asked]]:
    """Ask a model the examples of a file, behind a bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from modelstack.data.examples import read_examples
    from modelstack.inference.engine import EngineError
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.sft.prior import masses as decision_masses
    from modelstack.sft.prior.exact_calls import chosen

    examples = chosen(
        [each for each in read_examples(file) if decision_masses.is_decision(each)], n_examples, seed
    )
    columns = (TextColumn("asking"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with (
            LlamaCppEngine(model, lora_path=lora, n_threads=threads, n_threads_prefill=threads) as engine,
            Progress(*columns, console=console, transient=True) as progress,
        ):
            task = progress.add_task("", total=len(examples))
            asked = decision_masses.ask_choices(
                engine, examples, told=lambda n: progress.update(task, completed=n)
            )
    except EngineError as error:
        raise UserError(str(error)) from error
    return decision_masses.Origin.of(file, model, lora), asked
