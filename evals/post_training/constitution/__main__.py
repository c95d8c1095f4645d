"""Runs the constitutional loop on the embedded model and measures both sides before and after.

    python -m evals.post_training.constitution --out DIR
    python -m evals.post_training.constitution --out DIR --seed 1 measured_per_side=40

The same command resumes after an interruption. Prints tables; writes `report.md` and `report.json`. Needs the
extras `local`, `train` and `evals`, and the default model (`agentkit models pull smollm2-135m`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
from rich.console import Console

from agentkit.errors import UserError
from agentkit.models.catalog.entries import local_path
from evals.cli import print_tables
from evals.post_training.constitution.embedded_judge import EmbeddedJudge, embedded_judge
from evals.post_training.constitution.loop import Looped, LoopRecipe, StoppedError, run_loop
from evals.post_training.constitution.report import facts, page, tables
from modelstack.errors import UserError as StackError
from modelstack.files import replacing
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.preferences.constitution.engine_asking import EngineModel
from modelstack.preferences.constitution.schema import read_constitution
from modelstack.recipe_file import read_recipe
from modelstack.train.run.stopping import STOPPED

PROGRAM = "python -m evals.post_training.constitution"
N_JUDGED = 40
"""Number of revisions that the embedded model judges."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Run the constitutional loop and measure it.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an unfinished run is resumed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m", help="catalog id or GGUF file of the base")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of LoopRecipe")
    given = parser.parse_args(arguments)
    console = Console()
    try:
        recipe = read_recipe(LoopRecipe, None, [f"seed={given.seed}", *given.overrides])
        weights = Path(local_path(given.model))
        given.out.mkdir(parents=True, exist_ok=True)
        looped = run_loop(recipe, weights, given.out, console)
        judge = _judge(recipe, looped, weights, given.out)
    except StoppedError as error:
        console.print(str(error))
        return STOPPED
    except (UserError, StackError) as error:
        print(error, file=sys.stderr)
        return 2
    found = facts(recipe, looped, judge)
    told = [f"{PROGRAM} --out DIR --seed {recipe.seed}", *given.overrides]
    _write(given.out / "report.json", json.dumps(found | {"command": " ".join(told)}, indent=1) + "\n")
    _write(given.out / "report.md", page(found, " ".join(told)))
    for table in tables(found):
        print_tables(table)
    return 0


def _judge(recipe: LoopRecipe, looped: Looped, weights: Path, out: Path) -> EmbeddedJudge:
    threads = recipe.threads
    with LlamaCppEngine(weights, n_threads=threads, n_threads_prefill=threads) as engine:
        return anyio.run(
            embedded_judge,
            read_constitution(),
            looped.revised,
            EngineModel(engine),
            N_JUDGED,
            recipe.seed,
            out / "embedded-judge",
        )


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
