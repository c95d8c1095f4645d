"""Augmented examples say the same with other names, orders and values, in every place at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelstack.data.examples import Call, Example, check_example, read_examples
from modelstack.sft.augment import NOTHING, AugmentConfig, augment
from modelstack.sft.swap_values import CITIES, FIRST_NAMES, swap_values

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data" / "tooluse"
STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def tool(name: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "description": f"Do {name}.", "parameters": parameters}


TOOLS = [
    tool("weather", ("city",), city=STRING, days=INTEGER, wind=STRING, rain=STRING),
    tool("mail", ("to",), to=STRING, subject=STRING, text=STRING),
    tool("clock"),
]


def example(**changes: Any) -> Example:
    base: dict[str, Any] = {
        "id": "a-1",
        "source": "made",
        "license": "CC0-1.0",
        "kind": "call",
        "tools": TOOLS,
        "messages": [{"role": "user", "content": "Weather in Lisbon for 4 days"}],
        "calls": [{"name": "weather", "arguments": {"city": "Lisbon", "days": 4}}],
    }
    return Example.model_validate_json(json.dumps(base | changes))


def only(**changes: Any) -> AugmentConfig:
    return NOTHING.model_copy(update=changes)


def variants(one: Example, config: AugmentConfig, n: int = 40) -> list[Example]:
    return [augment(one, config, seed=0, variant=variant) for variant in range(n)]


def test_nothing_changes_nothing() -> None:
    assert augment(example(), NOTHING, seed=0) == example()


def test_what_an_example_becomes_follows_from_seed_id_and_variant() -> None:
    config, one = AugmentConfig(), example()
    before = one.model_dump()
    assert augment(one, config, 3, 1) == augment(example(), config, 3, 1)
    assert one.model_dump() == before
    others = [augment(one, config, 4, 1), augment(one, config, 3, 2), augment(example(id="a-2"), config, 3, 1)]
    assert all(other.tools != augment(one, config, 3, 1).tools for other in others)


def test_tools_come_in_every_order_and_stay_the_same_tools() -> None:
    found = variants(example(), only(shuffle_tools=True))
    assert len({tuple(each.name for each in one.tools) for one in found}) == 6
    assert all(sorted(one.tools, key=str) == sorted(example().tools, key=str) for one in found)


def test_parameters_come_in_other_orders_with_the_same_schemas() -> None:
    found = variants(example(), only(shuffle_parameters=True))
    assert len({tuple(one.tools[0].parameters["properties"]) for one in found}) > 10
    assert all(one.tools == example().tools for one in found)


def test_optional_parameters_that_no_call_uses_are_left_out_and_no_others() -> None:
    found = variants(example(), only(drop_optional=0.5))
    kept = [set(one.tools[0].parameters["properties"]) for one in found]
    assert all({"city", "days"} <= keys for keys in kept)
    assert {frozenset(keys) for keys in kept} == {
        frozenset({"city", "days", *more}) for more in ((), ("wind",), ("rain",), ("wind", "rain"))
    }
    assert all("to" in one.tools[1].parameters["properties"] for one in found)


def test_a_parameter_that_an_earlier_call_used_is_kept() -> None:
    calls = [{"name": "weather", "arguments": {"city": "x", "wind": "yes"}}]
    messages = [{"role": "assistant", "calls": calls}, {"role": "user", "content": "And mail it"}]
    found = variants(example(messages=messages), only(drop_optional=1.0))
    assert all(set(one.tools[0].parameters["properties"]) == {"city", "days", "wind"} for one in found)


def test_masked_names_are_the_same_in_tools_earlier_calls_results_and_target() -> None:
    calls = [{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "gone", "arguments": {"x": 1}}]
    one = example(
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "calls": calls, "train": True},
            {"role": "tool", "content": "sun", "name": "weather"},
            {"role": "user", "content": "y"},
        ]
    )
    masked = augment(one, only(mask_names=1.0), seed=0)
    weather = masked.tools[0]
    assert weather.name not in {"weather", "mail", "clock"}
    assert weather.description == "Do weather."
    city, days, _, _ = weather.parameters["properties"]
    assert weather.parameters["required"] == [city]
    assert masked.calls == (Call(name=weather.name, arguments={city: "Lisbon", days: 4}),)
    assert masked.messages[1].calls == (
        Call(name=weather.name, arguments={city: "Rome"}),
        Call(name="gone", arguments={"x": 1}),
    )
    assert masked.messages[1].train
    assert masked.messages[2].name == weather.name
    names = [each.name for each in masked.tools] + [
        key for t in masked.tools for key in t.parameters["properties"]
    ]
    assert len(set(names)) == 3 + 7
    assert not set(names) & {"weather", "mail", "clock", "city", "days", "wind", "rain", "to", "subject", "text"}


def test_names_are_masked_with_the_probability_that_is_asked_for() -> None:
    n_masked = sum(one.tools[0].name != "weather" for one in variants(example(), only(mask_names=0.3), n=1000))
    assert 250 < n_masked < 350


def test_parameters_that_a_schema_names_elsewhere_keep_their_names() -> None:
    several = tool("f", x=STRING, y=STRING)
    several["parameters"]["dependentRequired"] = {"x": ["y"]}
    one = example(tools=[several], calls=[{"name": "f", "arguments": {"x": "1", "y": "2"}}])
    masked = augment(one, only(mask_names=1.0, drop_optional=1.0), seed=0)
    assert masked.tools[0].name != "f"
    assert masked.tools[0].parameters == several["parameters"]
    assert masked.calls[0].arguments == {"x": "1", "y": "2"}


def test_values_are_exchanged_in_request_and_call_together() -> None:
    for one in variants(example(), only(swap_values=1.0)):
        city, days = one.calls[0].arguments["city"], one.calls[0].arguments["days"]
        assert city in CITIES
        assert city != "Lisbon"
        assert days in range(2, 10)
        assert days != 4
        assert one.messages[0].content == f"Weather in {city} for {days} days"


def test_an_exchanged_value_is_so_in_every_turn_but_the_systems() -> None:
    one = example(
        messages=[
            {"role": "system", "content": "You are in Lisbon."},
            {"role": "user", "content": "Mail Maria the weather in lisbon, and Lisbon's time"},
            {"role": "assistant", "calls": [{"name": "weather", "arguments": {"city": "Lisbon"}}]},
            {"role": "tool", "content": "Lisbon: sun"},
        ],
        calls=[{"name": "mail", "arguments": {"to": "Maria", "text": "sun"}}],
    )
    swapped = augment(one, only(swap_values=1.0), seed=0)
    name = swapped.calls[0].arguments["to"]
    assert name in FIRST_NAMES
    assert name != "Maria"
    assert swapped.messages[1].content == f"Mail {name} the weather in lisbon, and Lisbon's time"
    assert swapped.messages[2:] == one.messages[2:]  # no target has the city
    calls = [{"name": "weather", "arguments": {"city": "Lisbon"}}]
    messages = [{**message.model_dump(exclude_defaults=True)} for message in one.messages]
    messages[1]["content"] = "Mail it the weather in Lisbon"
    swapped = augment(example(messages=messages, calls=calls), only(swap_values=1.0), seed=0)
    city = swapped.calls[0].arguments["city"]
    assert city != "Lisbon"
    assert [message.content for message in swapped.messages] == [
        "You are in Lisbon.",
        f"Mail it the weather in {city}",
        "",
        f"{city}: sun",
    ]
    assert swapped.messages[2].calls[0].arguments == {"city": city}


def test_a_value_keeps_its_case_a_year_stays_a_year_and_a_number_its_digits() -> None:
    one = example(
        tools=[tool("f", city=STRING, year=INTEGER, n=INTEGER)],
        messages=[{"role": "user", "content": "lisbon 1998 370"}],
        calls=[{"name": "f", "arguments": {"city": "lisbon", "year": 1998, "n": 370}}],
    )
    for each in variants(one, only(swap_values=1.0)):
        city, year, n = each.calls[0].arguments.values()
        assert city in [name.lower() for name in CITIES]
        assert 1950 <= year < 2040
        assert 100 <= n < 1000
        assert each.messages[0].content == f"{city} {year} {n}"


@pytest.mark.parametrize(
    ("said", "arguments", "schema"),
    [
        ("Lisbon and Lisbon", {"x": "Lisbon"}, STRING),
        ("nothing", {"x": "Lisbon"}, STRING),
        ("New Lisbon-upon-Sea", {"x": "Lisbon"}, STRING),
        ("on 2019-04-03", {"x": 4}, INTEGER),
        ("at 4:30", {"x": 4}, INTEGER),
        ("for 4.5 km", {"x": 4}, INTEGER),
        ("for $4", {"x": 4}, INTEGER),
        ("4 and four", {"x": True}, {"type": "boolean"}),
        ("Lisbon", {"x": "Lisbon"}, {"type": "string", "enum": ["Lisbon", "Porto"]}),
        ("for 4", {"x": 4}, {"type": "integer", "maximum": 5}),
        ("Lisbon", {"x": "Lisbon", "y": "Lisbon, Portugal"}, STRING),
        ("4 at 4 pm", {"x": 4, "y": "4 pm"}, INTEGER),
        ("a tabby", {"x": "tabby"}, STRING),
    ],
)
def test_a_value_that_is_not_safe_to_exchange_stays(said: str, arguments: dict[str, Any], schema: Any) -> None:
    one = example(
        tools=[tool("f", x=schema, y=STRING)],
        messages=[{"role": "user", "content": said}],
        calls=[{"name": "f", "arguments": arguments}],
    )
    assert all(each == one for each in variants(one, only(swap_values=1.0), n=5))


def test_two_values_never_become_one() -> None:
    one = example(
        tools=[tool("f", x=INTEGER, y=INTEGER)],
        messages=[{"role": "user", "content": "3 of 6"}],
        calls=[{"name": "f", "arguments": {"x": 3, "y": 6}}],
    )
    for each in variants(one, only(swap_values=1.0), n=200):
        x, y = each.calls[0].arguments.values()
        assert x != y
        assert each.messages[0].content == f"{x} of {y}"


def test_some_values_are_exchanged_where_the_probability_is_below_one() -> None:
    found = variants(example(), only(swap_values=0.5), n=200)
    changed = {(e.calls[0].arguments["city"] != "Lisbon", e.calls[0].arguments["days"] != 4) for e in found}
    assert changed == {(a, b) for a in (False, True) for b in (False, True)}


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_calls_of_real_examples_still_fit_their_schemas() -> None:
    config = AugmentConfig(mask_names=0.5, drop_optional=0.5, swap_values=1.0)
    n_changed = 0
    for one in read_examples(SHARED / "validation-open.jsonl.zst"):
        changed = augment(one, config, seed=1)
        check_example(changed)
        n_changed += changed.calls != one.calls
    assert n_changed > 100


def test_values_of_real_kinds_are_one_word_each() -> None:
    assert not set(CITIES) & set(FIRST_NAMES)
    assert all(word.isalpha() and word.istitle() for word in (*CITIES, *FIRST_NAMES))


def test_an_example_without_a_call_keeps_its_values() -> None:
    from random import Random

    one = example(kind="clarify", calls=[], reply="Which day in Lisbon?")
    assert swap_values(one, Random(0), 1.0) == one
