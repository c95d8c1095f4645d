"""Templates become clauses, clauses become what people say."""

from __future__ import annotations

import pytest

from modelstack.data.tools.clauses import (
    Clause,
    fill,
    is_repeatable,
    mood_of,
    repeated_slots,
    settle,
    slots_of,
    tidy,
)
from modelstack.data.tools.speaking import sentence, speak
from modelstack.data.tools.spoken import Spoken, scene

TEMPLATE = "(book|reserve) a table <<at {place} {date}[ {time}]>>[, please]"


def spoken(**values: str) -> dict[str, Spoken]:
    return {name: Spoken(said, said) for name, said in values.items()}


def test_slots_are_named_once_in_order() -> None:
    assert slots_of("{b} {a} {b.bare}") == ["b", "a"]
    assert repeated_slots(TEMPLATE) == ["place", "date", "time"]
    assert is_repeatable(TEMPLATE)
    assert not is_repeatable("call {name}")


def test_words_around_a_value_that_is_not_said_go_with_it() -> None:
    for i in range(20):
        settled = settle(TEMPLATE, scene(i), with_slots=(), without=("time",))
        assert settled.split()[0] in ("book", "reserve")
        assert "{time}" not in settled
        assert "[" not in settled
        assert "{time}" in settle(TEMPLATE, scene(i), with_slots=("time",), without=())


def test_the_repeated_part_is_said_once_a_call() -> None:
    values = [spoken(place="Hof", date="today"), spoken(place="Sakura", date="on Friday")]
    texts = {fill("book a table <<at {place} {date}>>", values, scene(i)) for i in range(40)}
    assert "book a table at Hof today and at Sakura on Friday" in texts
    assert "book a table at Hof and Sakura today and on Friday respectively" in texts
    assert all(text.index("Hof") < text.index("Sakura") and text.count("book") == 1 for text in texts)


def test_what_is_the_same_in_several_calls_is_said_once_when_they_are_merged() -> None:
    values = [spoken(place="Hof", guests="four"), spoken(place="Sakura", guests="four")]
    texts = {fill("book <<{place} for {guests}>>", values, scene(i)) for i in range(40)}
    assert "book Hof and Sakura for four" in texts


def test_a_bare_value_has_no_preposition() -> None:
    values = [{"date": Spoken("x", "on Friday", bare="Friday")}]
    assert fill("move it to {date.bare}, not {date}", values, scene(1)) == "move it to Friday, not on Friday"


@pytest.mark.parametrize(
    ("template", "mood"),
    [
        ("book a table", "order"),
        ("is there a table?", "question"),
        ("what do you have", "question"),
        ("I need a table", "statement"),
        ("{name} owes us money", "statement"),
        ("~table for two", "fragment"),
        ("[hey] (what|which) one?", "question"),
    ],
)
def test_moods(template: str, mood: str) -> None:
    assert mood_of(template)[1] == mood


def test_articles_and_spaces_are_tidied() -> None:
    assert (
        tidy("rent a  estate car , a van and a one-way ticket") == "rent an estate car, a van and a one-way ticket"
    )


def test_sentences_end_with_one_mark() -> None:
    assert sentence("do it") == "Do it."
    assert sentence("is it?") == "Is it?"
    assert sentence("can you", "?") == "Can you?"


def test_all_wishes_are_heard_in_whatever_way_they_are_joined() -> None:
    clauses = [
        Clause("call Ann", "order", ()),
        Clause("is it raining in Oslo?", "question", ()),
        Clause("water the fern", "order", ()),
    ]
    texts = [speak(clauses, scene("join", i)).lower() for i in range(60)]
    for wish in ("call ann", "raining in oslo", "water the fern"):
        assert all(wish in text for text in texts)
    assert len(set(texts)) > 30


def test_endings_are_said_behind_the_wish() -> None:
    clause = Clause("find a hotel", "order", (), endings=("for two people", "I can't climb stairs"))
    for i in range(30):
        text = speak([clause], scene("end", i)).lower()
        assert text.index("find a hotel") < text.index("for two people") < text.index("i can't climb stairs")


def test_one_request_is_said_in_many_ways() -> None:
    texts = {speak([Clause("water the fern", "order", ())], scene("ways", i)) for i in range(200)}
    assert len(texts) > 40
