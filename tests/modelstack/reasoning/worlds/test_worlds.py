"""Worlds: what calls do, that copies are equal, and that hostile arguments are refused."""

from __future__ import annotations

import copy
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.reasoning.verifiers.effects import canonical, perform
from modelstack.reasoning.worlds.registry import WORLDS, WorldMaker
from modelstack.reasoning.worlds.world import Copy, Refused

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", WORLDS)
def test_starts_are_the_seeds_and_fit_the_worlds_schema(name: str) -> None:
    world = WORLDS[name]
    start = world.start(random.Random(5))
    assert start == world.start(random.Random(5)) != world.start(random.Random(6))
    maker = WorldMaker.of(name, start)
    assert canonical(maker().state()) == canonical(start) == canonical(maker().state())
    assert maker == WorldMaker.of(name, copy.deepcopy(start))


@pytest.mark.parametrize("name", WORLDS)
def test_what_happens_in_one_copy_stays_there(name: str) -> None:
    world = WORLDS[name]
    start = world.start(random.Random(0))
    before, one = copy.deepcopy(start), Copy(world, start)
    for table in one.state().values():
        table.clear()
    assert start == before


@pytest.mark.parametrize("name", WORLDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_called_is_refused_or_leaves_a_state_of_the_schema(name: str, data: st.DataObject) -> None:
    world = WORLDS[name]
    start = world.start(random.Random(data.draw(st.integers(0, 5))))
    known = sorted(next(iter(start.values())))
    here = Copy(world, start)
    for _ in range(3):
        deed = data.draw(st.sampled_from(world.deeds))
        keys = list(deed.spec.parameters["properties"])
        values = st.sampled_from(known) | st.integers(1, 30) | JSON
        arguments = {key: data.draw(values) for key in keys if data.draw(st.booleans() | st.just(True))}
        before = canonical(here.state())
        try:
            canonical(here.call(deed.name, arguments))
        except Refused:
            assert canonical(here.state()) == before  # a refused call changes nothing
        WorldMaker.of(name, here.state())  # raises where the state is none of this world


def done(name: str, start: dict, *calls: tuple[str, dict]) -> dict:
    ran_in = Copy(WORLDS[name], start)
    assert not perform(ran_in, calls).refused
    return ran_in.state()


def test_tools_do_what_they_say() -> None:
    todo = {"tasks": {"a": {"done": False}}, "notes": []}
    assert done("todo", todo, ("add_task", {"title": "b"}), ("complete_task", {"title": "a"}))["tasks"] == {
        "a": {"done": True},
        "b": {"done": False},
    }
    assert done("todo", todo, ("delete_task", {"title": "a"}), ("add_note", {"text": "n"})) == {
        "tasks": {},
        "notes": ["n"],
    }
    shop = {"items": {"mugs": {"count": 5, "price": 3}}}
    moved = done(
        "shop", shop, ("add_stock", {"item": "mugs", "count": 4}), ("remove_stock", {"item": "mugs", "count": 2})
    )
    assert moved["items"]["mugs"] == {"count": 7, "price": 3}
    assert done("shop", shop, ("set_price", {"item": "mugs", "price": 9}))["items"]["mugs"]["price"] == 9
    book = {"contacts": {"Ann": {"phone": "1", "town": "Rome"}}}
    changed = done(
        "contacts",
        book,
        ("change_phone", {"name": "Ann", "phone": "2"}),
        ("change_town", {"name": "Ann", "town": "Oslo"}),
        ("add_contact", {"name": "Bo", "phone": "3"}),
    )
    assert changed["contacts"] == {"Ann": {"phone": "2", "town": "Oslo"}, "Bo": {"phone": "3", "town": ""}}
    assert done("contacts", book, ("delete_contact", {"name": "Ann"})) == {"contacts": {}}
    week = {"events": {"yoga": {"day": "Monday", "hour": 9}}}
    assert done("calendar", week, ("move_event", {"event": "yoga", "day": "Friday"}))["events"]["yoga"] == {
        "day": "Friday",
        "hour": 9,
    }
    assert done("calendar", week, ("cancel_event", {"event": "yoga"})) == {"events": {}}
    folder = {"files": {"a.txt": "x"}}
    assert done("files", folder, ("append_to_file", {"file": "a.txt", "text": "y"})) == {
        "files": {"a.txt": "x\ny"}
    }
    assert done("files", folder, ("rename_file", {"file": "a.txt", "new_name": "b.txt"})) == {
        "files": {"b.txt": "x"}
    }
    lamps = {"lamps": {"hall": {"on": False, "percent": 50}}}
    assert done("lamps", lamps, ("lamp_on", {"room": "hall"}), ("dim_lamp", {"room": "hall", "percent": 7})) == {
        "lamps": {"hall": {"on": True, "percent": 7}}
    }


@pytest.mark.parametrize(
    ("name", "call", "arguments", "complaint"),
    [
        ("shop", "remove_stock", {"item": "mugs", "count": 99}, "there are 5 mugs only"),
        ("shop", "add_stock", {"item": "mugs", "count": 0}, "minimum"),
        ("shop", "add_stock", {"item": "mugs", "count": 1, "why": "x"}, "why"),
        ("shop", "add_stock", {"item": "rugs", "count": 1}, "there is no 'rugs'"),
        ("shop", "burn", {}, "there is no tool 'burn'"),
    ],
)
def test_calls_that_cannot_be_are_refused(name: str, call: str, arguments: dict, complaint: str) -> None:
    here = Copy(WORLDS[name], {"items": {"mugs": {"count": 5, "price": 3}}})
    with pytest.raises(Refused, match=complaint):
        here.call(call, arguments)
