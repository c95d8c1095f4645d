"""`modelstack synthesise`: a recipe and a model in, documents that the model wrote after real ones out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def synthesise(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE.toml [key=value ...]", help="A recipe, and keys over it.")
    ],
    model: Annotated[Path, typer.Option(help="GGUF file of the model that writes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a started one is continued.")],
    adapter: Annotated[Path | None, typer.Option(help="GGUF adapter for it.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = 0.8,
) -> None:
    """Let a model write documents under a template and a grammar; they are checked and labelled as synthetic."""
    from rich.console import Console

    from modelstack.data.synthetic.recipe import SyntheticRecipe
    from modelstack.data.synthetic.run import DOCUMENTS_FILE, KEPT, write_documents
    from modelstack.data.synthetic.writer import EngineWriter, name_of
    from modelstack.errors import UserError
    from modelstack.inference.engine import EngineError
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.recipe_file import read_recipe
    from modelstack.run_folder import RunFolder

    file, *overrides = arguments
    recipe = read_recipe(SyntheticRecipe, Path(file), overrides)
    console = Console()
    with RunFolder(out).held(), console.status("loading the model") as status:

        def progress(outcomes: Counter[str]) -> None:
            status.update(f"{outcomes.total():,} attempts, {outcomes[KEPT]:,} documents")

        try:
            with LlamaCppEngine(model, lora_path=adapter) as engine:
                writer = EngineWriter(engine, name_of(model, adapter), temperature=temperature)
                manifest = write_documents(recipe, writer, out, progress)
        except EngineError as error:
            raise UserError(str(error)) from error
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in manifest["outcomes"].items() if reason != KEPT)
    console.print(
        f"{manifest['n_attempts']:,} attempts, {manifest['n_documents']:,} documents: {out / DOCUMENTS_FILE}"
        + (f"; the others: {reasons}" if reasons else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
