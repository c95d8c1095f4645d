"""`agentkit demo`: real tool servers, and the embedded model where it is installed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from agentkit import FunctionToolset, ModelError
from agentkit.cli.demo import TASKS, problems_of, unsolved
from agentkit.cli.demo_data import N_ORDERS, write_database, write_notes
from agentkit.context import RunContext
from agentkit.messages import ModelMessage, ModelResponse, ToolCallPart
from agentkit.models import resolve
from agentkit.models.catalog import is_present
from agentkit.testing import ScriptedModel, call
from agentkit.tools.definition import Tool

Run = Callable[..., Any]


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


async def tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in await FunctionToolset([double]).list_tools(RunContext(deps=None))}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (ToolCallPart("double", '{"n":4}'), None),
        (ToolCallPart("double", '{"n":"four"}'), "invalid arguments"),
        (ToolCallPart("double", '{"n":4,"extra":1}'), "invalid arguments"),
        (ToolCallPart("double", '{"n":4'), "invalid arguments"),
        (ToolCallPart("treble", '{"n":4}'), "is no tool"),
    ],
)
async def test_every_call_is_checked_against_its_tool(made: ToolCallPart, problem: str | None) -> None:
    messages: list[ModelMessage] = [ModelResponse((made,))]
    found = problems_of("completed", messages, await tools())
    assert found == [] if problem is None else problem in found[0]


def test_a_run_must_end_well() -> None:
    assert problems_of("limit_reached", [], {}) == []
    assert problems_of("failed", [], {}) == ["a run ended as 'failed'"]


def test_the_demo_data_is_the_same_everywhere(tmp_path: Path) -> None:
    write_notes(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"todo.md", "meeting.md", "prices.csv"}
    for name in ("a.db", "b.db"):
        write_database(tmp_path / name)
    rows = [
        sqlite3.connect(tmp_path / name).execute("SELECT * FROM orders").fetchall() for name in ("a.db", "b.db")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == N_ORDERS
    assert len({row[3] for row in rows[0]}) == 5 and len({row[1] for row in rows[0]}) == 6


def test_the_demo_runs_its_tasks_on_real_servers(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    script = [
        call("file_info", path="todo.md"), "It has 9 lines.",
        call("describe_table", table="customers"), "They are id and name.",
        call("create_directory", path="archive"), "The folder archive is there.",
    ]  # fmt: skip
    monkeypatch.setattr(resolve, "resolve_model", lambda _: ScriptedModel(script))
    done = agentkit("demo", "--model", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(task.text in done.stdout for task in TASKS)
    assert "● describe_table" in done.stdout
    assert "lines: 9" in done.stdout
    assert done.stdout.count("solved ·") == 3
    assert "Tokens and times" in done.stdout


def test_a_task_is_solved_by_its_answer_and_by_what_is_there(tmp_path: Path) -> None:
    lines, _, folder = TASKS
    assert unsolved(lines, "It has 9 lines.", tmp_path) == ""
    assert unsolved(lines, "It has 19 lines.", tmp_path) == "the answer is 'It has 19 lines.'"
    assert unsolved(folder, "I made the folder archive.", tmp_path) == "there is no folder 'archive'"
    (tmp_path / "notes" / "archive").mkdir(parents=True)
    assert unsolved(folder, "I made the folder archive.", tmp_path) == ""


def test_the_demo_fails_where_a_run_fails(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel([ModelError("broken"), call("list_tables", unknown=1), "id and name", "Done: archive."])
    monkeypatch.setattr(resolve, "resolve_model", lambda _: model)
    done = agentkit("demo", "--model", "test")
    assert done.returncode == 1
    assert "not as it must be: ModelError: broken" in done.stdout
    assert "not as it must be: a call of 'list_tables' with invalid arguments" in done.stdout
    assert "is not solved: there is no folder 'archive'" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.skipif(not is_present("smollm2-135m"), reason="agentkit models pull smollm2-135m")
def test_the_embedded_model_solves_the_tasks_with_valid_calls(agentkit_process: Run) -> None:
    done = agentkit_process("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not as it must be" not in done.stdout
    assert "reused" in done.stdout and "forced" in done.stdout
