"""Loads the cases of BFCL's multi-turn categories from the files of the wheel.

A case is a conversation of several user turns over one or two simulated classes.

- In `miss_func`, some functions are withheld and added in a later turn, whose user message is the original's.
- In `miss_param`, a turn lacks a value that the next turn supplies.
- In both, the answer key of the turn before is empty.
- `long_context` is `base` with objects that the simulators fill with additional content.

Source: `populate_test_cases_with_predefined_functions` in bfcl_eval/utils.py and `inference_multi_turn_FC` in
bfcl_eval/model_handler/base_handler.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkit.errors import UserError
from evals.case import Case
from evals.tool_use.bfcl.data import data_folder, file_name, read_rows
from evals.tool_use.bfcl.multi_turn_calls import parse_turns
from evals.tool_use.bfcl.multi_turn_environment import (
    MODULE_OF_CLASS,
    SOURCE_FOLDER,
    Environment,
    check_simulators,
)
from evals.tool_use.bfcl.wheel import wheel_folder

CATEGORIES = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
ADDED_FUNCTIONS_PROMPT = "I have updated some more functions you can choose from. What about now?"
"""User message of a turn that adds functions (`DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC`)."""


def parse_categories(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of categories; the prefix `multi_turn_` is optional.

    Raises:
        UserError: a name is not known, or the list is empty.
    """
    chosen: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name = part if part.startswith("multi_turn_") else f"multi_turn_{part}"
        if name not in CATEGORIES:
            near = difflib.get_close_matches(name, CATEGORIES, n=1, cutoff=0.0)[0]
            raise UserError(f"multi-turn category {part!r} is not known; nearest: {near!r}.")
        chosen.add(name)
    if not chosen:
        raise UserError(f"categories={text!r} names none; for example categories=base,miss_func.")
    return tuple(name for name in CATEGORIES if name in chosen)


def load_cases(data: str | Path | None = None, categories: Sequence[str] | None = None) -> list[Case]:
    """Return the cases of `categories` in the order of the files; None takes all categories whose files exist.

    `target` is the answer key (calls as text, turn by turn). `data` holds the messages and added functions of each
    turn, the functions available from the beginning, and the input of `environment`.

    Raises:
        UserError: a file or a simulator is missing or malformed.
    """
    folder = data_folder(data)
    if categories is None:
        categories = [name for name in CATEGORIES if (folder / file_name(name)).is_file()]
        if not categories:
            raise UserError(f"{folder} holds no multi-turn category, for example {file_name(CATEGORIES[0])}.")
    simulators = _simulators(folder)
    documents = _Documents(folder)
    cases = [case for name in categories for case in _load_category(folder, name, simulators, documents)]
    check_simulators(simulators, sorted({name for case in cases for name in case.data["classes"]}))
    return cases


def environment(case: Case) -> Environment:
    """Return the initial world of a case.

    Raises:
        UserError: a class or simulator is not valid, as in `Environment`.
    """
    return Environment(
        Path(case.data["simulators"]),
        case.data["classes"],
        case.data["initial_config"],
        long_context=case.data["long_context"],
    )


class _Documents:
    """Function documents by class; each file is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "multi_turn_func_doc"
        self._of_class: dict[str, list[dict[str, Any]]] = {}

    def of(self, class_name: str) -> list[dict[str, Any]]:
        if class_name not in MODULE_OF_CLASS:
            raise UserError(f"simulated class {class_name!r} is not known; BFCL has {', '.join(MODULE_OF_CLASS)}.")
        if class_name not in self._of_class:
            self._of_class[class_name] = read_rows(self._folder / f"{MODULE_OF_CLASS[class_name]}.json")
        return self._of_class[class_name]


def _load_category(folder: Path, category: str, simulators: Path, documents: _Documents) -> list[Case]:
    path = folder / file_name(category)
    answer_path = folder / "possible_answer" / path.name
    answers = {row.get("id"): row.get("ground_truth") for row in read_rows(answer_path)}
    cases: list[Case] = []
    for row in read_rows(path):
        case_id, turns = row.get("id"), row.get("question")
        answer = answers.get(case_id)
        if not isinstance(turns, list) or not isinstance(answer, list) or len(answer) != len(turns):
            raise UserError(
                f"{path}: {case_id!r} and its answer in {answer_path} must have the same number of turns."
            )
        parse_turns(answer)
        functions = [document for name in row["involved_classes"] for document in documents.of(name)]
        known, added = _held_back(functions, row.get("missed_function", {}))
        told = [
            {
                "messages": messages or [{"role": "user", "content": ADDED_FUNCTIONS_PROMPT}],
                "added": added.get(index, []),
            }
            for index, messages in enumerate(turns)
        ]
        cases.append(
            Case(
                id=str(case_id),
                prompt=told[0]["messages"][-1]["content"],
                group=category,
                target=answer,
                data={
                    "turns": told,
                    "functions": known,
                    "classes": row["involved_classes"],
                    "initial_config": row["initial_config"],
                    "long_context": category == "multi_turn_long_context",
                    "simulators": str(simulators),
                },
            )
        )
    return cases


def _held_back(
    functions: Sequence[dict[str, Any]], missed: Mapping[str, Sequence[str]]
) -> tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]]]:
    """Return the functions available from the beginning, and those that each turn adds."""
    by_name = {function["name"]: function for function in functions}
    added = {int(turn): [by_name[name] for name in names if name in by_name] for turn, names in missed.items()}
    hidden = {function["name"] for group in added.values() for function in group}
    return [function for function in functions if function["name"] not in hidden], added


def _simulators(folder: Path) -> Path:
    """Return the folder of simulators beside the data if it exists, else that of the wheel."""
    beside = folder.parent.parent / SOURCE_FOLDER
    return beside if beside.is_dir() else wheel_folder() / SOURCE_FOLDER
