"""Suite "structured-output": schema validity and task accuracy on real JSON Schemas, with and without grammar.

    agentkit eval structured-output --model local -o data=FILE -o sample=100

An item is a prompt and the schema of its answer. In mode `both` it becomes two cases, with and without the
grammar, and the requests are otherwise identical. Without `data`, the cases are 25 written for this project in the
style of invoices, bookings, tickets, configuration files and API calls, with the keywords that such schemas use;
they are too few to rank models, but show that everything works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentkit.errors import UserError
from evals.case import Case
from evals.harness.suite import Suite, check_options, choice_of
from evals.structured_output.reading import Item, draw, read_items
from evals.structured_output.scoring import score
from evals.structured_output.solving import FREE, GRAMMAR, is_wrapped, solve
from evals.structured_output.tables import Scored, tables

SAMPLE = Path(__file__).with_name("sample.jsonl")
MODES = {"grammar": (GRAMMAR,), "free": (FREE,), "both": (GRAMMAR, FREE)}
GROUPS = {GRAMMAR: "with grammar", FREE: "without grammar"}
OPTIONS = {
    "data": "file of cases, tool-calling examples or tool schemas (JSON lines, .zst too), or a folder of schemas",
    "mode": "grammar, free (the same prompt without grammar), or both (the default)",
    "sample": "number of items, drawn at random (`--limit` takes the first ones)",
    "sample_seed": "seed of the drawing; default 0",
}


def load(options: Mapping[str, str]) -> Sequence[Case]:
    """Return the cases of a file: one per item and mode.

    Raises:
        UserError: an option or the mode is not known, a value is not a number, or the data cannot be used.
    """
    check_options("structured-output", options, OPTIONS)
    mode = choice_of("structured-output", options, "mode", tuple(MODES), "both")
    items = read_items(Path(options["data"]).expanduser() if "data" in options else SAMPLE)
    if "sample" in options:
        items = draw(items, _whole_number(options, "sample"), _whole_number(options, "sample_seed"))
    elif "sample_seed" in options:
        raise UserError("sample_seed is for the drawing of a sample: give sample=N as well, or leave it out.")
    # The two cases of an item are adjacent, so that a limit takes pairs.
    return [to_case(item, each) for item in items for each in MODES[mode]]


def _whole_number(options: Mapping[str, str], key: str) -> int:
    try:
        return int(options.get(key, "0"))
    except ValueError as error:
        raise UserError(f"{key}={options[key]!r} is not a whole number.") from error


def to_case(item: Item, mode: str) -> Case:
    """Return an item as a case in one mode; the id does not depend on whether the other mode runs too."""
    return Case(
        id=f"{item.id}:{mode}",
        prompt=item.prompt,
        group=GROUPS[mode],
        target=item.expected,
        data={
            "item": item.id,
            "mode": mode,
            "schema": item.schema,
            "wrapped": mode == GRAMMAR and is_wrapped(item.schema),
            "has_expected": item.has_expected,
            "source": item.source,
            "license": item.license,
        },
    )


def plots(scored: Sequence[Scored], folder: Path) -> Sequence[Path]:
    """Draw the measures with and without the grammar, with their intervals."""
    from evals.structured_output.plots import draw_modes

    return [draw_modes(scored, folder / "structured-output.svg")]


SUITE = Suite(
    name="structured-output",
    version=1,
    description="schema validity and task accuracy on JSON Schemas, with and without the grammar",
    load=load,
    solve=solve,
    score=score,
    options=OPTIONS,
    tables=tables,
    plots=plots,
)

if TYPE_CHECKING:
    from evals.harness.suite import Scorer, Solver

    _solver: Solver = solve
    _scorer: Scorer = score
