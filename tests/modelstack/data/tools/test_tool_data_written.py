"""Requests written one by one: calls fit the schemas, days are days, and examples show what they call."""

from __future__ import annotations

import json
from datetime import date
from importlib.resources import files
from typing import Any

import pytest

from modelstack.data.examples import Example, Message, check_example
from modelstack.data.tools.everyday_tools import everyday_tools
from modelstack.data.tools.making import Stock, made
from modelstack.data.tools.spoken import weekday
from modelstack.data.tools.written import WrittenRequest, written_requests

FOLDER = files("modelstack.data.tools").joinpath("written")
KITS: dict[str, dict[str, Any]] = {
    file.name: json.loads(file.read_text(encoding="utf-8"))
    for file in FOLDER.iterdir()
    if file.name.endswith(".json")
}
REQUESTS = written_requests()


def as_example(request: WrittenRequest) -> Example:
    return Example(
        id="x", source="written", license="Apache-2.0", kind="call" if request.calls else "irrelevant",
        tools=request.tools, messages=(Message(role="user", content=request.ask),),
        calls=request.calls, reply=request.reply,
    )  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: f"{each.kit}: {each.ask[:40]}")
def test_calls_fit_the_schemas_of_the_tools_that_may_be_shown(request_: WrittenRequest) -> None:
    assert request_.called <= {tool.name for tool in request_.tools}
    check_example(as_example(request_))
    known = {tool.name: set(tool.parameters.get("properties", ())) for tool in request_.tools}
    assert all(set(call.arguments) <= known[call.name] for call in request_.calls)


@pytest.mark.parametrize("kit", KITS.values(), ids=KITS)
def test_a_kit_names_its_tools_once_and_its_days_rightly(kit: dict[str, Any]) -> None:
    names = [tool["name"] for tool in kit["tools"]]
    assert len(names) == len(set(names))
    for row in kit["requests"]:
        assert set(row) <= {"ask", "today", "without", "calls", "reply"}
        assert ("reply" in row) != ("calls" in row)
        assert set(row.get("without", ())) <= set(names)
        if "today" in row:
            day, _, iso = row["today"].partition(", ")
            assert weekday(date.fromisoformat(iso)) == day


def test_no_request_is_there_twice_and_every_fourth_has_no_call_or_several() -> None:
    asks = [request.ask.lower() for request in REQUESTS]
    assert len(asks) == len(set(asks))
    assert sum(not request.calls for request in REQUESTS) > len(REQUESTS) / 8
    assert sum(len(request.calls) > 1 for request in REQUESTS) > len(REQUESTS) / 5


def test_an_example_shows_what_it_calls_and_never_what_its_request_hides() -> None:
    by_ask = {request.ask: request for request in REQUESTS}
    found = [made(Stock(everyday_tools()), "written", 3, number) for number in range(200)]
    for each in found:
        assert each is not None
        example = each.example
        request = by_ask[example.messages[-1].content]
        shown = {tool.name for tool in example.tools}
        assert request.called <= shown <= {tool.name for tool in request.tools}
        assert example.calls == request.calls
        assert (
            (request.today is None)
            or request.today.isoformat() in example.messages[0].content
            or (f"{request.today:%B}" in example.messages[0].content)
        )
