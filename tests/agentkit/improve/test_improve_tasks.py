"""Tasks are read strictly, and split into parts that share nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.improve.tasks import SplitShares, Task, checked_tasks, read_tasks, split_tasks
from tests.agentkit.improve.shop_agent import shop_tasks


def test_a_line_may_name_only_what_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    lines = [{"prompt": "2 + 2?", "expected": 4}, {"prompt": "Capital of Peru?", "expected": "Lima"}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    number, words = read_tasks(file)
    assert number.checks.answer_number == 4 and number.checks.answer_contains == ()
    assert words.checks.answer_contains == ("Lima",) and words.id.startswith("task-")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1"),
        ('{"prompt": ""}', "prompt"),
        ('{"prompt": "a", "answer": "b"}', "answer: Extra inputs"),
        ('{"prompt": "a", "expected": "b", "checks": {}}', "not both"),
        ('{"prompt": "a", "checks": {"answer_contain": ["b"]}}', "checks.answer_contain"),
        ("[1]", "line 1"),
    ],
)
def test_a_line_that_is_no_task_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_tasks(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_tasks(tmp_path / "none.jsonl")


def test_a_prompt_counts_once_and_an_id_is_unique() -> None:
    same = [Task(id="a", prompt="What  now?"), Task(id="b", prompt="what now?")]
    assert [task.id for task in checked_tasks(same)] == ["a"]
    with pytest.raises(UserError, match="'a'"):
        checked_tasks([Task(id="a", prompt="x"), Task(id="a", prompt="y")])
    with pytest.raises(UserError, match="0 tasks"):
        checked_tasks([])


def test_each_task_is_in_one_part_and_each_group_in_all() -> None:
    tasks = [task.model_copy(update={"group": "ab"[i % 2]}) for i, task in enumerate(shop_tasks(40))]
    split = split_tasks(tasks, SplitShares(), seed=3)
    parts = (split.train, split.selection, split.held_back)
    assert sorted(task.id for part in parts for task in part) == sorted(task.id for task in tasks)
    assert [len(part) for part in parts] == [12, 8, 20]
    assert all({task.group for task in part} == {"a", "b"} for part in parts)


def test_the_split_follows_from_the_seed_and_not_from_the_order() -> None:
    tasks = shop_tasks(40)
    split = split_tasks(tasks, SplitShares(), seed=1)
    assert split == split_tasks(tasks[::-1], SplitShares(), seed=1)
    assert split.held_back != split_tasks(tasks, SplitShares(), seed=2).held_back


def test_too_few_tasks_for_a_gate_are_refused() -> None:
    with pytest.raises(UserError, match="9 of 18 tasks are held back, and the gate needs 10"):
        split_tasks(shop_tasks(18), SplitShares(), seed=0)
    with pytest.raises(UserError, match="both need 4"):
        split_tasks(shop_tasks(30), SplitShares(train=0.1, selection=0.1), seed=0)
