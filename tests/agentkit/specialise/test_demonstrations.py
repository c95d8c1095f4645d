"""Scripted conversations on the house's own servers: what they say happened, happened."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal

from agentkit.specialise.demonstrations import (
    clock,
    exploring,
    file_changing,
    file_reading,
    table_changing,
    table_questions,
    tables,
    talk,
)
from agentkit.specialise.demonstrations.domains import DOMAINS
from agentkit.specialise.demonstrations.play import House, demonstrations, play
from agentkit.specialise.demonstrations.script import Script, Step, typed
from agentkit.specialise.demonstrations.world import World, make_world, write_world
from modelstack.data.examples import Example, Message
from modelstack.data.tools.spoken import scene

N_CONVERSATIONS = 60


@dataclass(frozen=True)
class Played:
    """A conversation, its world, and the files and rows found afterwards."""

    example: Example
    world: World
    files: dict[str, str]
    rows: Counter[tuple[object, ...]]


@pytest.fixture(scope="module")
def played(house: House, portal: BlockingPortal) -> list[Played]:
    """Conversations, each played in a world of its own."""
    found: list[Played] = []
    for number in range(N_CONVERSATIONS):
        now = scene("test of demonstrations", number)
        world = make_world(now)
        playing = partial(play, house, world, now, f"house-{number}", unplaced=number % 2 == 1)
        example = portal.call(playing)
        if example is not None:
            found.append(Played(example, world, _files(house.folder), _rows(house.database, world)))
    return found


@pytest.mark.slow
def test_after_a_conversation_files_and_rows_are_what_its_scripts_say(played: list[Played]) -> None:
    assert len(played) > N_CONVERSATIONS * 0.6
    changing = [each for each in played if _called(each.example) & {"write_file", "edit_file", "execute", "move"}]
    assert len(changing) >= 10
    for each in played:
        assert each.files == each.world.files, each.example.id
        for table in each.world.domain.tables:
            said = Counter((table.name, *row[1:]) for row in each.world.rows[table.name])
            found = Counter({key: n for key, n in each.rows.items() if key[0] == table.name})
            assert said == found, each.example.id


@pytest.mark.slow
def test_numbers_of_an_answer_stand_in_what_the_conversation_shows_or_count_it(played: list[Played]) -> None:
    n_answers = 0
    for example in (each.example for each in played):
        shown = ""
        for message in [*example.messages, Message(role="assistant", content=example.reply or "")]:
            if message.role != "assistant":
                shown += "\n" + message.content
                continue
            shown += repr([call.arguments for call in message.calls])
            for number in re.findall(r"\d+", message.content):
                n_answers += 1
                is_count = int(number) <= max(len(shown.splitlines()), 20)
                is_rounded = "(rounded)" in shown or "." in shown
                assert number in shown or is_count or is_rounded, (example.id, number, message.content)
    assert n_answers > 50


def silent(name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
    """Receive progress and show nothing."""


@pytest.mark.usefixtures("plays_in_house")
def test_the_same_seed_gives_the_same_requests_calls_and_tools(portal: BlockingPortal) -> None:
    def without_clock(example: Example) -> object:
        return [
            (m.role, m.content if m.role == "user" else "", [call.name for call in m.calls])
            for m in example.messages
        ], [tool.name for tool in example.tools]

    first, second = (portal.call(demonstrations, 4, 7, lambda example: True, silent) for _ in range(2))
    assert first and [without_clock(each) for each in first] == [without_clock(each) for each in second]


@pytest.mark.usefixtures("plays_in_house")
def test_what_repeats_an_evaluation_is_left_out(portal: BlockingPortal) -> None:
    assert portal.call(demonstrations, 2, 7, lambda example: False, silent) == []


@pytest.mark.anyio
async def test_a_place_that_was_looked_into_in_vain_is_no_target_and_another_one_is_looked_into_next() -> None:
    played = await demonstrations(40, 11, lambda example: True, silent, unplaced=True)
    astray = [
        example
        for example in played
        for message, after in pairwise([m for m in example.messages if m.calls])
        if [call.name for call in message.calls] == ["list_tables"] and not message.train
        if {call.name for call in after.calls} & {"search_text", "search_files", "query"}
    ]
    assert len(astray) >= 3
    declined = [each for each in played if re.search(r"I cannot|have no tool|I can't", each.reply or "")]
    of_each_server = {"list_tables", "search_text", "convert_time"}
    assert declined
    for example in declined:
        assert _called(example) or of_each_server <= {tool.name for tool in example.tools}, example.id


def test_each_script_makes_a_request_for_some_world() -> None:
    makers = {
        *file_reading.READING, *file_changing.CHANGING, *tables.READING, *table_changing.CHANGING, *clock.TIME,
        *table_questions.QUESTIONS, *exploring.UNPLACED, *exploring.TABLES, file_changing.add_unplaced,
        *clock.FILES_AND_TABLES, *clock.FILES_AND_TIME, *clock.TABLES_AND_TIME, *talk.WORDS, *talk.IMPOSSIBLE,
    }  # fmt: skip
    for maker in makers:
        requests = [request for n in range(40) if (request := _request(maker(make_world(scene(n)), scene(n))))]
        assert requests, maker.__name__
        assert all(len(request) > 1 for request in requests)


def test_a_world_replaces_the_one_before_in_the_same_place(tmp_path: Path) -> None:
    folder, database = tmp_path / "files", tmp_path / "data.db"
    folder.mkdir()
    write_world(make_world(scene("first")), folder, database)
    world = make_world(scene("second"))
    write_world(world, folder, database)
    assert _files(folder) == world.files
    with closing(sqlite3.connect(database)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names == {table.name for table in world.tables}


@pytest.mark.parametrize("text", ["how many lines has a.md?", "delete a.md"])
def test_a_courtesy_fits_questions_and_orders(text: str) -> None:
    said = {typed(scene(n), text) for n in range(300)}
    assert len(said) > 4
    assert all(text.rstrip("?").lower() in each.lower() for each in said)
    if text.endswith("?"):
        assert not any(each.lower().startswith(("can you", "please")) for each in said)


def test_every_domain_has_questions_whose_wordings_name_all_that_the_statement_needs() -> None:
    by_parent = table_questions.entries()
    assert set(by_parent) == {domain.tables[0].name for domain in DOMAINS}
    for parent, entries in by_parent.items():
        assert len(entries) >= 12, parent
        for entry in entries:
            for asked in entry.ask:
                assert set(re.findall(r"\{([^}]+)\}", asked)) == entry.blanks, asked
            if " LIMIT " in entry.sql:  # the check for ties looks at the last column
                found = re.fullmatch(r"SELECT (.*?) FROM .* ORDER BY (.*?)(?: DESC)? LIMIT .*", entry.sql)
                assert found and found[1].endswith(found[2]), entry.sql


def test_every_question_can_be_filled_and_its_statement_runs(tmp_path: Path) -> None:
    folder, database = tmp_path / "files", tmp_path / "data.db"
    folder.mkdir()
    answers: Counter[str] = Counter()
    for number, world in enumerate(_worlds()):
        write_world(world, folder, database)
        for entry in table_questions.entries()[world.domain.tables[0].name]:
            now = scene(number, entry.sql)
            question = table_questions.fill(entry, world, now)
            if question is None:
                continue
            rows = _found(database, question.sql)
            assert rows == table_questions.rows_in(world, question.sql)
            if table_questions.is_sound(question, world):
                answer = table_questions.answered(question, rows)
                assert answer and "NULL" not in answer
                assert not re.search("[{}]", answer + question.request + question.sql)
                answers[entry.sql] += 1
    for entries in table_questions.entries().values():
        assert all(answers[entry.sql] for entry in entries)


@pytest.mark.parametrize("seed", range(12))
def test_the_answer_to_a_question_agrees_with_the_database(seed: int, tmp_path: Path) -> None:
    folder, database = tmp_path / "files", tmp_path / "data.db"
    folder.mkdir()
    world, now = make_world(scene("questions", seed)), scene("asked", seed)
    write_world(world, folder, database)
    script = table_questions.QUESTIONS[0](world, now)
    assert _request(script)
    looked, asked = next(script), script.send(["the tables"])
    assert isinstance(looked, Step) and [call.name for call in looked.calls] == ["list_tables"]
    assert isinstance(asked, Step) and world.known_tables
    rows = _found(database, asked.calls[0].arguments["sql"])
    with pytest.raises(StopIteration) as end:
        script.send(["\n".join(["heading", *map(" | ".join, rows)]) if rows else "no rows"])
    is_nothing = not rows or rows[0][0] in ("NULL", "0")
    assert end.value.value
    assert is_nothing or all(row[0].removesuffix(".0").lower() in end.value.value.lower() for row in rows)


@pytest.mark.parametrize(("n_loans", "told"), [(0, "was never lent"), (1, "1 time."), (2, "2 times.")])
def test_a_count_is_told_in_the_grammar_of_its_number(n_loans: int, told: str) -> None:
    loans = [(number + 1, 1, "Elin", "2025-03-01") for number in range(n_loans)]
    world = World(rows={"books": [(1, "Paper Boats", 1990, "crime", 200)], "loans": [*loans]})
    question = table_questions.fill(table_questions.entries()["books"][0], world, scene(1))
    assert question
    assert told in (table_questions.answered(question, table_questions.rows_in(world, question.sql)) or "")


@pytest.mark.parametrize(("pages", "is_sound"), [(300, True), (200, False)])
def test_a_question_for_the_most_is_not_asked_where_two_tie(pages: int, is_sound: bool) -> None:
    books = [(1, "Paper Boats", 1990, "crime", 200), (2, "Green Fire", 1991, "crime", pages)]
    world = World(rows={"books": [*books], "loans": []})
    sql = "SELECT title, genre, pages FROM books ORDER BY pages DESC LIMIT 1"
    entry = next(entry for entry in table_questions.entries()["books"] if entry.sql == sql)
    question = table_questions.fill(entry, world, scene(1))
    assert question and table_questions.is_sound(question, world) == is_sound


def _request(script: Script) -> str | None:
    try:
        request = next(script)
    except StopIteration:
        return None
    assert isinstance(request, str)
    return request


def _called(example: Example) -> set[str]:
    return {call.name for message in example.messages for call in message.calls}


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and ".trash" not in path.parts
    }


def _rows(database: Path, world: World) -> Counter[tuple[object, ...]]:
    found: Counter[tuple[object, ...]] = Counter()
    with closing(sqlite3.connect(database)) as connection:
        for table in world.domain.tables:
            found.update((table.name, *row[1:]) for row in connection.execute(f"SELECT * FROM {table.name}"))
    return found


@cache
def _worlds() -> list[World]:
    """Return some worlds of each domain."""
    return [make_world(scene("worlds", number)) for number in range(8 * len(DOMAINS))]


def _found(database: Path, sql: str) -> list[list[str]]:
    """Return the rows of a statement as the server writes them."""
    with closing(sqlite3.connect(database)) as connection:
        return [["NULL" if cell is None else str(cell) for cell in row] for row in connection.execute(sql)]
