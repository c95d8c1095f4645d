"""A to-do list: tasks that are open or done."""

from __future__ import annotations

import random

from modelstack.reasoning.worlds.world import DONE, State, World, put_new, row_of, table_of, tool

TITLES = (
    "buy milk", "call the bank", "water the plants", "pay the rent", "clean the oven", "fix the bike",
    "book a table", "wash the car", "write to Anna", "order paint", "read the report", "walk the dog",
    "feed the cat", "sort the mail", "print tickets", "bake bread", "renew the lease", "return the drill",
)  # fmt: skip


def _add(state: State, title: str) -> str:
    return put_new(state["tasks"], title, {"done": False})


def _complete(state: State, title: str) -> str:
    row_of(state["tasks"], title)["done"] = True
    return DONE


def _delete(state: State, title: str) -> str:
    row_of(state["tasks"], title)
    del state["tasks"][title]
    return DONE


def _open(state: State) -> list[str]:
    return sorted(title for title, task in state["tasks"].items() if not task["done"])


def _note(state: State, text: str) -> str:
    state["notes"].append(text)
    return DONE


def _start(chance: random.Random) -> State:
    titles = chance.sample(TITLES, 4)
    return {"tasks": {title: {"done": False} for title in titles}, "notes": []}


TODO = World(
    "todo",
    (
        tool("add_task", "Put a new task on the to-do list", _add, title="string"),
        tool("complete_task", "Mark a task of the list as done", _complete, title="string"),
        tool("delete_task", "Take a task off the list without doing it", _delete, title="string"),
        tool("open_tasks", "List the tasks that are not done", _open),
        tool("add_note", "Keep a note; it is no task", _note, text="string"),
    ),
    {
        "type": "object",
        "properties": {
            "tasks": table_of({"done": {"type": "boolean"}}),
            "notes": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["tasks", "notes"],
        "additionalProperties": False,
    },
    _start,
)
