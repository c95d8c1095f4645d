"""Reads questions and answers of BFCL v4's single-turn categories from the files of the bfcl-eval wheel.

A question holds the conversation and the functions in BFCL's own schema dialect. If the category is scored by
comparing calls, it also holds the answer key: one entry per call, `{name: {parameter: [acceptable values]}}`.
Irrelevance and relevance have no key; their score depends only on whether any call is made.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentkit.errors import UserError
from evals.tool_use.bfcl.wheel import REQUIREMENT, wheel_folder

Language = Literal["python", "java", "javascript"]
AnswerKey = Sequence[Mapping[str, Mapping[str, Sequence[Any]]]]

NON_LIVE = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "irrelevance",
)
LIVE = (
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_irrelevance",
    "live_relevance",
)
CATEGORIES = (*NON_LIVE, *LIVE)
GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": CATEGORIES,
    "non_live": NON_LIVE,
    "live": LIVE,
    "simple": ("simple_python", "simple_java", "simple_javascript"),
}
"""Names of groups of categories."""


@dataclass(frozen=True, slots=True)
class Question:
    """An item of a category."""

    id: str
    category: str
    messages: tuple[Mapping[str, str], ...]
    """The conversation so far: `role` (system, user or assistant) and `content`; the user speaks last."""
    functions: tuple[Mapping[str, Any], ...]
    """Name, description and parameters of each function, as in the file."""
    answer: AnswerKey | None
    """The key; None for irrelevance and relevance."""


def has_answers(category: str) -> bool:
    """Return whether the category is scored by comparing calls with a key."""
    return "relevance" not in category


def language(category: str) -> Language:
    """Return the programming language of a category's argument literals."""
    if category == "simple_java":
        return "java"
    return "javascript" if category == "simple_javascript" else "python"


def parse_categories(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of categories and groups.

    The result has no duplicates and the order of `CATEGORIES`.

    Raises:
        UserError: a name is not known, or the list is empty.
    """
    chosen: set[str] = set()
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name not in CATEGORIES and name not in GROUPS:
            known = [*CATEGORIES, *GROUPS]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UserError(f"BFCL category {name!r} is not known; nearest: {near!r}. Known: {', '.join(known)}.")
        chosen.update(GROUPS.get(name, (name,)))
    if not chosen:
        raise UserError(
            f"categories={text!r} names no BFCL category; for example categories=simple_python,multiple."
        )
    return tuple(category for category in CATEGORIES if category in chosen)


def data_folder(given: str | Path | None = None) -> Path:
    """Return the folder of the data files; by default that of the wheel, which is fetched if necessary.

    Args:
        given: A data folder, or the wheel file, which is unpacked into the cache once.

    Raises:
        UserError: the folder or file does not exist, or the wheel cannot be fetched.
    """
    if given is None:
        return wheel_folder() / "bfcl_eval" / "data"
    folder = Path(given).expanduser()
    if folder.suffix == ".whl" and folder.is_file():
        return wheel_folder(folder) / "bfcl_eval" / "data"
    if not folder.is_dir():
        raise UserError(
            f"data={str(given)!r} is neither a folder nor a wheel: name bfcl_eval/data of {REQUIREMENT}, "
            f"or the file that `pip download --no-deps {REQUIREMENT}` gives."
        )
    inner = folder / "bfcl_eval" / "data"
    return inner if inner.is_dir() else folder


def load_questions(folder: Path, category: str) -> list[Question]:
    """Read the questions of a category, in the order of the file.

    Raises:
        UserError: a file is missing or malformed, or a question has no answer.
    """
    path = folder / file_name(category)
    rows = read_rows(path)
    answers: dict[str, Any] = {}
    if has_answers(category):
        answer_path = folder / "possible_answer" / path.name
        answers = {_field(row, "id", str, answer_path): row.get("ground_truth") for row in read_rows(answer_path)}
    return [_question(row, category, answers, path) for row in rows]


def file_name(category: str) -> str:
    """Return the name of a category's data file."""
    return f"BFCL_v4_{category}.json"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line.

    Raises:
        UserError: the file is missing, or a line is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): name the folder bfcl_eval/data of {REQUIREMENT}, or the "
            f"wheel itself (`--option data=FOLDER_OR_WHEEL`), or leave the option out to have it fetched."
        ) from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}, is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}, is {type(row).__name__}, expected an object.")
        rows.append(row)
    return rows


def _question(row: Mapping[str, Any], category: str, answers: Mapping[str, Any], path: Path) -> Question:
    case_id = _field(row, "id", str, path)
    turns, functions = _field(row, "question", list, path), _field(row, "function", list, path)
    if has_answers(category) and not isinstance(answers.get(case_id), list):
        raise UserError(f"{path.parent / 'possible_answer' / path.name} has no answer for {case_id!r}.")
    if len(turns) != 1 or not isinstance(turns[0], list) or not turns[0]:
        raise UserError(f"{path}: {case_id!r} has {len(turns)} turns, expected one with at least one message.")
    for function in functions:
        _field(function, "name", str, path)
        _field(function, "parameters", dict, path)
    messages = tuple(
        {"role": _field(message, "role", str, path), "content": _field(message, "content", str, path)}
        for message in turns[0]
    )
    return Question(case_id, category, messages, tuple(functions), answers.get(case_id))


def _field(row: Any, key: str, kind: type, path: Path) -> Any:
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, kind):
        raise UserError(f"{path}: {key!r} of {str(row)[:80]!r} is {value!r}, expected {kind.__name__}.")
    return value
