"""`modelstack export gguf` and `modelstack import gguf`: convert checkpoints to llama.cpp's files and back."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

export_app = typer.Typer(no_args_is_help=True, help="Write a checkpoint in another program's format.")
import_app = typer.Typer(no_args_is_help=True, help="Convert another program's file to a checkpoint.")


class _FloatType(StrEnum):
    """Type of the weights in a checkpoint."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@export_app.callback()
def _export() -> None:
    """Keep `gguf` a subcommand even while it is the only command."""


@import_app.callback()
def _import() -> None:
    """Keep `gguf` a subcommand even while it is the only command."""


@export_app.command("gguf")
def export_gguf(
    checkpoint: Annotated[Path, typer.Argument(help="Folder with config.json, safetensors, tokenizer.json.")],
    out: Annotated[Path, typer.Argument(help="File to write, OUT.gguf.")],
    type_name: Annotated[
        str,
        typer.Option("--type", help="Numbers: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, q6_k ... q2_k."),
    ] = "f16",
    name: Annotated[
        str | None, typer.Option(help="Name of the model in the file; default: the folder's name.")
    ] = None,
) -> None:
    """Write a checkpoint as a GGUF file for llama.cpp."""
    from modelstack.architecture.checkpoint import load_checkpoint
    from modelstack.architecture.gguf import export
    from modelstack.tokenizer.gguf_tokenizer import gguf_fields
    from modelstack.tokenizer.tokenizer_folder import load_tokenizer

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
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{exported.path}: {exported.n_bytes:,} bytes")


@import_app.command("gguf")
def import_gguf(
    file: Annotated[Path, typer.Argument(help="GGUF file.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to write; an existing one is replaced.")],
    dtype: Annotated[_FloatType, typer.Option(help="Type of the checkpoint's weights.")] = _FloatType.float32,
) -> None:
    """Convert a GGUF file to a checkpoint folder, dequantised."""
    import torch

    from modelstack.architecture.checkpoint import save_checkpoint
    from modelstack.architecture.gguf.load import load_gguf
    from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields
    from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer

    loaded = load_gguf(file)
    tokenizer = tokenizer_from_fields(loaded.tokenizer, file)
    with tempfile.TemporaryDirectory() as folder:
        save_text_tokenizer(tokenizer, folder)
        save_checkpoint(loaded.model(), out, tokenizer=folder, dtype=getattr(torch, dtype.value))
    typer.echo(
        f"{out}: {loaded.config.model_type}, {sum(t.numel() for t in loaded.state_dict.values()):,} numbers"
    )
