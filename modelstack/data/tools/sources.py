"""Examples and schemas from the files of a recipe, and their selection.

The example files are collected from public sets (Seal-Tools, SGD, SNIPS, NLU-Evaluation-Data, ToolRL, Glaive,
ToolAlpaca, API-Bank, ...). Source and licence stay with every example. A recipe gives each source a share; a
source without a share is not used.
"""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modelstack.data.examples import Example, Message, check_example, read_examples
from modelstack.data.tools.spoken import scene
from modelstack.errors import UserError
from modelstack.zstd_files import open_unpacked

MAX_CHARACTERS, MAX_TOOLS, MAX_TURNS = 2600, 6, 5
"""Maximum characters, tools and turns of an example; longer ones cost too many tokens for their benefit."""


def read_schemas(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of tool schemas: source, license, origin, name, description, parameters.

    Raises:
        UserError: The file cannot be read, or a line is not such a record.
    """
    try:
        with io.TextIOWrapper(open_unpacked(path), encoding="utf-8", newline="\n") as file:
            return [_schema_record(json.loads(line), path, n) for n, line in enumerate(file, 1) if line.strip()]
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"schemas {path} cannot be read: {error}") from error


def schemas_of(examples: Iterable[Example], source: str) -> list[dict[str, Any]]:
    """Return the tools shown in the examples of a source, as schema records."""
    found: dict[str, dict[str, Any]] = {}
    for example in examples:
        if example.source == source:
            for tool in example.tools:
                record = {"source": source, "license": example.license, "origin": source}
                found.setdefault(tool.name, record | tool.model_dump())
    return list(found.values())


def read_sources(paths: Iterable[Path]) -> list[Example]:
    """Return the examples of several files.

    Raises:
        UserError: A file cannot be read.
    """
    return [example for path in paths for example in read_examples(path)]


def chosen(
    examples: Iterable[Example], counts: Mapping[str, int], seed: int
) -> tuple[list[Example], Counter[str]]:
    """Return up to `counts` examples of each source, and the number of skipped ones by reason.

    Gold tools of a source are taken evenly from a seeded order.
    """
    by_source: dict[str, list[Example]] = defaultdict(list)
    passed: Counter[str] = Counter()
    for example in examples:
        if example.source not in counts:
            passed[f"{example.source}: not in the recipe"] += 1
            continue
        reason = _unfit(example)
        if reason:
            passed[f"{example.source}: {reason}"] += 1
        else:
            by_source[example.source].append(example)
    taken: list[Example] = []
    for source in sorted(by_source):
        now = scene("source", source, seed)
        ordered = sorted(by_source[source], key=lambda e: e.id)
        now.random.shuffle(ordered)
        taken += list(_evenly(ordered, counts[source]))
    return taken, passed


def _evenly(examples: list[Example], n: int) -> Iterator[Example]:
    """Yield up to `n` examples, with gold tools as evenly distributed as possible."""
    used: Counter[str] = Counter()
    waiting = examples
    cap = 1
    while n > 0 and waiting:
        later: list[Example] = []
        for example in waiting:
            name = example.calls[0].name if example.calls else example.kind
            if used[name] < cap and n > 0:
                used[name] += 1
                n -= 1
                yield example
            else:
                later.append(example)
        waiting, cap = later, cap * 2


def fitted(example: Example, max_tools: int, seed: int) -> Example:
    """Return an example with at most `max_tools` tools, gold tools included, and abstention in its single form."""
    if example.kind == "irrelevant" and example.reply is not None:
        # Data sets express abstention in a dozen ways, which would blur the decision.
        example = example.model_copy(update={"reply": None})
    if len(example.tools) <= max_tools:
        return example
    gold = {call.name for call in example.calls} | {c.name for m in example.messages for c in m.calls}
    now = scene("shorten", seed, example.id)
    kept = [t for t in example.tools if t.name in gold]
    others = [t for t in example.tools if t.name not in gold]
    kept += now.some(others, max(0, max_tools - len(kept)))
    now.random.shuffle(kept)
    return example.model_copy(update={"tools": tuple(kept)})


def _unfit(example: Example) -> str:
    """Return the reason to skip an example, or "" to take it."""
    if len(example.messages) > MAX_TURNS:
        return "too many turns"
    n_characters = sum(len(m.content) for m in example.messages) + sum(len(t.description) for t in example.tools)
    if n_characters > MAX_CHARACTERS:
        return "too long"
    if not _is_spoken(example.messages):
        return "no words of a user"
    try:
        check_example(example)
    except UserError:
        return "call does not fit its schema"
    return ""


def _is_spoken(messages: Iterable[Message]) -> bool:
    return any(m.role == "user" and len(m.content) > 2 for m in messages)


def _schema_record(record: Any, path: Path, number: int) -> dict[str, Any]:
    fields = ("source", "license", "origin", "name", "description", "parameters")
    if not isinstance(record, dict) or any(field not in record for field in fields):
        raise UserError(f"{path}, line {number}: a schema record has the fields {', '.join(fields)}")
    return record
