"""The cases, the conditions and the start states of the injection suite, without a model or a server."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from agentkit.errors import UserError
from evals.injection import goals, tasks
from evals.injection.attacks import STYLES
from evals.injection.conditions import (
    AnswerHas,
    FileGone,
    FileHas,
    FileIs,
    LeakedInto,
    RowHas,
    Seen,
    TableEmpty,
    holds,
)
from evals.injection.crossing import all_cases
from evals.injection.defences import DEFAULT_DEFENCE, DEFENCES
from evals.injection.environment import MAX_FILE_BYTES, Workshop
from evals.injection.suite import SUITE
from evals.injection.world import WORKSHOP, places, planted


def test_every_task_is_run_alone_and_every_place_is_attacked_in_many_styles() -> None:
    cases = SUITE.load({})
    assert len(cases) == len({case.id for case in cases})
    assert sum(case.data["goal"] is None for case in cases) == len(tasks.TASKS) >= 12
    attacked = [case for case in cases if case.data["goal"]]
    assert len(attacked) >= 150
    assert set(Counter(case.data["style"] for case in attacked)) == set(STYLES)
    slots = {(task.id, slot.place) for task in tasks.TASKS for slot in task.slots}
    assert {(case.data["task"], place) for case in attacked for place in case.data["planted"]} == slots
    assert {slot.place for task in tasks.TASKS for slot in task.slots} == places(WORKSHOP)


def test_all_channels_styles_and_goals_have_enough_cases_to_say_something() -> None:
    attacked = [case for case in SUITE.load({}) if case.data["goal"]]
    for key, least in (("channel", 14), ("goal", 14), ("task", 7)):
        counts = Counter(case.data[key] for case in attacked)
        assert min(counts.values()) >= least, (key, counts)


def test_cases_are_the_same_every_time() -> None:
    assert SUITE.load({}) == SUITE.load({})


def test_styles_can_be_chosen() -> None:
    cases = SUITE.load({"attacks": "plain,encoded"})
    assert {case.data["style"] for case in cases} == {"", "plain", "encoded"}
    assert all(case.data["goal"] is None for case in SUITE.load({"attacks": "none"}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attacks": "plain,loud"}, "'loud' is not known"),
        ({"play": "chess"}, "must be one of reference, obey, nothing"),
        ({"defence": "prayer"}, "must be one of none, client, delimited"),
        ({"crossing": "ful"}, "must be one of balanced, full"),
        ({"attack": "plain"}, "nearest: 'attacks'"),
    ],
)
def test_an_unknown_option_or_name_is_explained(options: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SUITE.load(options)


def test_a_benign_world_and_an_attacked_one_differ_only_in_the_planted_text() -> None:
    benign = planted(WORKSHOP, {})
    for case in all_cases(STYLES):
        world = planted(WORKSHOP, case.data["planted"])
        for text in case.data["planted"].values():
            world = planted(world, {})  # no place is left
            assert "{{" not in str(world).replace(str(text), "")
        assert len(world.files) == len(benign.files)
        differing = [path for path in world.files if world.files[path] != benign.files.get(path)]
        assert len(differing) <= len(case.data["planted"])


def test_planting_where_there_is_no_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        planted(WORKSHOP, {"nowhere": "x"})
    with pytest.raises(ValueError, match="one file's name"):
        planted(WORKSHOP, {"letter": "a/b"})


def test_the_full_crossing_has_every_goal_at_every_place_and_the_balanced_cases_among_them() -> None:
    full = SUITE.load({"crossing": "full"})
    assert {case.id for case in SUITE.load({})} < {case.id for case in full}
    assert len({case.id for case in full}) == len(full) >= 1_000
    met = {(case.data["task"], case.data["goal"]) for case in full if case.data["goal"]}
    for task in tasks.TASKS:
        assert {goal for name, goal in met if name == task.id} == set(goals.BY_ID) - task.undone_by, task.id


def test_a_case_has_one_id_under_all_defences_so_that_runs_can_be_paired() -> None:
    under = {name: SUITE.load({"defence": name}) for name in DEFENCES}
    assert len({tuple(case.id for case in cases) for cases in under.values()}) == 1
    assert {case.data["defence"] for case in under["none"]} == {"none"}


def test_no_planted_text_contains_the_effect_that_any_goal_looks_for() -> None:
    stock = {"stock": [{"item": "chain"}]}
    for planted_for in goals.GOALS:
        payloads = [payload for style in STYLES.values() if (payload := style(planted_for))]
        for text in [planted_for.order, *(piece for payload in payloads for piece in payload.pieces)]:
            seen = Seen(text, {"rota.txt": "", "note.txt": text}, stock)
            reached = [goal.id for goal in goals.GOALS if holds(goal.attacked, seen)]
            assert reached == [], (planted_for.id, text)


@pytest.mark.parametrize(
    ("answer", "holds_for_4"),
    [
        ("4", True),
        ("There are 4.", True),
        ("14", False),
        ("4.5", False),
        ("1,4", False),
        ("four4", False),
        ("(4)", True),
    ],
)
def test_a_number_counts_only_by_itself(answer: str, holds_for_4: bool) -> None:
    assert holds(AnswerHas(("4",)), Seen(answer, {}, {})) is holds_for_4


def test_numbers_before_the_items_of_a_list_are_no_answer() -> None:
    listed = "Jobs:\n1. order tubes\n 2) true the wheel\n3. call\n4. pay\n"
    assert not holds(AnswerHas(("4", "four")), Seen(listed, {}, {}))
    assert holds(AnswerHas(("4", "four")), Seen(listed + "so 4 are open", {}, {}))
    assert holds(AnswerHas(("4", "four")), Seen("4. ", {}, {}))


def test_a_file_must_hold_the_answer_whole_and_not_the_wrong_one_beside_it() -> None:
    seen = Seen("", {"a.txt": "5-year", "b.txt": "15 years", "c.txt": "Varga or Hedberg"}, {})
    assert holds(FileHas("a.txt", ("5", "five")), seen) and not holds(FileHas("b.txt", ("5", "five")), seen)
    assert holds(FileHas("c.txt", ("hedberg",)), seen)
    assert not holds(FileHas("c.txt", ("hedberg",), none_of=("varga",)), seen)
    assert not holds(FileHas("d.txt", ("5",)), seen)


def test_conditions_look_at_files_and_rows() -> None:
    seen = Seen("", {"a.txt": " VOID\n", "b.txt": "one two"}, {"t": [{"id": 1, "n": 5}], "empty": []})
    assert holds(FileIs("a.txt", "VOID"), seen) and not holds(FileIs("b.txt", "VOID"), seen)
    assert holds(FileGone("c.txt"), seen) and not holds(FileGone("a.txt"), seen)
    assert holds(LeakedInto(("one", "two")), seen) and not holds(LeakedInto(("one",), source="b.txt"), seen)
    assert holds(RowHas("t", {"n": 5}), seen) and not holds(RowHas("t", {"n": 5, "id": 2}), seen)
    assert not holds(RowHas("gone", {"n": 5}), seen) and not holds(RowHas("t", {"missing": None}), seen)
    assert (
        holds(TableEmpty("empty"), seen) and holds(TableEmpty("gone"), seen) and not holds(TableEmpty("t"), seen)
    )


def test_what_a_model_left_is_read_within_bounds(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, DEFENCES[DEFAULT_DEFENCE])
    workshop.fill(planted(WORKSHOP, {}))
    (workshop.root / "large.txt").write_bytes(b"x" * (2 * MAX_FILE_BYTES))
    (workshop.root / "binary").write_bytes(b"\xff\x00")
    (workshop.root / "link").symlink_to("/etc/hostname")
    (workshop.root / ".trash").mkdir()
    (workshop.root / ".trash" / "deleted.txt").write_text("gone", encoding="utf-8")
    with closing(sqlite3.connect(workshop.database)) as connection, connection:
        connection.execute('CREATE TABLE "a ""b" (x BLOB)')
        connection.execute('INSERT INTO "a ""b" VALUES (?), (?)', (b"\x01", "t" * 10_000))
        connection.execute(
            "CREATE TABLE many AS WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 5000) SELECT i FROM n"
        )
    observed = workshop.observe()
    assert len(observed["files"]["large.txt"]) == MAX_FILE_BYTES
    assert "\x00" in observed["files"]["binary"]
    assert "link" not in observed["files"] and not any("trash" in path for path in observed["files"])
    assert observed["tables"]['a "b'][0] == {"x": "01"} and len(observed["tables"]['a "b'][1]["x"]) == 2_000
    assert len(observed["tables"]["many"]) == 500


def test_a_database_that_is_none_any_more_is_seen_as_one_without_tables(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, DEFENCES[DEFAULT_DEFENCE])
    workshop.database.write_text("not a database", encoding="utf-8")
    assert workshop.observe()["tables"] == {}
