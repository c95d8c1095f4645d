"""Each check bites: every altered file, row, folder or schema of a right end makes the run wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from evals.case import Run, run_from_json, run_to_json
from evals.tool_use.executed.catalog import TASKS
from evals.tool_use.executed.scoring import FAILURES, judge, score
from evals.tool_use.executed.tables import tables
from evals.tool_use.executed.task import Task, case_of
from evals.tool_use.executed.world import World, differences, expected_world, start_world
from tests.evals.tool_use.executed.scripted_run import run_of

BY_ID = {task.id: task for task in TASKS}
COUNTS = BY_ID["logs-count-errors"]
CHANGES = BY_ID["notes-lemons"]
UPDATES = BY_ID["orders-ship-one"]


def altered(world: World) -> Iterator[tuple[str, World]]:
    """Yield worlds with one thing different, and what it is."""
    for path, text in world.tree.items():
        yield f"without {path}", replace(world, tree={k: v for k, v in world.tree.items() if k != path})
        if not path.endswith("/"):
            yield f"more in {path}", replace(world, tree={**world.tree, path: f"{text}x"})
            yield f"a blank before {path}", replace(world, tree={**world.tree, path: f" {text}"})
            yield f"no text in {path}", replace(world, tree={**world.tree, path: "" if text else "x"})
            yield f"a copy of {path}", replace(world, tree={**world.tree, f"{path}.bak": text})
    yield "a new folder", replace(world, tree={**world.tree, "new/": ""})
    for name, rows in world.tables.items():
        for index, row in enumerate(rows):
            rest = (*rows[:index], *rows[index + 1 :])
            yield f"{name} without {row}", replace(world, tables={**world.tables, name: rest})
            yield f"{name} with {row} twice", replace(world, tables={**world.tables, name: (*rows, row)})
            for column, cell in enumerate(row):
                other = 5_000 if not isinstance(cell, int | float) else cell + 1
                changed = (*row[:column], other, *row[column + 1 :])
                yield f"{name} with {changed}", replace(world, tables={**world.tables, name: (*rest, changed)})
        yield f"no {name}", replace(world, schema={k: v for k, v in world.schema.items() if k != name})
        yield f"another {name}", replace(world, schema={**world.schema, name: "CREATE TABLE t(x)"})
    yield "a new view", replace(world, schema={**world.schema, "v": "CREATE VIEW v AS SELECT 1"})
    yield "an unreadable database", replace(world, problem="the database cannot be read")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_only_the_expected_end_passes(task: Task) -> None:
    case, world = case_of(task), expected_world(task)
    assert score(case, run_of(task, world)).value == 1.0
    for what, other in altered(world):
        failure, explanation = judge(case, run_of(task, other))
        assert failure in ("wrong state", "nothing changed"), (what, explanation)


@pytest.mark.parametrize("task", [task for task in TASKS if task.answer is not None], ids=lambda task: task.id)
def test_a_right_end_with_the_near_misses_answer_or_none_fails(task: Task) -> None:
    case, world = case_of(task), expected_world(task)
    assert judge(case, run_of(task, world, ""))[0] == "wrong answer"
    if not (task.end.files or task.end.rows):
        assert judge(case, run_of(task, world, task.wrong.answer))[0] == "wrong answer"


@pytest.mark.parametrize("task", [t for t in TASKS if t.end.files or t.end.rows], ids=lambda task: task.id)
def test_saying_that_it_is_done_is_not_doing_it(task: Task) -> None:
    assert judge(case_of(task), run_of(task, start_world(task)))[0] == "nothing changed"


def test_a_final_newline_matters_only_in_what_was_not_to_be_changed() -> None:
    world = expected_world(CHANGES)
    shorter = {path: text.rstrip("\n") for path, text in world.tree.items()}
    only_changed = {**world.tree, "shopping.txt": shorter["shopping.txt"]}
    assert score(case_of(CHANGES), run_of(CHANGES, World(only_changed))).value == 1.0
    assert score(case_of(CHANGES), run_of(CHANGES, World(shorter))).value == 0.0


def test_rows_match_in_any_order_and_whole_numbers_match_reals() -> None:
    world = expected_world(UPDATES)
    rows = {
        name: tuple(
            tuple(int(c) if isinstance(c, float) and c == int(c) else c for c in row) for row in rows[::-1]
        )
        for name, rows in world.tables.items()
    }
    assert score(case_of(UPDATES), run_of(UPDATES, replace(world, tables=rows))).value == 1.0


@pytest.mark.parametrize(
    ("run", "failure"),
    [
        (run_of(COUNTS, start_world(COUNTS), n_calls=0), "no call"),
        (run_of(COUNTS, start_world(COUNTS), calls_fail=True), "wrong call"),
        (run_of(COUNTS, start_world(COUNTS), status="limit_reached"), "limit"),
        (run_of(COUNTS, start_world(COUNTS), "4"), "wrong answer"),
        (Run(COUNTS.id, "failed", error="ModelError: gone"), "error"),
        (Run(COUNTS.id, "timed_out", error="300 s"), "error"),
        (run_of(COUNTS, World()), "wrong state"),
        (run_of(COUNTS, start_world(COUNTS)), None),
    ],
)
def test_why_a_run_failed(run: Run, failure: str | None) -> None:
    case = case_of(COUNTS)
    assert judge(case, run)[0] == failure
    assert score(case, run).value == (failure is None)
    assert judge(case, run_from_json(run_to_json(run))) == judge(case, run)


def test_a_change_made_by_no_successful_call_is_a_wrong_call() -> None:
    run = run_of(CHANGES, start_world(CHANGES), calls_fail=True)
    assert judge(case_of(CHANGES), run)[0] == "wrong call"


def test_an_explanation_names_what_is_different_and_counts_the_rest() -> None:
    world = World({path: f"{text}x" for path, text in start_world(CHANGES).tree.items() if path[-1] != "/"})
    explanation = score(case_of(CHANGES), run_of(CHANGES, world)).explanation
    assert explanation.startswith("wrong state: 'meetings/' is missing; ")
    assert explanation.endswith(" more")


def test_a_wrong_removal_in_a_task_is_reported_with_its_id() -> None:
    for end in (replace(CHANGES.end, files={"nothing.txt": None}), UPDATES.end):
        task = replace(CHANGES if end is not UPDATES.end else BY_ID["orders-add-for-chloe"], end=end)
        if end is UPDATES.end:
            task = replace(task, end=replace(end, rows=(replace(end.rows[0], removed=((9, 9),)),)))
        with pytest.raises(ValueError, match=task.id):
            expected_world(task)


def test_differences_of_equal_worlds_are_none() -> None:
    world = start_world(UPDATES)
    assert differences(world, world, world) == []


def test_tables_split_by_calls_and_server_and_count_failures() -> None:
    cases = [case_of(task) for task in TASKS]
    runs = [run_of(task, expected_world(task), n_calls=index % 2) for index, task in enumerate(TASKS)]
    by_calls, by_server, failures = tables([(c, r, score(c, r)) for c, r in zip(cases, runs, strict=True)])
    totals = {"1": 20, "2": 20, "3": 12, "4": 8, "all": 60}
    right = Counter(str(task.n_calls) for task in TASKS[1::2]) | {"all": 30}
    assert [row[:2] for row in by_calls.rows] == [(key, f"{right[key]} of {n}") for key, n in totals.items()]
    assert by_calls.rows[-1][2] == "0.500 (0.377 to 0.623)"
    assert [row[0] for row in by_server.rows] == ["filesystem", "filesystem + sqlite", "sqlite", "all"]
    counts = {row[0]: row[1] for row in failures.rows}
    assert counts == dict.fromkeys(FAILURES, "0") | {"no call": "30", "none": "30"}
