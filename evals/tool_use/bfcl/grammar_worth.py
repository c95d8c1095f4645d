"""Measures the effect of the grammar: one local model on BFCL without it, with it, and with it plus abstention.

    python -m evals.tool_use.bfcl.grammar_worth [--model local:PATH.gguf] [--limit N] [--log-dir DIR]

- Without a grammar the model gets the same prompt and may write anything; its reply is parsed leniently
  (`modelstack.toolcalls.free_form`).
- With the grammar a call is forced, so irrelevance is 0 by construction.
- With abstention the prompt also explains `[]`; the model may call, answer in text, or reply `[]`.

Seconds and tokens measure the decision. Under a grammar a text answer is cut after its first word, since no call
can follow. Without a grammar the whole reply is searched for calls. Each condition is an evaluation in its own
folder and is resumed if it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from agentkit.errors import UserError
from agentkit.models.resolve import split_local, with_local_option
from evals.harness.comparison import compare, comparison_table
from evals.harness.evaluation import Evaluation, evaluate
from evals.harness.results import ALL
from evals.harness.specification import Specification
from evals.harness.suite import Table
from evals.tool_use.bfcl.tables import case_scores

CATEGORIES = "simple_python,multiple,parallel,irrelevance"
MAX_TOKENS = 256
"""Maximum tokens of one reply. The longest gold reply of these categories has 211 tokens; a longer reply without a
grammar does not reach its call."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A decoding condition."""

    name: str
    model_option: tuple[str, str] | None
    tool_choice: str


CONDITIONS = (
    Condition("no-grammar", ("grammar", "none"), "auto"),
    Condition("grammar", None, "required"),
    Condition("grammar-abstention", ("abstain", "true"), "auto"),
)


def specification(
    condition: Condition, model: str, *, limit: int | None = None, seed: int = 0, data: str | None = None
) -> Specification:
    """Return the evaluation of one condition; `data` is the suite's option of that name.

    Raises:
        UserError: the model is not local, or its string sets an option that the conditions set.
    """
    local = split_local(model)
    if local is None:
        raise UserError(f"model {model!r}: only a local model can be decoded without and with a grammar.")
    if fixed := {"grammar", "abstain"} & set(local[1]):
        raise UserError(f"model {model!r}: leave out {', '.join(sorted(fixed))}; the conditions set it.")
    name = with_local_option(model, *condition.model_option) if condition.model_option else model
    options = {"categories": CATEGORIES, "tool_choice": condition.tool_choice}
    if data is not None:
        options["data"] = data
    return Specification("bfcl", name, options, limit=limit, seed=seed, max_tokens=MAX_TOKENS)


def side_by_side(done: Sequence[tuple[Condition, Evaluation]]) -> Table:
    """Return the scores of all conditions, with one line per category and one over all.

    "without disputed" is the score over the items whose answer key is not disputed (`disputed`).
    """
    columns = (
        "group", "condition", "n", "score", "95 % interval", "without disputed", "failed", "s/case", "tokens/case",
    )  # fmt: skip
    cells = [
        (
            line.group,
            condition.name,
            str(line.score.n),
            f"{line.score.value:.3f}",
            f"{line.score.low:.3f} to {line.score.high:.3f}",
            _without_disputed(evaluation, line.group),
            str(line.n_failed),
            f"{line.wall_s:.2f}",
            f"{line.tokens:.0f}",
        )
        for group in [line.group for line in done[0][1].lines]
        for condition, evaluation in done
        for line in evaluation.lines
        if line.group == group
    ]
    of = done[0][1].specification
    return Table(f"BFCL v4 · {of.model.partition('?')[0]} · seed {of.seed} · greedy", columns, tuple(cells))


def _without_disputed(evaluation: Evaluation, group: str) -> str:
    triples = [(each.case, each.run, each.score) for each in evaluation.scored]
    scores = case_scores([each for each in triples if group in (each[0].group, ALL)], disputed=False)
    return f"{fmean(scores):.3f}" if scores else ""


def main(
    model: Annotated[str, typer.Option("--model", "-m", help="A local model.")] = "local:smollm2-135m",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of cases, taken from the categories in turn.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the intervals; decoding is greedy.")] = 0,
    data: Annotated[str | None, typer.Option(help="BFCL's data: a folder or the wheel; default: fetched.")] = None,
    log_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the results; unfinished evaluations are resumed.")
    ] = Path("eval-logs/grammar-worth"),
) -> None:
    """Run all conditions, print one table, then the paired comparison of each condition with the previous one."""
    from evals.cli import print_tables, progress

    done: list[tuple[Condition, Evaluation]] = []
    for condition in CONDITIONS:
        with progress(condition.name) as tell:
            wanted = specification(condition, model, limit=limit, seed=seed, data=data)
            done.append((condition, evaluate(wanted, log_dir / condition.name, on_progress=tell)))
    print_tables(side_by_side(done))
    for (_, before), (_, after) in zip(done, done[1:], strict=False):
        print_tables(comparison_table(compare(before.folder, after.folder, seed=seed)))


if __name__ == "__main__":
    typer.run(main)
