"""Values with their words: days counted from a today, measures in another unit, numbers as words."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from modelstack.data.tools import quantities, when
from modelstack.data.tools.kinds import make, schema_of, words
from modelstack.data.tools.spoken import Scene, in_words, listed, ordinal, scene, today_line, weekday

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def scenes(name: str, n: int = 400) -> list[Scene]:
    return [scene(name, i) for i in range(n)]


def test_a_scene_is_the_same_whenever_it_is_made() -> None:
    assert make("date", scene("a", 1)) == make("date", scene("a", 1))
    assert len({make("date", now).value for now in scenes("b", 40)}) > 30


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "zero"),
        (12, "twelve"),
        (21, "twenty-one"),
        (90, "ninety"),
        (105, "one hundred and five"),
        (3000, "three thousand"),
    ],
)
def test_numbers_are_written_as_words(number: int, text: str) -> None:
    assert in_words(number) == text


def test_ordinals_and_lists() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 31)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "31st"]
    )
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_relative_days_are_what_their_words_say() -> None:
    seen = set[str]()
    for now in scenes("days", 1500):
        day, spoken = when.said_day(now)
        distance = (day - now.today).days
        if spoken.said in ("today", "tomorrow", "the day after tomorrow"):
            assert distance == ("today", "tomorrow", "the day after tomorrow").index(spoken.said)
        elif spoken.said.startswith("next "):
            monday = now.today - timedelta(days=now.today.weekday())
            assert weekday(day) == spoken.said.removeprefix("next ")
            assert 7 <= (day - monday).days <= 13
        elif spoken.said.removeprefix("on ").removeprefix("this ") in DAYS:
            assert weekday(day) in spoken.said
            assert 1 <= distance <= 7
        elif found := re.match(r"in (\d+) days$|(\d+) days from", spoken.said):
            assert distance == int(found.group(1) or found.group(2))
        else:
            continue
        seen.add(spoken.said.split()[0])
        assert spoken.needs_today
    assert {"today", "tomorrow", "next", "on", "this", "in"} <= seen


def test_past_days_lie_in_the_past_and_coming_ones_do_not() -> None:
    for now in scenes("past", 300):
        assert when.said_day(now, past=True)[0] <= now.today
        assert when.said_day(now)[0] >= now.today


def test_a_day_that_needs_no_today_says_its_year() -> None:
    for now in scenes("years", 300):
        day, spoken = when.said_day(now)
        assert spoken.needs_today or str(day.year) in spoken.said


def test_a_stay_is_as_long_as_it_says() -> None:
    for now in scenes("stay", 300):
        spoken = when.stay(now)
        first, last = (date.fromisoformat(text) for text in spoken.value)
        found = re.search(r"for (\w+) nights?", spoken.said)
        if found:
            count = found.group(1)
            assert (last - first).days == (
                int(count) if count.isdigit() else [in_words(n) for n in range(11)].index(count)
            )
        assert first < last


@pytest.mark.parametrize(
    ("said", "value"),
    [("noon", "12:00"), ("half past seven in the evening", "19:30"), ("quarter to nine in the morning", "08:45")],
)
def test_times_in_words_are_24_hour_times(said: str, value: str) -> None:
    found = {spoken.name: spoken.value for now in scenes("clock", 6000) for spoken in [when.clock(now)]}
    assert found[said] == value


def test_am_and_pm_agree_with_the_value() -> None:
    for now in scenes("ampm", 500):
        spoken = when.clock(now)
        found = re.fullmatch(r"at (\d+)(?::(\d\d))? ?(am|pm)", spoken.said)
        if found:
            hour = int(found.group(1)) % 12 + (12 if found.group(3) == "pm" else 0)
            assert spoken.value == f"{hour:02}:{found.group(2) or '00'}"


@pytest.mark.parametrize(
    ("kind", "said", "value"),
    [
        ("minutes", "half an hour", 30),
        ("minutes", "an hour and a half", 90),
        ("grams", "half a kilo", 500),
        ("metres", "two and a half kilometres", 2500),
        ("litres", "330 millilitres", 0.33),
        ("hours", "45 minutes", 0.75),
        ("months", "ten years", 120),
        ("degrees", "a quarter turn", 90),
        ("percent", "three quarters", 75),
        ("fraction", "half", 0.5),
        ("fraction", "12 %", 0.12),
    ],
)
def test_measures_are_converted_exactly(kind: str, said: str, value: float) -> None:
    found = {spoken.said: spoken.value for now in scenes("measure", 6000) for spoken in [make(kind, now)]}
    assert found[said] == value


@pytest.mark.parametrize("unit", quantities.WHOLE_MEASURES)
def test_whole_measures_are_whole(unit: str) -> None:
    assert all(isinstance(quantities.measure(now, unit).value, int) for now in scenes(unit, 200))


def test_codes_stand_for_what_is_said() -> None:
    assert ("Norway", "NO") in words("country")
    found = {make("country_code", now).said: make("country_code", now).value for now in scenes("codes", 10)}
    assert all(code != said and len(code) == 2 for said, code in found.items())
    assert schema_of("country_code") == ({"type": "string"}, "ISO 3166 two-letter code")


def test_a_list_names_each_of_its_items() -> None:
    for now in scenes("list", 60):
        spoken = make("list food 2 4", now)
        assert 2 <= len(spoken.value) <= 4
        assert all(item in spoken.said for item in spoken.value)
    assert schema_of("list whole 3 6")[0] == {"type": "array", "items": {"type": "integer"}}


def test_the_line_of_today_names_the_day() -> None:
    for now in scenes("line", 30):
        assert weekday(now.today) in today_line(now)
        assert str(now.today.year) in today_line(now)


@pytest.mark.parametrize(
    ("kind", "said", "value"),
    [
        ("level", "all the way", 100),
        ("level_fraction", "halfway", 0.5),
        ("compass", "due east", 90),
        ("compass", "northwest", 315),
        ("up_or_down", "half a metre down", -0.5),
        ("left_or_right", "a quarter turn to the left", -90),
        ("times", "twice", 2),
        ("body_height", "1.78 m", 178),
        ("dollars 9000 19000", "$12k", 12000),
        ("month", "in March", 3),
    ],
)
def test_words_of_degree_direction_and_number_have_their_value(kind: str, said: str, value: float) -> None:
    found = {spoken.said: spoken.value for now in scenes("words", 9000) for spoken in [make(kind, now)]}
    assert found[said] == value
