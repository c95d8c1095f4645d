"""Real schemas become requests: descriptions as wishes, values by name and type, near-misses of a server."""

from __future__ import annotations

from typing import Any

import pytest

from modelstack.data.examples import check_example
from modelstack.data.tools.api_making import API_SORTS, SAME_WORK, ApiStock, made_from_apis, said_of
from modelstack.data.tools.api_phrasing import ask_api, ask_together
from modelstack.data.tools.api_values import value_of
from modelstack.data.tools.apis import Api, label_of, speakable
from modelstack.data.tools.related import overlap, share_stem, stems
from modelstack.data.tools.spoken import COPIED, scene

TEXT = {"type": "string"}


def record(name: str, description: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {
        "source": "toys", "license": "MIT", "origin": "post",
        "name": name, "description": description, "parameters": parameters,
    }  # fmt: skip


RECORDS = [
    record("get_parcel", "Retrieves the status of a given parcel by its ID.", ("parcel_id",), parcel_id=TEXT),
    record("list_depots", "List all depots. Supports paging.", (), city=TEXT, limit={"type": "integer"}),
    record(
        "send_letter",
        "Send a letter",
        ("recipient", "text"),
        recipient=TEXT,
        text=TEXT,
        registered={"type": "boolean"},
    ),
    record("delete_stamp", "Deletes a stamp from the album", ("stamp_id",), stamp_id=TEXT),
    record("update_route", "Update the route of a courier", ("courier", "route_id"), courier=TEXT, route_id=TEXT),
    record("calculate_postage", "Calculate the postage for a weight", ("weight",), weight={"type": "number"}),
]


@pytest.fixture
def apis() -> list[Api]:
    return list(speakable(RECORDS))


def test_descriptions_become_imperatives_without_what_values_say(apis: list[Api]) -> None:
    assert [api.wish for api in apis][:4] == [
        "retrieve the status of a parcel", "list all depots", "send a letter", "delete a stamp from the album",
    ]  # fmt: skip
    assert [api.group for api in apis][:4] == ["look", "list", "do", "drop"]


@pytest.mark.parametrize(
    "description",
    ["The parcel service", "Get `x` {y}", "Gets", "Get or create a thing", "Run " + "very " * 20 + "long things"],
)
def test_what_cannot_be_spoken_is_left_out(description: str) -> None:
    assert list(speakable([record("tool", description)])) == []


def test_a_tool_with_too_many_required_parameters_is_left_out() -> None:
    many = {f"city{i}": TEXT for i in range(6)}
    assert list(speakable([record("tool", "Compare cities", tuple(many), **many)])) == []


def test_names_become_words() -> None:
    assert label_of("projectId") == "project id"
    assert label_of("max_results") == "max results"


@pytest.mark.parametrize(
    ("name", "schema", "fits"),
    [
        ("email", TEXT, lambda v: "@" in v),
        ("order_id", TEXT, lambda v: any(c.isdigit() for c in v) or v.isalnum()),
        ("year", {"type": "integer"}, lambda v: 1985 <= v <= 2025),
        ("unit", {"type": "string", "enum": ["km", "mi"]}, lambda v: v in ("km", "mi")),
        ("include_archived", {"type": "boolean"}, lambda v: isinstance(v, bool)),
        ("start_date", {"type": "string", "description": "Format: YYYY-MM-DD"}, lambda v: len(v) == 10),
        ("cities", {"type": "array", "items": TEXT}, lambda v: len(v) >= 2),
        ("game", {"type": "string", "description": "Name (e.g., Go, Mikado)"}, lambda v: v in ("Go", "Mikado")),
    ],
)  # fmt: skip
def test_values_fit_name_type_and_description(name: str, schema: dict[str, Any], fits: Any) -> None:
    for i in range(20):
        spoken = value_of(name, schema, scene(name, i))
        assert spoken is not None
        assert fits(spoken.value)


def test_what_has_no_rule_has_no_value() -> None:
    assert value_of("frobnication", TEXT, scene(1)) is None
    assert value_of("api_key", TEXT, scene(1)) is None
    assert value_of("options", {"type": "object"}, scene(1)) is None


def test_copied_values_stand_in_the_request(apis: list[Api]) -> None:
    for i in range(200):
        now = scene("grounded", i)
        clause = ask_api(now.one(apis), now)
        if clause is None or set(clause.rules) - {COPIED}:
            continue
        for value in clause.calls[0][1].values():
            assert str(value).lower() in clause.text.lower(), clause


def test_several_calls_differ(apis: list[Api]) -> None:
    for i in range(80):
        clause = ask_api(apis[0], scene("several", i), n_calls=2)
        if clause is not None:
            assert clause.calls[0] != clause.calls[1]
            assert all(call[1]["parcel_id"] in clause.text for call in clause.calls)


def test_tools_that_need_the_same_are_asked_for_in_one_breath(apis: list[Api]) -> None:
    needs = {"parcel_id": TEXT}
    both = [
        apis[0],
        *speakable([record("weigh_parcel", "Return the weight of a parcel", ("parcel_id",), **needs)]),
    ]
    clause = ask_together(both, scene("together"))
    assert clause is not None
    (first, arguments), (second, others) = clause.calls
    assert (first, second) == ("get_parcel", "weigh_parcel")
    assert arguments == others
    assert clause.text.count(arguments["parcel_id"]) == 1
    assert "status" in clause.text and "weight" in clause.text


def test_no_two_calls_of_a_request_are_the_same(apis: list[Api]) -> None:
    stock = ApiStock(apis, {"toys": 1.0})
    found = [made_from_apis(stock, sort, 5, n) for sort in ("api_parallel", "api_multi") for n in range(80)]
    calls = [[repr(call) for call in each.example.calls] for each in found if each is not None]
    assert max(map(len, calls)) >= 4
    assert all(len(set(of_one)) == len(of_one) for of_one in calls)


@pytest.mark.parametrize("sort", API_SORTS)
def test_examples_are_right_by_their_schemas_and_keep_source_and_licence(sort: str, apis: list[Api]) -> None:
    stock = ApiStock(apis, {"toys": 1.0})
    found = [m for n in range(60) if (m := made_from_apis(stock, sort, 0, n)) is not None]
    assert len(found) >= 3
    for each in found:
        check_example(each.example)
        assert (each.example.source, each.example.license) == ("api:toys", "MIT")


def test_a_near_miss_shows_siblings_that_do_other_work(apis: list[Api]) -> None:
    stock = ApiStock(apis, {"toys": 1.0})
    for n in range(60):
        each = made_from_apis(stock, "api_removed", 0, n)
        if each is not None:
            assert each.example.kind == "irrelevant"
            assert each.example.tools


def test_tools_of_the_same_work_are_never_akin(apis: list[Api]) -> None:
    twin = list(
        speakable([record("fetch_parcel", "Fetch the status of a parcel", ("parcel_id",), parcel_id=TEXT)])
    )
    stock = ApiStock([*apis, *twin], {"toys": 1.0})
    assert overlap(said_of(apis[0]), said_of(twin[0])) >= SAME_WORK
    assert twin[0] not in stock.akin(apis[0], scene("akin"))


def test_stems_are_shared_across_forms_and_names() -> None:
    assert share_stem("book a table", "reserveTables")
    assert share_stem("translating text", "translate_text")
    assert not share_stem("what is the weather", "send_invoice")
    assert stems("the and of it") == frozenset()
