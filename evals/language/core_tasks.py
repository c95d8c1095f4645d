"""Reads multiple choice, schemas and continuations in llm-foundry's JSON-lines formats, as in the CORE metric.

Three forms of a record: `{query, choices, gold}`; `{context_options, continuation, gold}` for Winograd schemas,
where two contexts compete for one ending (partial evaluation, Trinh and Le 2018); `{context, continuation}`.
Delimiters and numbers of examples are those of llm-foundry's `scripts/eval/yamls/tasks.yaml`. Blank lines between
examples and the choice of examples (`Random(1234 + index)` over the other records) are those of nanochat's
`core_eval.py`. The metric: DataComp-LM (Li et al. 2024).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentkit.errors import UserError
from evals.case import Case
from evals.language.records import field, read_records

FEW_SHOT_SEED = 1234
EXAMPLE_DELIMITER = "\n\n"
ANSWER = "\nAnswer: "


@dataclass(frozen=True, slots=True)
class TaskFormat:
    """File of a task's records, and the form of its prompts."""

    file: str
    kind: Literal["multiple_choice", "schema", "continuation"]
    delimiter: str
    """Text between context and continuation."""
    core_few_shot: int
    """Number of examples before each item in the CORE metric."""


TASKS: dict[str, TaskFormat] = {
    "arc_easy": TaskFormat("arc_easy.jsonl", "multiple_choice", ANSWER, 10),
    "arc_challenge": TaskFormat("arc_challenge.jsonl", "multiple_choice", ANSWER, 10),
    "boolq": TaskFormat("boolq.jsonl", "multiple_choice", ANSWER, 10),
    "commonsense_qa": TaskFormat("commonsense_qa.jsonl", "multiple_choice", " ", 10),
    "copa": TaskFormat("copa.jsonl", "multiple_choice", " ", 0),
    "hellaswag": TaskFormat("hellaswag.jsonl", "multiple_choice", " ", 10),
    "jeopardy": TaskFormat("jeopardy_all.jsonl", "continuation", ANSWER, 10),
    "lambada": TaskFormat("lambada_openai.jsonl", "continuation", " ", 0),
    "openbook_qa": TaskFormat("openbook_qa.jsonl", "multiple_choice", " ", 0),
    "piqa": TaskFormat("piqa.jsonl", "multiple_choice", ANSWER, 10),
    "winograd": TaskFormat("winograd_wsc.jsonl", "schema", " ", 0),
    "winogrande": TaskFormat("winogrande.jsonl", "schema", " ", 0),
}


@dataclass(frozen=True, slots=True)
class Item:
    """A record of any form: competing (context, continuation) pairs and the index of the correct one."""

    pairs: tuple[tuple[str, str], ...]
    gold: int
    lengths: tuple[int, ...]
    """Number of characters in the differing part of each pair, for acc_norm; equal for a schema's endings."""


def task_cases(name: str, folder: Path, few_shot: int | None) -> list[Case]:
    """Return a task's cases.

    Args:
        name: A key of `TASKS`.
        folder: Folder of the files.
        few_shot: Number of examples before each item; None takes the CORE metric's number.

    Raises:
        UserError: the file is missing or a record is malformed.
    """
    form = TASKS[name]
    path = folder / form.file
    items = [read_item(record, form, path, number) for number, record in enumerate(read_records(path), start=1)]
    n_examples = form.core_few_shot if few_shot is None else few_shot
    if n_examples >= len(items):
        raise UserError(f"{path} has {len(items)} records: too few for {n_examples} examples besides the item.")
    return [_case(name, form, items, index, n_examples) for index in range(len(items))]


def read_item(record: dict[str, Any], form: TaskFormat, path: Path, number: int) -> Item:
    """Parse one record; its texts are stripped, as in llm-foundry.

    Raises:
        UserError: a field is missing or has another type.
    """

    def text(key: str) -> str:
        return field(record, key, str, path, number).strip()

    def texts(key: str) -> list[str]:
        values = field(record, key, list, path, number)
        if len(values) < 2 or not all(isinstance(value, str) and value.strip() for value in values):
            raise UserError(f"{path}, record {number}: {key!r} must be a list of at least two texts.")
        return [value.strip() for value in values]

    if form.kind == "continuation":
        pairs = [(text("context"), text("continuation"))]
        gold = 0
    else:
        if form.kind == "schema":
            pairs = [(context, text("continuation")) for context in texts("context_options")]
        else:
            pairs = [(text("query"), choice) for choice in texts("choices")]
        gold = field(record, "gold", int, path, number)
        if not 0 <= gold < len(pairs):
            raise UserError(f"{path}, record {number}: gold is {gold}, but there are {len(pairs)} choices.")
    if not all(continuation for _, continuation in pairs):
        raise UserError(f"{path}, record {number}: the continuation is empty.")
    return Item(tuple(pairs), gold, tuple(len(continuation) for _, continuation in pairs))


def _case(name: str, form: TaskFormat, items: Sequence[Item], index: int, n_examples: int) -> Case:
    item = items[index]
    others = [i for i in range(len(items)) if i != index]
    chosen = random.Random(FEW_SHOT_SEED + index).sample(others, n_examples)
    examples = [form.delimiter.join(items[i].pairs[items[i].gold]) + EXAMPLE_DELIMITER for i in chosen]
    shots = "".join(examples)
    requests = [[shots + context + form.delimiter, continuation] for context, continuation in item.pairs]
    is_choice = form.kind != "continuation"
    return Case(
        id=f"{name}/{index}",
        prompt=requests[0][0],
        group=name,
        target=item.gold if is_choice else item.pairs[0][1],
        data={
            "kind": "choice" if is_choice else "continuation",
            "requests": requests,
            "lengths": list(item.lengths),
            "chance": 1 / len(item.pairs) if is_choice else 0.0,
        },
    )
