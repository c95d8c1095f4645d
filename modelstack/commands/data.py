"""Step 2: training documents and their mixture, synthetic documents, examples of tool calls."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modelstack.commands.help import AsJson, explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, default_out, read_arguments
from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.data.mix import MixPlan
    from modelstack.terminal.tables import Table


@explained(
    reads="raw files: WARC, WET, HTML, JSONL, Parquet or code, which the recipe or `inputs=` names",
    writes="runs/NAME: documents (jsonl.zst) by step, report.md, card.md, manifest.json",
    example='modelstack data run fineweb \'inputs=[{kind="warc", path="crawl/*.warc.gz"}]\'',
    then="modelstack data mix square-root runs/fineweb --characters-per-token 4 -o runs/mix.toml",
)
def run(
    arguments: Arguments,
    out: Out = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes; one for each core if not given.")
    ] = None,
    on: Annotated[
        Literal["local", "ray", "slurm"],
        typer.Option(help="Executor of the tasks: local processes, a Ray cluster, or Slurm jobs."),
    ] = "local",
    options: Annotated[
        list[str] | None, typer.Option("--with", metavar="key=value", help="An option of the executor of --on.")
    ] = None,
    keys: Keys = None,
) -> None:
    """Process raw files through the steps of a recipe; the same command resumes a run that was stopped."""
    from rich.console import Console

    from modelstack.data.pipeline.recipe import DataRecipe
    from modelstack.data.pipeline.report import CARD_FILE, REPORT_FILE, write_report
    from modelstack.data.pipeline.run import run_recipe
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import print_wrapped

    recipe: DataRecipe = read_arguments("data run", arguments)
    folder = default_out(out, recipe.name)
    console = Console()
    if on != "local":
        from modelstack.data.pipeline.executors import run_on

        chosen = [*(options or []), *([] if workers is None else [f"workers={workers}"])]
        if not run_on(on, recipe, folder, chosen):
            print_wrapped(
                console,
                f"submitted; when the jobs are done, the same command without --on writes {folder / REPORT_FILE}",
            )
            return
    elif options:
        raise UserError("--with is for --on ray or slurm: name one of them, or leave --with out")
    with progress_bars(console, keep=True) as told:
        phases = run_recipe(recipe, folder, n_workers=workers or os.cpu_count() or 1, progress=told)
    manifest = write_report(recipe, folder, phases)
    for line in (
        f"{manifest['n_documents_read']:,} documents read, {manifest['n_documents']:,} kept with "
        f"{manifest['n_chars']:,} characters",
        "documents: " + ", ".join(sorted({str((folder / name).parent) for name in manifest["files"]})),
        f"report: {folder / REPORT_FILE}; card: {folder / CARD_FILE}",
    ):
        print_wrapped(console, line, indent="  ")


@explained(
    reads="folders of token shards (runs/NAME/shards of a training) or of finished data runs",
    writes="a table on the terminal, and a TOML file with the table `data` of a training recipe",
    example="modelstack data mix square-root runs/nano/shards -o runs/mix.toml",
    then="modelstack train nano runs/mix.toml",
)
def mix(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[RECIPE] [key=value ...] FOLDER...",
            help="A shipped recipe by name or a .toml file, keys over it, and folders of shards or data runs.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the table of a training recipe, TOML.")],
    characters_per_token: Annotated[
        float | None, typer.Option(min=0.1, help="For data runs, which count characters.")
    ] = None,
    as_json: AsJson = False,
    keys: Keys = None,
) -> None:
    """Calculate each source's number of tokens and of repetitions."""
    from rich.console import Console

    from modelstack.data.mix import MixRecipe, plan_mix
    from modelstack.data.mix_fragment import training_fragment
    from modelstack.data.source_tokens import tokens_of
    from modelstack.files import replacing
    from modelstack.recipe_file import read_recipe
    from modelstack.shipped_recipes import recipe_path, shipped_recipes
    from modelstack.terminal.tables import print_json, print_tables, print_wrapped

    shipped = shipped_recipes("data mix")
    recipes = [
        argument
        for argument in arguments
        if "=" not in argument and (argument.endswith(".toml") or any(r.is_called(argument) for r in shipped))
    ]
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    folders = [Path(argument) for argument in arguments if argument not in recipes and argument not in overrides]
    if len(recipes) > 1:
        raise UserError(f"give at most one recipe, not {len(recipes)}: {', '.join(recipes)}")
    if not folders:
        raise UserError("no folder: name token shards or data runs after the recipe")
    recipe = read_recipe(MixRecipe, recipe_path(recipes[0], "data mix") if recipes else None, overrides)
    sources = tokens_of(folders, characters_per_token)
    plan = plan_mix(sources.tokens, recipe)
    fragment = training_fragment(plan, recipe, sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(fragment, encoding="utf-8")
    table = _table(plan, sources.tokens)
    if as_json:
        print_json(table.records())
        return
    print_tables(Console(), table)
    how = "estimated from characters, held-out documents included" if sources.is_estimate else "counted"
    print_wrapped(Console(stderr=True), f"tokens {how}; {out}")


@explained(
    reads="documents, which the recipe or `inputs=` names, and a GGUF model",
    writes="runs/NAME: documents.jsonl.zst, labelled as synthetic, attempts.jsonl, manifest.json",
    example="modelstack data synthesise plain max_attempts=20 --model qwen2.5-coder-1.5b",
    then='modelstack data run fineweb \'inputs=[{kind="jsonl", path="runs/plain/documents.jsonl.zst"}]\'',
)
def synthesise(
    arguments: Arguments,
    model: Annotated[Path, typer.Option(help="GGUF file of the writing model, or its name in the catalog.")],
    out: Out = None,
    adapter: Annotated[Path | None, typer.Option(help="GGUF adapter for the model.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature of the sampling.")] = 0.8,
    keys: Keys = None,
) -> None:
    """Generate documents with a model, a template and a grammar; each is checked and labelled as synthetic."""
    from rich.console import Console

    from modelstack.data.synthetic.recipe import SyntheticRecipe
    from modelstack.data.synthetic.run import DOCUMENTS_FILE, KEPT, write_documents
    from modelstack.data.synthetic.writer import EngineWriter, name_of
    from modelstack.inference.engine import EngineError
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.posttrain.weights_by_name import weights_path
    from modelstack.run_folder import RunFolder
    from modelstack.terminal.progress_bars import activity
    from modelstack.terminal.tables import print_wrapped

    recipe: SyntheticRecipe = read_arguments("data synthesise", arguments)
    folder = default_out(out, recipe.name)
    console = Console()
    with RunFolder(folder).held(), activity(console, "loading the model") as told:

        def progress(outcomes: Counter[str]) -> None:
            told(f"attempts {outcomes.total():,}, documents {outcomes[KEPT]:,}")

        weights = weights_path(model)
        try:
            with LlamaCppEngine(weights, lora_path=adapter) as engine:
                writer = EngineWriter(engine, name_of(weights, adapter), temperature=temperature)
                manifest = write_documents(recipe, writer, folder, progress)
        except EngineError as error:
            raise UserError(str(error)) from error
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in manifest["outcomes"].items() if reason != KEPT)
    print_wrapped(
        console,
        f"{folder / DOCUMENTS_FILE}: {manifest['n_attempts']:,} attempts, {manifest['n_documents']:,} documents; "
        f"dropped: {reasons or 'none'}",
        indent="  ",
    )


@explained(
    reads="files or folders of reference texts and of raw texts",
    writes="the folder --out: quality.safetensors, its card and its plot",
    example="modelstack data quality --good books --raw crawl --out runs/quality",
    then="the step `quality_score` of a data recipe, as in modelstack data run fineweb",
)
def quality(
    good: Annotated[list[Path], typer.Option(help="Files or folders of reference texts; repeatable.")],
    raw: Annotated[list[Path], typer.Option(help="Files or folders of raw texts; repeatable.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model, its card and its plot.")],
) -> None:
    """Fit a classifier of text quality."""
    from rich.console import Console

    from modelstack.data.quality_model.fit import MODEL_FILE, fit, thresholds, write
    from modelstack.terminal.progress_bars import activity
    from modelstack.terminal.tables import Column, Table, print_tables, print_wrapped
    from modelstack.tokenizer.documents import find_files, read_documents

    with activity(Console(stderr=True), "reading the texts") as told:
        texts = [[d.text for file in find_files(paths) for d in read_documents(file)] for paths in (good, raw)]
        told("fitting the classifier")
        fitted = fit(*texts)
    write(fitted, out, sources={"good": [p.name for p in good], "raw": [p.name for p in raw]})
    print_wrapped(Console(), f"{out / MODEL_FILE}: AUC {fitted.model.stated['auc']:.4f} on held-out texts")
    columns = (
        Column("threshold", show="{:.4f}".format),
        Column("raw texts kept", show="{:.1%}".format),
        Column("reference texts kept", show="{:.1%}".format),
    )
    print_tables(Console(), Table(columns, [[round(value, 6) for value in row] for row in thresholds(fitted)]))


@explained(
    reads="hand-written tools and sentences of the package; public sets, where the recipe names some",
    writes="runs/NAME: train.jsonl.zst, validation.jsonl.zst, manifest.json",
    example="modelstack data tools synthetic tokens=50000",
    then="modelstack sft tools base=MODEL.gguf 'data.training=[\"runs/tool-data-synthetic/train.jsonl.zst\"]'",
)
def tools(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Make training and validation data for tool calling; the same recipe gives the same bytes."""
    from rich.console import Console

    from modelstack.data.tools.build import build
    from modelstack.data.tools.recipe import ToolDataRecipe
    from modelstack.terminal.tables import print_wrapped

    console = Console()
    recipe: ToolDataRecipe = read_arguments("data tools", arguments)

    def report(text: str) -> None:
        print_wrapped(console, text, indent="    ")

    manifest = build(recipe, default_out(out, recipe.name), report)
    for name in ("train", "validation"):
        part = manifest[name]
        report(
            f"{name}: {part['examples']:,} examples, about {part['tokens_estimated']:,} tokens, "
            f"{part['abstention_share']:.1%} abstain, {part['gold_functions']:,} functions called"
        )
    dropped = manifest["decontamination"]["train"]["dropped"]
    repeats = ", ".join(f"{n} ({rule})" for rule, n in dropped.items() if n)
    report(f"dropped as repeats of an evaluation: {repeats or 'none'}")


def _table(plan: MixPlan, tokens: Mapping[str, int]) -> Table:
    from modelstack.terminal.tables import Column, Table

    parts = {"stable": plan.stable} | ({"anneal": plan.anneal} if plan.anneal else {})
    number = "{:,.0f}".format
    columns = [Column("source"), Column("tokens", show=number)]
    for name in parts:
        columns += [
            Column(f"{name}: weight", show="{:.4f}".format),
            Column("drawn", f"{name}_drawn", number),
            Column("epochs", f"{name}_epochs", "{:.2f}".format),
        ]
    if plan.anneal:
        columns.append(Column("epochs in all", show="{:.2f}".format))
    rows: list[list[object]] = []
    for source, size in tokens.items():
        row: list[object] = [source, size]
        for part in parts.values():
            # Rounded: the last digits depend on the machine's linear algebra.
            weight, epochs = round(part.weights[source], 6), round(part.epochs(tokens)[source], 6)
            row += [weight, round(part.tokens[source]), epochs]
        rows.append([*row, plan.epochs[source]] if plan.anneal else row)
    totals = [cell for part in parts.values() for cell in (None, round(sum(part.tokens.values())), None)]
    rows.append(["all", sum(tokens.values()), *totals, *([None] if plan.anneal else [])])
    return Table(tuple(columns), rows)
