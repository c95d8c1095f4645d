"""The tasks as data: sixty, graded, each with one end that its reference names and its start does not have."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from agentkit.context import RunContext
from agentkit.errors import UserError
from evals.harness.suite import find_suite
from evals.tool_use.executed.answers import (
    MAX_ANSWER_CHARS,
    MAX_ANSWER_LINES,
    answer_problem,
    number_of,
    tokens_of,
)
from evals.tool_use.executed.catalog import AREAS, TASKS
from evals.tool_use.executed.disk import DATABASE, DEFAULT_MODIFIED, build, observe
from evals.tool_use.executed.suite import load
from evals.tool_use.executed.task import End, NumberAnswer, Start, Task, WordsAnswer, case_of, task_of
from evals.tool_use.executed.world import expected_world, start_world
from tests.evals.tool_use.executed.conftest import in_process_server

ASKING = [task for task in TASKS if task.answer is not None]


def by_id(task: Task) -> str:
    return task.id


def test_there_are_sixty_tasks_of_graded_length() -> None:
    assert Counter(task.n_calls for task in TASKS) == {1: 20, 2: 20, 3: 12, 4: 8}
    assert Counter(task.servers for task in TASKS) == {
        ("filesystem",): 30,
        ("sqlite",): 20,
        ("filesystem", "sqlite"): 10,
    }


def test_ids_and_prompts_are_unique() -> None:
    assert len({task.id for task in TASKS}) == len({task.prompt for task in TASKS}) == len(TASKS)
    assert sum(len(area) for area in AREAS) == len(TASKS)


def test_the_first_ten_are_one_of_each_area() -> None:
    assert [task in area for task, area in zip(TASKS[:10], AREAS, strict=True)] == [True] * 10


@pytest.mark.parametrize("task", TASKS, ids=by_id)
def test_a_task_asks_for_an_answer_or_a_change(task: Task) -> None:
    assert task.answer is not None or task.end.files or task.end.rows


@pytest.mark.parametrize("task", [task for task in TASKS if task.end.files or task.end.rows], ids=by_id)
def test_the_end_of_a_changing_task_is_not_its_start(task: Task) -> None:
    assert expected_world(task) != start_world(task)


@pytest.mark.parametrize("task", TASKS, ids=by_id)
def test_a_start_has_what_its_servers_need(task: Task) -> None:
    assert bool(task.start.files) == ("filesystem" in task.servers)
    assert bool(task.start.sql) == ("sqlite" in task.servers)
    assert task.start.modified.keys() <= task.start.files.keys()


@pytest.mark.parametrize("task", ASKING, ids=by_id)
def test_the_reference_answer_is_right_and_short(task: Task) -> None:
    assert answer_problem(task.answer, task.reference.answer, task.prompt) is None
    assert len(task.reference.answer) < MAX_ANSWER_CHARS / 3


@pytest.mark.parametrize("task", ASKING, ids=by_id)
def test_an_answer_is_not_given_away_by_the_prompt(task: Task) -> None:
    assert answer_problem(task.answer, task.prompt[:MAX_ANSWER_CHARS], task.prompt) is not None
    if isinstance(task.answer, NumberAnswer):
        assert task.answer.value not in [number_of(token) for token in tokens_of(task.prompt)]


@pytest.mark.parametrize("task", [task for task in ASKING if task.end == End()], ids=by_id)
def test_a_small_number_or_a_bare_word_guessed_is_no_answer(task: Task) -> None:
    for guess in (*map(str, range(13)), "yes", "no", "none", "open", "all of them"):
        assert answer_problem(task.answer, guess, task.prompt) is not None
        assert (
            answer_problem(task.answer, f"{task.prompt[: MAX_ANSWER_CHARS - 20]} {guess}", task.prompt) is not None
        )


@pytest.mark.parametrize("task", ASKING, ids=by_id)
def test_the_near_miss_differs_from_the_reference_in_its_answer_or_its_end(task: Task) -> None:
    is_answer_wrong = answer_problem(task.answer, task.wrong.answer, task.prompt) is not None
    assert is_answer_wrong or (task.end != End() and task.wrong.calls != task.reference.calls)


@pytest.mark.parametrize("task", ASKING, ids=by_id)
def test_each_other_candidate_makes_the_reference_answer_wrong(task: Task) -> None:
    assert isinstance(task.answer, NumberAnswer | WordsAnswer)
    assert task.answer.forbidden
    for candidate in task.answer.forbidden:
        shown = f"{candidate:g}" if isinstance(candidate, float | int) else candidate
        assert answer_problem(task.answer, f"{task.reference.answer} {shown}", task.prompt) is not None


@pytest.mark.parametrize("task", ASKING, ids=by_id)
def test_pasting_what_was_seen_is_no_answer(task: Task) -> None:
    """Every stretch of lines of the start state that is short enough to be an answer, as lines and as one line."""
    start = start_world(task)
    lines = [line for path, text in start.tree.items() for line in (path, *text.splitlines()) if line.strip()]
    lines += [" | ".join(str(cell) for cell in row) for rows in start.tables.values() for row in rows]
    for first in range(len(lines)):
        for end in range(first + MAX_ANSWER_LINES, len(lines) + 1):
            pasted = "\n".join(lines[first:end])
            if len(pasted) > MAX_ANSWER_CHARS:
                break
            if end - first > MAX_ANSWER_LINES:
                assert answer_problem(task.answer, pasted, task.prompt) is not None
            # A few lines around the right one are a quotation, and that it was found is what is asked.
            if end - first > 2 * MAX_ANSWER_LINES:
                assert answer_problem(task.answer, pasted.replace("\n", " "), task.prompt) is not None, pasted


@pytest.mark.parametrize("task", TASKS, ids=by_id)
def test_a_case_carries_its_whole_task_through_json(task: Task) -> None:
    case = case_of(task, "reference")
    assert task_of(case) == task
    assert json.loads(json.dumps(dict(case.data))) == case.data


@pytest.mark.parametrize("start", list({id(task.start): task.start for task in TASKS}.values()), ids=repr)
def test_a_start_on_disk_is_the_start_as_data(start: Start, tmp_path: Path) -> None:
    build(start, tmp_path)
    task = next(task for task in TASKS if task.start is start)
    assert observe(start, tmp_path) == start_world(task)


@pytest.mark.parametrize("start", list({id(task.start): task.start for task in TASKS}.values()), ids=repr)
def test_every_entry_of_a_start_has_its_fixed_time(start: Start, tmp_path: Path) -> None:
    build(start, tmp_path)
    for entry in (tmp_path, *tmp_path.rglob("*")):
        path = entry.relative_to(tmp_path).as_posix()
        wanted = datetime.fromisoformat(start.modified.get(path, DEFAULT_MODIFIED))
        assert entry.stat().st_mtime == wanted.timestamp(), path


@pytest.mark.anyio
async def test_all_scripted_calls_are_valid_for_the_servers(tmp_path: Path) -> None:
    (tmp_path / DATABASE).touch()
    context = RunContext(deps=None)
    schemas = {}
    for server in ("filesystem", "sqlite"):
        async with in_process_server(server, tmp_path) as toolset:
            for tool in await toolset.list_tools(context):
                schemas[server, tool.definition.name] = tool.definition.parameters_json_schema
    for task in TASKS:
        for step in (*task.reference.calls, *task.wrong.calls):
            found = [schemas[server, step.tool] for server in task.servers if (server, step.tool) in schemas]
            assert len(found) == 1, (task.id, step.tool)
            Draft202012Validator(found[0]).validate(dict(step.arguments))


def test_the_suite_is_found_by_its_name() -> None:
    suite = find_suite("mcp-tasks")
    assert [case.id for case in suite.load({})] == [task.id for task in TASKS]


def test_an_unknown_play_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: 'reference'"):
        load({"play": "refrence"})
    with pytest.raises(UserError, match="nearest: 'play'"):
        load({"plays": "reference"})
