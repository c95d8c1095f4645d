"""Step 11: the prior of tool choice, fitted for one model and adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.commands.help import explained
from modelstack.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from modelstack.sft.prior.masses import Asked, Origin


@explained(
    reads="held-back examples (validation.jsonl.zst of `modelstack data tools`), a GGUF model, an adapter",
    writes="the file of the prior, and the model's probability masses beside it (.masses.jsonl)",
    example="modelstack fit-prior runs/tool-data-general/validation.jsonl.zst --model m.gguf --out prior.json",
    then='in agentkit, LocalModel(..., prior="prior.json")',
)
def fit_prior(
    source: Annotated[
        Path,
        typer.Argument(metavar="EXAMPLES|MASSES", help="Held-back examples, or with --refit the masses of them."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the prior; its masses lie beside it.")],
    model: Annotated[Path | None, typer.Option(help="GGUF file of the model.")] = None,
    lora: Annotated[Path | None, typer.Option(help="GGUF file of the adapter on it.")] = None,
    n_examples: Annotated[int, typer.Option("--examples", min=1, help="Maximum number of examples.")] = 600,
    limit: Annotated[
        float, typer.Option(min=0, max=1, help="Wrong abstentions, as a share of the examples with calls.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of the choice of examples.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the model; measured if not given.")
    ] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Fit from a file of masses; no model is asked.")] = False,
) -> None:
    """Fit the weights of words and of abstention in the choice of a tool, for one model and adapter."""
    from rich.console import Console

    from modelstack.files import replacing
    from modelstack.sft.prior.fit import fitted, lines
    from modelstack.sft.prior.masses import read_masses, write_masses
    from modelstack.terminal.tables import print_wrapped

    console = Console()
    if not out.parent.is_dir():  # raises now rather than after minutes of sampling
        raise UserError(f"folder {out.parent} does not exist; create it, or name another --out")
    if refit:
        origin, asked = read_masses(source)
    elif model is None:
        raise UserError("the model is missing: give --model FILE.gguf, or --refit and a file of masses")
    else:
        origin, asked = _asked(console, source, model, lora, n_examples, seed, threads)
        write_masses(out.with_suffix(".masses.jsonl"), origin, asked)
    prior = fitted(asked, origin, limit)
    with replacing(out) as temporary:
        temporary.write_text(prior.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for line in (*lines(prior), str(out)):
        print_wrapped(console, line, indent="    ")


def _asked(
    console: Console, file: Path, model: Path, lora: Path | None, n_examples: int, seed: int, threads: int | None
) -> tuple[Origin, list[Asked]]:
    """Return a model's choice probabilities on the examples of a file; shows progress."""
    from modelstack.data.examples import read_examples
    from modelstack.inference.engine import EngineError
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.sft.prior import masses as decision_masses
    from modelstack.sft.prior.exact_calls import chosen
    from modelstack.terminal.progress_bars import progress_bars

    examples = chosen(
        [each for each in read_examples(file) if decision_masses.is_decision(each)], n_examples, seed
    )
    try:
        with (
            LlamaCppEngine(model, lora_path=lora, n_threads=threads, n_threads_prefill=threads) as engine,
            progress_bars(console) as told,
        ):
            asked = decision_masses.ask_choices(
                engine, examples, told=lambda n: told("examples asked", n, len(examples))
            )
    except EngineError as error:
        raise UserError(str(error)) from error
    return decision_masses.Origin.of(file, model, lora), asked
