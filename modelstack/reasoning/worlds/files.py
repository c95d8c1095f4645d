"""A folder of text files."""

from __future__ import annotations

import random

from modelstack.reasoning.worlds.world import DONE, State, World, put_new, row_of, tool

NAMES = (
    "notes.txt", "todo.md", "plan.txt", "draft.md", "recipe.txt", "budget.csv", "ideas.md", "log.txt", "list.txt",
    "trip.md", "songs.txt", "team.csv", "report.md", "quotes.txt",
)  # fmt: skip
TEXTS = ("rice and beans", "meet at noon", "bring the keys", "ask for a refund", "paint it blue", "two new ideas")


def _create(state: State, file: str, text: str) -> str:
    return put_new(state["files"], file, text)


def _append(state: State, file: str, text: str) -> str:
    state["files"][file] = f"{row_of(state['files'], file)}\n{text}"
    return DONE


def _delete(state: State, file: str) -> str:
    row_of(state["files"], file)
    del state["files"][file]
    return DONE


def _rename(state: State, file: str, new_name: str) -> str:
    put_new(state["files"], new_name, row_of(state["files"], file))
    del state["files"][file]
    return DONE


def _read(state: State, file: str) -> str:
    return row_of(state["files"], file)


def _start(chance: random.Random) -> State:
    return {"files": {name: chance.choice(TEXTS) for name in chance.sample(NAMES, 4)}}


FILES = World(
    "files",
    (
        tool("create_file", "Write a new file", _create, file="string", text="string"),
        tool("append_to_file", "Add a line at the end of a file", _append, file="string", text="string"),
        tool("delete_file", "Delete a file", _delete, file="string"),
        tool("rename_file", "Give a file another name", _rename, file="string", new_name="string"),
        tool("read_file", "Show what is in a file", _read, file="string"),
    ),
    {
        "type": "object",
        "properties": {"files": {"type": "object", "additionalProperties": {"type": "string"}}},
        "required": ["files"],
        "additionalProperties": False,
    },
    _start,
)
