"""The requests as data: sixty, with checks that each hold both ways, readable by decontamination."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from agentkit.context import RunContext
from agentkit.errors import UserError
from evals.harness.suite import find_suite
from evals.tool_use.executed.catalog import TASKS
from evals.tool_use.executed.disk import DATABASE, build, observe
from evals.tool_use.executed.task import Cell, NumberAnswer, WordsAnswer
from evals.tool_use.executed.world import expected_world, start_world
from evals.tool_use.first_hour.checking import BOUNDS, check_problem
from evals.tool_use.first_hour.household import SHOP, START
from evals.tool_use.first_hour.playing import PLAYS, solution, with_clock
from evals.tool_use.first_hour.request import (
    SERVERS,
    DoneCheck,
    Request,
    TalkCheck,
    case_of_request,
    first_hour_requests,
    request_of,
)
from evals.tool_use.first_hour.suite import KINDS, load
from modelstack.data.evaluation_texts import words_of
from modelstack.data.examples import Example, Message
from modelstack.data.tools.decontamination import read_evaluations
from tests.evals.tool_use.executed.conftest import in_process_server

REQUESTS = first_hour_requests()
BY_ID = {request.id: request for request in REQUESTS}
ASKING = [each for each in REQUESTS if isinstance(each.check, NumberAnswer | WordsAnswer)]
TALKING = [each for each in REQUESTS if isinstance(each.check, TalkCheck)]
CHANGING = [each for each in REQUESTS if isinstance(each.check, DoneCheck)]
QUOTING = ("finding", "reading", "listing")
"""Kinds whose fact may be quoted as it stands."""
NOW = datetime(2026, 11, 10, 12, 0, tzinfo=UTC)


def by_id(request: Request) -> str:
    return request.id


def problem(request: Request, text: str) -> str | None:
    now = datetime.now(UTC)
    return check_problem(request, text, (now, now))


def test_there_are_sixty_requests_of_ten_kinds() -> None:
    counts = Counter(request.kind for request in REQUESTS)
    assert len(REQUESTS) == 60
    assert set(counts) == set(KINDS)
    assert counts["small talk"] == 8 and min(counts.values()) == 3 and max(counts.values()) == 8


def test_ids_and_requests_are_unique_and_differ_from_the_tasks_of_the_other_suite() -> None:
    assert len({request.id for request in REQUESTS}) == len({request.request for request in REQUESTS}) == 60
    assert not {task.prompt for task in TASKS} & {request.request for request in REQUESTS}


def test_a_newcomer_asks_what_it_can_do() -> None:
    assert "Hi! What can you do?" in [request.request for request in REQUESTS]


@pytest.mark.parametrize("request_", REQUESTS, ids=by_id)
def test_the_reference_answer_is_right_and_short(request_: Request) -> None:
    answer = with_clock(request_, request_.reference.answer)
    assert problem(request_, answer) is None
    assert len(answer) < BOUNDS.max_chars / 3


@pytest.mark.parametrize("request_", [each for each in REQUESTS if each not in CHANGING], ids=by_id)
def test_the_near_miss_is_a_wrong_answer(request_: Request) -> None:
    assert problem(request_, with_clock(request_, request_.wrong.answer)) is not None


@pytest.mark.parametrize("request_", CHANGING, ids=by_id)
def test_the_near_miss_of_a_change_makes_other_calls(request_: Request) -> None:
    assert request_.wrong.calls != request_.reference.calls
    assert expected_world(request_.task) != start_world(request_.task)
    assert problem(request_, "I could not do that.") is not None


@pytest.mark.parametrize("request_", REQUESTS, ids=by_id)
def test_no_lazy_answer_is_right(request_: Request) -> None:
    lazy = [solution(request_, play).answer for play in ("unsure", "parrot", "everything")]
    lazy += ["", " \n", "yes", "no", "OK", "None.", "I don't understand the request.", f"{request_.request} yes"]
    right = [text for text in lazy if request_ not in CHANGING and problem(request_, text) is None]
    assert right == []


@pytest.mark.parametrize("request_", ASKING, ids=by_id)
def test_each_other_candidate_makes_the_reference_answer_wrong(request_: Request) -> None:
    assert isinstance(request_.check, NumberAnswer | WordsAnswer)
    for candidate in request_.check.forbidden:
        shown = f"{candidate:g}" if isinstance(candidate, float | int) else candidate
        assert problem(request_, f"{request_.reference.answer} {shown}") is not None, candidate


@pytest.mark.parametrize("request_", ASKING, ids=by_id)
def test_a_guessed_number_or_word_is_no_answer_unless_it_is_the_fact(request_: Request) -> None:
    right = [str(n) for n in range(100) if problem(request_, f"There are {n}.") is None]
    assert len(right) <= 1
    assert problem(request_, f"{request_.request} Done.") is not None


@pytest.mark.parametrize("request_", [each for each in ASKING if each.kind not in QUOTING], ids=by_id)
def test_pasting_a_file_or_a_table_is_no_answer_where_something_is_to_be_worked_out(request_: Request) -> None:
    start = start_world(request_.task)
    pages = [
        *start.tree.values(),
        *("\n".join(" | ".join(map(str, row)) for row in t) for t in start.tables.values()),
    ]
    assert [page for page in pages if problem(request_, page) is None] == []


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        ("count-todo-lines", "todo.txt has **seven** lines."),
        ("count-manual-lines", "The manual (notes/dishwasher-manual.txt) is 41 lines long."),
        ("read-flight", "Your flight TP 571 leaves at 06:55 on 12 September 2026."),
        ("read-flight", "6:55 a.m."),
        ("convert-tokyo", "It is Tuesday 2026-11-10T17:30:00+09:00 Asia/Tokyo"),
        ("convert-tokyo", "5:30pm"),
        ("convert-miles", "About 42.2 km."),
        ("convert-miles", "42.1648128 km"),
        ("convert-fahrenheit", "36.67 °C"),
        ("query-average-price", "The average price is 13.74 euros (82.4 / 6)."),
        ("query-dearest", "It's the **Gift Set** (35.0)."),
        ("find-csv", "1. tables/expenses.csv\n2. tables/temperatures.csv"),
        ("list-product-columns", "- id\n- name\n- price\n- stock"),
        ("talk-thanks", "You’re welcome, Jonas!"),
        ("talk-capital", "The capital of Japan is Tokyo."),
        ("no-weather", "I’m sorry, I can’t look up the weather."),
        ("no-weather", "I can't tell whether it will be sunny."),
        ("no-such-file", "I did not find contract.pdf."),
        ("no-such-file", "There's no file named contract.pdf in the folder."),
    ],
)
def test_other_wordings_are_right(id_: str, text: str) -> None:
    assert problem(BY_ID[id_], text) is None


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        ("count-todo-lines", "It has 17 lines."),
        ("read-flight", "It leaves at 6:55 pm."),
        ("convert-tokyo", "5:30 am"),
        ("convert-tokyo", "17:31"),
        ("convert-miles", "42.0 km"),
        ("convert-miles", "16.28 km is 42.16"),
        ("query-most-orders", "Emil Brandt or Sofia Marin"),
        ("query-most-orders", "Not Emil Brandt."),
        ("list-tables", "The table customers has id 1 and name customers"),
        ("list-product-columns", "id, name, price"),
        ("talk-what-can-you-do", "Hello! How are you?"),
        ("talk-capital", "I'm not sure: Tokyo"),
        ("no-email", "I can't see her, but I sent the email."),
        ("no-email", "Happy birthday, Lena!"),
        ("change-folder", "I couldn't create the folder."),
    ],
)
def test_answers_that_mislead_are_wrong(id_: str, text: str) -> None:
    assert problem(BY_ID[id_], text) is not None


@pytest.mark.parametrize(
    ("id_", "right", "wrong"),
    [
        ("convert-today", ["Tuesday", "It's Tuesday, 10 November."], ["Monday", "Tuesday or Wednesday", "Today."]),
        ("convert-newyork-now", ["07:00", "7 am", "7:01 AM", "It's 06:59."], ["7 pm", "12:00", "07:03"]),
        (
            "convert-three-weeks",
            ["1 December 2026", "December 1st", "the 1st of December", "2026-12-01", "Dec 1", "01.12.2026"],
            ["11 December", "31 November", "2026-12-02"],
        ),
    ],
)
def test_what_the_clock_says_is_read_in_its_zone(id_: str, right: list[str], wrong: list[str]) -> None:
    request = BY_ID[id_]
    assert [text for text in right if check_problem(request, text, (NOW, NOW)) is not None] == []
    assert [text for text in wrong if check_problem(request, text, (NOW, NOW)) is None] == []


def test_a_run_over_midnight_may_name_either_day() -> None:
    before, after = datetime(2026, 11, 10, 22, 59, 50, tzinfo=UTC), datetime(2026, 11, 10, 23, 0, 20, tzinfo=UTC)
    request = BY_ID["convert-today"]
    assert check_problem(request, "It is Tuesday.", (before, after)) is None
    assert check_problem(request, "It is Wednesday.", (before, after)) is None
    assert check_problem(request, "It is Thursday.", (before, after)) is not None


def test_the_facts_of_the_shop_are_what_sql_says() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(SHOP)

    def fact(id_: str) -> list[Cell]:
        return [row[0] for row in database.execute(BY_ID[id_].reference.calls[0].arguments["sql"])]

    numbers = {request.id: request.check.value for request in ASKING if isinstance(request.check, NumberAnswer)}
    for id_ in ("count-customers", "count-orders", "query-hamburg", "query-beeswax-sold", "query-may-orders"):
        assert fact(id_) == [numbers[id_]]
    assert fact("query-dearest") == ["gift set"]
    assert fact("query-sold-out") == ["lavender candle"]
    assert fact("query-most-orders") == ["Emil Brandt"]
    assert fact("query-never-ordered") == ["Tom Hendry"]
    assert fact("query-average-price") == [pytest.approx(13.741666, abs=1e-5)]


@pytest.mark.parametrize("request_", REQUESTS, ids=by_id)
def test_a_case_carries_its_whole_request_through_json(request_: Request) -> None:
    case = case_of_request(request_, "reference")
    assert request_of(case) == request_
    assert json.loads(json.dumps(dict(case.data))) == case.data
    assert case.group == request_.kind


def test_the_household_on_disk_is_the_household_as_data(tmp_path: Path) -> None:
    build(START, tmp_path)
    assert observe(START, tmp_path) == start_world(REQUESTS[0].task)


@pytest.mark.anyio
async def test_all_scripted_calls_are_valid_for_the_servers(tmp_path: Path) -> None:
    (tmp_path / DATABASE).touch()
    schemas = {}
    for server in SERVERS:
        async with in_process_server(server, tmp_path) as toolset:
            for tool in await toolset.list_tools(RunContext(deps=None)):
                assert tool.name not in schemas
                schemas[tool.name] = tool.definition.parameters_json_schema
    for request in REQUESTS:
        for step in (*request.reference.calls, *request.wrong.calls):
            Draft202012Validator(schemas[step.tool]).validate(dict(step.arguments))


def test_decontamination_finds_every_request_of_four_words_in_the_suites_folder() -> None:
    with as_file(files("evals.tool_use.first_hour")) as folder:
        evaluations = read_evaluations([folder])
    assert evaluations.files == ("requests.jsonl",)

    def rule_against(text: str) -> str:
        message = Message(role="user", content=text)
        example = Example(id="1", source="s", license="l", kind="answer", messages=(message,), reply="Yes.")
        return evaluations.rule_against(example, names_are_kept=True)

    for request in REQUESTS:
        is_long_enough = len(words_of(request.request)) >= 4
        assert bool(rule_against(request.request.upper())) == is_long_enough, request.id
    assert rule_against("Is the moon made of green cheese, or is it not?") == ""


def test_the_suite_is_found_and_takes_some_kinds() -> None:
    suite = find_suite("first-hour")
    assert [case.id for case in suite.load({})] == [request.id for request in REQUESTS]
    chosen = suite.load({"category": "counting, small talk"})
    assert {case.group for case in chosen} == {"counting", "small talk"}


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: 'reading'"):
        load({"category": "readin"})
    with pytest.raises(UserError, match="nearest: 'parrot'"):
        load({"play": "parot"})
    assert "parrot" in PLAYS
