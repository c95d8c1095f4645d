"""Step 4: costs of models, effects of architecture choices, and conversion to and from GGUF."""

from __future__ import annotations

import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from modelstack.commands.help import AsJson, explained


class FloatType(StrEnum):
    """Number types of the weights in a checkpoint."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@explained(
    reads="names of published sizes, config.json files or checkpoint folders; no weights",
    writes="a table on the terminal",
    example="modelstack count llama-3-8b qwen3-30b-a3b nano-9m",
    then="modelstack ablate, or a training: modelstack train nano",
)
def count(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="A published size by name, a config.json, or a checkpoint folder."
        ),
    ],
    context: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 8192,
    batch: Annotated[int, typer.Option(help="Sequences decoded together.")] = 1,
    value_bytes: Annotated[int, typer.Option("--bytes", help="Bytes of a cached value.")] = 2,
    tokens: Annotated[float | None, typer.Option(help="Tokens of a training run, such as 15e12.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count parameters, FLOPs, weights and cache of models, side by side."""
    from rich.console import Console

    from modelstack.architecture.counts.table import Workload, sections
    from modelstack.architecture.presets.find import find_config
    from modelstack.terminal.tables import Column, Table, print_json, print_tables

    workload = Workload(context, batch, value_bytes, tokens)
    columns = (Column("quantity", show=str), *(Column(model, model) for model in models))
    tables = [
        Table(columns, [(row.label, *row.cells) for row in section.rows], section.title)
        for section in sections([find_config(model) for model in models], workload)
    ]
    if as_json:
        print_json([{"title": table.title, "rows": table.records()} for table in tables])
    else:
        print_tables(Console(), *tables)


@explained(
    reads="text (--text), or the Python library where none is given",
    writes="ablation.md and ablation.png in the folder --out",
    example="modelstack ablate --steps 20 --seeds 2",
    then="the model.config of a training recipe: modelstack recipes show train/nano > mine.toml",
)
def ablate(
    choices: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CHOICE]...", help="Names of choices (--list); default: six of them."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML with [base] and [choices.NAME].")] = None,
    text: Annotated[
        list[Path] | None, typer.Option(help="File or folder of text or JSONL; the Python library if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each choice.")] = 3,
    steps: Annotated[int, typer.Option(min=1)] = 160,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Row length in bytes.")] = 256,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 3e-3,
    out: Annotated[Path, typer.Option(help="Folder of the results; a started one is resumed.")] = Path(
        "runs/ablation"
    ),
    processes: Annotated[
        int | None, typer.Option(min=1, help="Parallel runs; one for each core if not given.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the choices and run nothing.")] = False,
) -> None:
    """Train the base and each choice on the same bytes; print bits per byte with paired intervals."""
    from rich.console import Console

    from modelstack.architecture.ablation import choices as known
    from modelstack.architecture.ablation import report, running
    from modelstack.architecture.ablation.text import read_text
    from modelstack.architecture.ablation.training import Budget
    from modelstack.architecture.config import build
    from modelstack.files import replacing
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import Column, Table, print_tables, print_wrapped

    console = Console()
    base, available = known.read_recipe(recipe) if recipe is not None else (build(known.BASE), known.CHOICES)
    if show:
        listed = [(choice.name, choice.about) for choice in available.values()]
        print_tables(console, Table((Column("choice"), Column("meaning")), listed))
        return
    names = choices or list(available if recipe is not None else known.DEFAULT)
    plan = running.Plan(
        base.with_(max_position_embeddings=max(length, base.max_position_embeddings)),
        tuple(known.chosen(names, available)),
        Budget(steps=steps, rows=rows, length=length, learning_rate=learning_rate),
        tuple(range(seeds)),
        tuple(text or ()),
    )
    started = time.monotonic()
    n_runs, n_finished = len(list(plan.runs())), 0
    with progress_bars(console) as told:

        def finished(name: str, seed: int, outcome: running.Outcome) -> None:
            nonlocal n_finished
            n_finished += 1
            last = f"{name}, seed {seed}: {outcome.bits_per_byte:.3f} bits per byte, {outcome.seconds:.0f} s"
            told("runs", n_finished, n_runs, last)

        outcomes = running.run(plan, out, n_processes=processes, on_finished=finished)
    seconds = time.monotonic() - started
    table_rows = report.rows_of(plan, outcomes)
    with replacing(out / "ablation.md") as temporary:
        source = read_text(plan.paths).source
        temporary.write_text(report.markdown(plan, table_rows, source, seconds), encoding="utf-8")
    with replacing(out / "ablation.png") as temporary:
        report.draw(plan, table_rows, outcomes, temporary)
    columns = tuple(Column(heading, key) for heading, key in report.HEADINGS.items())
    print_tables(console, Table(columns, [report.cells(row) for row in table_rows]))
    print_wrapped(Console(stderr=True), f"{out / 'ablation.md'}, {out / 'ablation.png'}; {seconds:.0f} s")


@explained(
    reads="a checkpoint folder: config.json, safetensors, tokenizer.json",
    writes="one GGUF file for llama.cpp",
    example="modelstack export gguf runs/nano/model nano.gguf --type q8_0",
    then="agentkit chat --model local:nano.gguf",
)
def export_gguf(
    checkpoint: Annotated[Path, typer.Argument(help="Folder with config.json, safetensors, tokenizer.json.")],
    out: Annotated[Path, typer.Argument(help="File to write, OUT.gguf.")],
    type_name: Annotated[
        str,
        typer.Option("--type", help="Numbers: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, q6_k ... q2_k."),
    ] = "f16",
    name: Annotated[str | None, typer.Option(help="Name of the model in the file; else the folder's.")] = None,
) -> None:
    """Write a checkpoint as a GGUF file for llama.cpp."""
    from rich.console import Console

    from modelstack.architecture.checkpoint import load_checkpoint
    from modelstack.architecture.gguf import export
    from modelstack.terminal.progress_bars import activity
    from modelstack.terminal.tables import print_wrapped
    from modelstack.tokenizer.gguf_tokenizer import gguf_fields
    from modelstack.tokenizer.tokenizer_folder import load_tokenizer

    with activity(Console(stderr=True), "writing the file"):
        tokenizer = gguf_fields(load_tokenizer(checkpoint))
        model = load_checkpoint(checkpoint)
        exported = export.export_gguf(
            model.config,
            model.state_dict(),
            tokenizer,
            out,
            type_name=type_name,
            name=name or checkpoint.resolve().name,
        )
    for note in exported.notes:
        print_wrapped(Console(stderr=True), f"note: {note}", indent="  ")
    print_wrapped(Console(), f"{exported.path}: {exported.n_bytes:,} bytes", indent="  ")


@explained(
    reads="a GGUF file",
    writes="a checkpoint folder that transformers loads",
    example="modelstack import gguf model.gguf runs/model",
    then="modelstack sft tools base=runs/model",
)
def import_gguf(
    file: Annotated[Path, typer.Argument(help="GGUF file.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to write; an existing one is replaced.")],
    dtype: Annotated[FloatType, typer.Option(help="Type of the checkpoint's weights.")] = FloatType.float32,
) -> None:
    """Convert a GGUF file to a checkpoint folder, with dequantised weights."""
    import torch
    from rich.console import Console

    from modelstack.architecture.checkpoint import save_checkpoint
    from modelstack.architecture.gguf.load import load_gguf
    from modelstack.terminal.progress_bars import activity
    from modelstack.terminal.tables import print_wrapped
    from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields
    from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer

    with activity(Console(stderr=True), "writing the checkpoint"), tempfile.TemporaryDirectory() as folder:
        loaded = load_gguf(file)
        tokenizer = tokenizer_from_fields(loaded.tokenizer, file)
        save_text_tokenizer(tokenizer, folder)
        save_checkpoint(loaded.model, out, tokenizer=folder, dtype=getattr(torch, dtype.value))
    n_parameters = sum(tensor.numel() for tensor in loaded.state_dict.values())
    print_wrapped(Console(), f"{out}: {loaded.config.model_type}, {n_parameters:,} parameters", indent="  ")
