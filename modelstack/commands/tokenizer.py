"""Step 3: train a tokenizer, and report its costs and savings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.commands.help import AsJson, explained
from modelstack.commands.recipe_arguments import Keys
from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.terminal.progress_bars import Tell
    from modelstack.tokenizer.documents import Document
    from modelstack.tokenizer.text_tokenizer import TextTokenizer

HELD_OUT = 0.05
"""Share of the documents that training leaves out for the report."""


@explained(
    reads="files or folders of text (.jsonl, .jsonl.zst, .txt)",
    writes="the folder --out: tokenizer.json and its configuration, which transformers loads",
    example="modelstack tokenizer train vocab_size=8192 runs/fineweb/documents -o runs/tokenizer",
    then="modelstack tokenizer report runs/tokenizer --text runs/fineweb/documents",
)
def train(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[RECIPE.toml] [key=value ...] INPUT...",
            help="A recipe, keys over it, and files or folders of text (.jsonl, .jsonl.zst, .txt).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    max_megabytes: Annotated[
        float | None, typer.Option(help="Maximum text to learn from, in equal parts from each file.")
    ] = None,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the documents left out.")] = HELD_OUT,
    keys: Keys = None,
) -> None:
    """Train a tokenizer on text and write it as a folder that transformers loads."""
    from rich.console import Console

    from modelstack.architecture.counts.table import quantity
    from modelstack.recipe_file import read_recipe
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import print_wrapped
    from modelstack.tokenizer.documents import find_files, sample_documents
    from modelstack.tokenizer.tokenizer_folder import save_tokenizer
    from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

    recipes = [argument for argument in arguments if argument.endswith(".toml")]
    overrides = [argument for argument in arguments if "=" in argument and argument not in recipes]
    inputs = [argument for argument in arguments if argument not in recipes and argument not in overrides]
    if len(recipes) > 1:
        raise UserError(f"give at most one recipe, not {len(recipes)}: {', '.join(recipes)}")
    if not inputs:
        raise UserError("no input: name files or folders of text after the recipe")
    config = read_recipe(TokenizerConfig, Path(recipes[0]) if recipes else None, overrides)
    files = find_files(inputs)
    console = Console()
    with progress_bars(console, keep=True) as told:
        told("reading")
        documents = sample_documents(files, _bytes(max_megabytes), held_out=False, share=held_out)
        told("reading", len(documents), len(documents))
        trained = train_tokenizer(_tracked(documents, told), config)
    save_tokenizer(trained, out)
    print_wrapped(
        console,
        f"{out}: {trained.tokenizer.get_vocab_size():,} ids, {trained.n_learnt:,} of them learnt from "
        f"{trained.n_documents:,} documents ({quantity(trained.n_bytes, 'B')}); "
        f"configuration {config.fingerprint()[:12]}",
        indent="  ",
    )


@explained(
    reads="tokenizers, and files or folders of text",
    writes="a table on the terminal; report.json and report.png with --out",
    example="modelstack tokenizer report runs/tokenizer --text runs/fineweb/documents",
    then="modelstack train nano tokenizer.path=runs/tokenizer tokenizer.learn=none",
)
def report(
    tokenizer: Annotated[
        str, typer.Argument(help="A folder, tokenizer.json or GGUF file; NAME=PATH gives a name.")
    ],
    text: Annotated[list[Path], typer.Option(help="Files or folders of text; a file is a domain.")],
    against: Annotated[list[str] | None, typer.Option(help="A tokenizer to compare with; repeatable.")] = None,
    parallel: Annotated[
        Path | None, typer.Option(help="Folder of LANGUAGE.txt files with the same lines, en.txt among them.")
    ] = None,
    max_megabytes: Annotated[
        float | None, typer.Option(help="Maximum text to measure on, in equal parts from each file.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0, max=1, help="Measure on the share that training left out; 1 for all text.")
    ] = HELD_OUT,
    width: Annotated[int, typer.Option(min=1, help="Model width, for the cost of the vocabulary.")] = 576,
    untied: Annotated[bool, typer.Option("--untied", help="The output layer has its own embedding.")] = False,
    body_parameters: Annotated[
        int | None,
        typer.Option(min=0, help="Model parameters without embeddings; default: those of SmolLM2-135M."),
    ] = None,
    equal_size: Annotated[
        bool, typer.Option(help="Show larger vocabularies also cut down to the size of the first.")
    ] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for report.json and report.png.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and the numbers.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a tokenizer on held-out text, alone or in comparison with others."""
    from rich.console import Console

    from modelstack.terminal.progress_bars import activity
    from modelstack.terminal.tables import print_json, print_wrapped
    from modelstack.tokenizer.documents import find_files, sample_documents
    from modelstack.tokenizer.report import SMOLLM2_BODY, CostModel, build_report
    from modelstack.tokenizer.report_output import print_report, store_report

    body = SMOLLM2_BODY if body_parameters is None else body_parameters
    with activity(Console(stderr=True), "encoding the texts"):
        tokenizers = _load_named([tokenizer, *(against or [])])
        documents = sample_documents(find_files(text), _bytes(max_megabytes), held_out=True, share=held_out)
        measured = build_report(
            tokenizers,
            documents,
            parallel=_read_parallel(parallel) if parallel else None,
            cost=CostModel(width=width, tied=not untied, body_parameters=body),
            equal_size=equal_size,
            seed=seed,
        )
    if as_json:
        print_json(measured.model_dump(mode="json"))
    else:
        print_report(measured, Console())
    console = Console(stderr=True)
    for note in measured.notes:
        print_wrapped(console, f"- {note}", indent="  ")
    if out is not None:
        stored, drawn = store_report(measured, out)
        print_wrapped(console, f"{stored}\n{drawn}")


def _load_named(named: Sequence[str]) -> dict[str, TextTokenizer]:
    """Load tokenizers by name: NAME=PATH, or the name of the file or folder."""
    from modelstack.tokenizer.tokenizer_folder import TOKENIZER_FILE, load_tokenizer

    loaded: dict[str, TextTokenizer] = {}
    for entry in named:
        name, _, given = entry.rpartition("=")
        path = Path(given)
        name = name or (path.resolve().parent.name if path.name == TOKENIZER_FILE else path.resolve().stem)
        if name in loaded:
            raise UserError(f"two tokenizers are called {name!r}; write NAME=PATH to rename one")
        loaded[name] = load_tokenizer(path)
    return loaded


def _read_parallel(folder: Path) -> dict[str, list[str]]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(f"{folder} holds no LANGUAGE.txt files")
    return {file.stem: file.read_text(encoding="utf-8").splitlines() for file in files}


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else int(megabytes * 1_000_000)


def _tracked(documents: Sequence[Document], told: Tell) -> Iterator[str]:
    """Yield texts and show progress; the duration of the merges is not known in advance."""
    for n_done, document in enumerate(documents, start=1):
        yield document.text
        told("counting words", n_done, len(documents))
    told("learning merges")
