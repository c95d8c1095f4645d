"""Step 12: sparse autoencoders of a model's states, their features, and steering by them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from modelstack.commands.help import explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, default_out, read_arguments


@explained(
    reads="a model (`base`), and text (`data.text`), or the corpus in the package",
    writes="runs/NAME: sae/, which SAELens loads, sae.md, metrics.jsonl, shards/, checkpoints/",
    example="modelstack sae smollm2-135m",
    then="modelstack sae features smollm2-135m --sae runs/sae/sae --out runs/sae/features",
)
def sae(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a sparse autoencoder of a model's states; the same command resumes it."""
    from rich.console import Console

    from modelstack.align.sae.sae_recipe import SaeRecipe
    from modelstack.align.sae.train_sae import PAGE, SAE, train_sae
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import Column, Table, print_tables, print_wrapped
    from modelstack.train.run.stopping import STOPPED

    recipe: SaeRecipe = read_arguments("sae", arguments)
    path = default_out(out, recipe.name)
    console = Console()
    with progress_bars(console) as tell:
        figures = train_sae(recipe, path, tell, lambda text: print_wrapped(console, text, indent="  "))
    if figures is None:
        print_wrapped(console, f"stopped; the same command resumes {path}", indent="  ")
        raise typer.Exit(STOPPED)
    rows = [(name.replace("_", " "), value) for name, value in figures.items()]
    print_tables(console, Table((Column("figure"), Column("value", show="{:.4f}".format)), rows))
    print_wrapped(console, f"{path / SAE}: {recipe.sae.latents:,} latents; {path / PAGE}", indent="  ")


@explained(
    reads="a model, the autoencoder of one of its layers, and text",
    writes="a folder of pages (--out): index.html, and a page for every fifty features",
    example="modelstack sae features smollm2-135m --sae runs/sae/sae --out runs/sae/features",
    then="open index.html in a browser; modelstack sae steer MODEL --sae FOLDER --feature NUMBER",
)
def features(
    model: Annotated[str, typer.Argument(help="A model by name, a GGUF file, a checkpoint or a stage.")],
    sae: Annotated[Path, typer.Option("--sae", help="Folder of the autoencoder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pages.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(help="File or folder of text; may be repeated. None: the corpus in the package."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1024, help="Tokens whose activations are searched.")] = 200_000,
    n: Annotated[int, typer.Option("--n", min=1, help="Features on the pages: those that fire most often.")] = 500,
    feature: Annotated[list[int] | None, typer.Option(help="Only this feature; may be repeated.")] = None,
    precision: Annotated[Literal["bf16", "fp32"], typer.Option(help="Number type of the model.")] = "bf16",
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads.")] = None,
) -> None:
    """Show features of an autoencoder: where they fire, and which tokens they promote."""
    from rich.console import Console

    from modelstack.align.sae.feature_pages import write_pages
    from modelstack.align.sae.features_of_text import activations_in, described, texts_in
    from modelstack.align.sae.sae_folder import load_sae
    from modelstack.align.sae.state_windows import StateSource
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import print_wrapped
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    start = starting_point(model)
    saved = load_sae(sae)
    origin = saved.require_from(start.parent.sha256)
    base = load_merged(start, precision=precision, device="cpu")
    source = StateSource(base.model, origin.hook, base.tokenizer.vocabulary.special_ids, origin.skip_first)
    console = Console()
    with progress_bars(console) as tell:
        activations = activations_in(
            source,
            saved.autoencoder,
            base.tokenizer,
            texts_in([str(each) for each in text or ()], tokens),
            n_tokens=tokens,
            row_tokens=origin.row_tokens,
            told=lambda done, total: tell("tokens", done, total),
        )
    report = described(
        activations, origin, base.model, saved.autoencoder, base.tokenizer, n_features=n, chosen=feature or ()
    )
    page = write_pages(report, out)
    print_wrapped(console, f"{page}: {len(report.features):,} of {report.n_latents:,} features", indent="  ")


@explained(
    reads="a model, and the autoencoder of one of its layers",
    writes="a file with the vector (--out); prints what it changes",
    example="modelstack sae steer smollm2-135m --sae runs/sae/sae --feature 7 --out s.safetensors",
    then="read_steering(FILE), the `steering` of an engine",
)
def steer(
    model: Annotated[str, typer.Argument(help="A model by name, a GGUF file, a checkpoint or a stage.")],
    sae: Annotated[Path, typer.Option("--sae", help="Folder of the autoencoder.")],
    feature: Annotated[int, typer.Option(min=0, help="Number of the feature.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file, .safetensors.")],
    strength: Annotated[
        float,
        typer.Option(help="1: the highest value of the feature on held-out text; negative: against it."),
    ] = 0.5,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text that the model continues, steered and not; may be repeated.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a continuation.")] = 24,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads.")] = None,
) -> None:
    """Write a feature's direction as steering for both engines; show what it changes."""
    from rich.console import Console

    from modelstack.align.sae.feature_steering import PROMPTS, changed_by, feature_steering, save_steering
    from modelstack.align.sae.sae_folder import load_sae
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.tables import Column, Table, print_tables, print_wrapped
    from modelstack.train.process import set_up_process

    set_up_process(threads)
    start = starting_point(model)
    saved = load_sae(sae)
    origin = saved.require_from(start.parent.sha256)
    steering = feature_steering(saved, feature, strength)
    base = load_merged(start, precision="bf16", device="cpu")
    console = Console()
    changes = changed_by(base, steering, tuple(prompt or PROMPTS), tokens)
    save_steering(out, steering, origin, feature, strength)
    columns = (
        Column("prompt"),
        Column("as it is", below=True, show="as it is: {}".format),
        Column("steered", below=True, show="steered:  {}".format),
    )
    continued = [(each.prompt, each.plain, each.steered) for each in changes.continued]
    print_tables(
        console,
        Table(
            (Column("token"), Column("change of log p", show="{:+.2f}".format)),
            [(repr(token), change) for token, change in changes.tokens],
            title="Next token, averaged over the prompts",
        ),
        Table(columns, continued, title="Continuations"),
    )
    print_wrapped(console, f"{out}: feature {feature} of layer {origin.hook.layer}", indent="  ")
