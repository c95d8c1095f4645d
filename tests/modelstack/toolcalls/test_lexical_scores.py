"""What words say of tools, and the file of a prior, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.errors import UserError
from modelstack.toolcalls import ToolSpec
from modelstack.toolcalls.prior.lexical import MAX_BYTES, DecisionPrior, lexical_scores, open_request, words


def tool(name: str, description: str = "", **parameters: str) -> ToolSpec:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return ToolSpec(name, description, {"type": "object", "properties": properties})


WEATHER = tool("get_weather", "Say what the weather is", city="Where")
MAIL = tool("sendEmail", "Write to somebody", subject="Of the mail")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("getWeatherForecast", {"get", "weather", "forecast"}),
        ("HTTPServer.list_files/v2", {"http", "server", "list", "fil", "v"}),
        ("planned plans planning", {"plan"}),
        ("cities city", {"cit"}),
        ("the of 42 what", set()),
        ("Grüße an Köln", {"grüß", "köln"}),
        ("", set()),
    ],
)
def test_names_are_split_and_endings_cut(text: str, expected: set[str]) -> None:
    assert words(text) == expected


def test_the_tool_whose_words_the_request_has_scores_best() -> None:
    scores = lexical_scores("What will the weather be in Paris?", [WEATHER, MAIL])
    assert scores["get_weather"] > scores["sendEmail"] == 0
    scores = lexical_scores("send an email to Bob", [WEATHER, MAIL])
    assert scores["sendEmail"] > scores["get_weather"] == 0


def test_a_word_counts_by_where_it_stands() -> None:
    of = {
        name: lexical_scores("harvest", [given])[given.name]
        for name, given in {
            "name": tool("harvest"),
            "description": tool("x", "Harvest"),
            "parameter": tool("x", "", harvest=""),
            "its description": tool("x", "", y="The harvest"),
        }.items()
    }
    assert of["name"] > of["description"] == of["parameter"] > of["its description"] > 0


def test_a_word_of_one_tool_counts_the_same_among_two_and_forty() -> None:
    others = [tool(f"other{letter}thing") for letter in "abcdefghijklmnopqrstuvwxyzabcdefghijklmno"]
    for n in (0, 1, 39):
        assert lexical_scores("the weather", [WEATHER, *others[:n]])["get_weather"] == pytest.approx(1 / 3)


def test_a_word_that_all_tools_have_says_little() -> None:
    tools = [tool(f"get_{name}") for name in ("weather", "mail", "news", "time", "stock")]
    scores = lexical_scores("get the news", tools)
    assert scores["get_news"] > 0.3
    assert 0 < scores["get_mail"] < 0.06


def test_properties_inside_objects_and_lists_are_read() -> None:
    inside = {"type": "object", "properties": {"postcode": {"type": "string"}}}
    nested = ToolSpec("x", "", {"properties": {"a": inside}})
    listed = ToolSpec("y", "", {"properties": {"a": {"type": "array", "items": inside}}})
    assert min(lexical_scores("a postcode", [nested, listed]).values()) > 0


@pytest.mark.parametrize(
    "parameters", [{}, {"properties": []}, {"properties": {"a": True}}, {"properties": {"a": 3}}]
)
def test_schemas_of_any_form_are_read(parameters: dict[str, Any]) -> None:
    assert lexical_scores("a", [ToolSpec("x", "", parameters)]) == {"x": 0.0}


def test_a_schema_that_holds_itself_ends() -> None:
    schema: dict[str, Any] = {"properties": {}}
    schema["properties"]["again"] = schema
    assert lexical_scores("again", [ToolSpec("x", "", schema)])["x"] > 0


def test_no_tools_have_no_scores() -> None:
    assert lexical_scores("anything", []) == {}


@given(request=st.text(max_size=60), names=st.lists(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), unique=True))
def test_scores_lie_between_0_and_1_whatever_is_asked(request: str, names: list[str]) -> None:
    scores = lexical_scores(request, [tool(name, request) for name in names])
    assert list(scores) == names
    assert all(0 <= score < 1 for score in scores.values())


def test_an_open_request_is_what_the_user_said_since_a_tool_was_called() -> None:
    told = [("system", "Be kind"), ("user", "book a table"), ("assistant", "When?"), ("user", "at eight")]
    assert open_request(told) == "book a table\nat eight"
    assert open_request([("user", "first"), ("assistant", ""), ("tool", "done"), ("user", "next")]) == "next"
    assert open_request([("user", str(n)) for n in range(5)]) == "2\n3\n4"


@pytest.mark.parametrize("last", ["tool", "assistant", "system"])
def test_where_the_user_did_not_speak_last_there_is_no_open_request(last: str) -> None:
    assert open_request([("user", "a"), (last, "b")]) is None


def test_an_empty_conversation_has_no_open_request() -> None:
    assert open_request([]) is None


def test_a_prior_is_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "prior.json"
    prior = DecisionPrior(lexical_weight=7.5, abstain_bias=-2)
    file.write_text(prior.model_dump_json(), encoding="utf-8")
    assert DecisionPrior.read(file) == prior


GOOD: dict[str, Any] = {"lexical_weight": 1.0, "abstain_bias": 0.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[1, 2]", "contains a list"),
        ("{", "is not JSON"),
        ('{"lexical_weight": NaN, "abstain_bias": 0}', "lexical_weight"),
        ('{"lexical_weight": 1, "abstain_bias": Infinity}', "abstain_bias"),
        ('{"lexical_weight": 1, "abstain_bias": -1e9}', "abstain_bias"),
        ('{"lexical_weight": -1, "abstain_bias": 0}', "lexical_weight"),
        ('{"lexical_weight": "1", "abstain_bias": 0}', "lexical_weight"),
        ('{"lexical_weight": true, "abstain_bias": 0}', "lexical_weight"),
        ('{"lexical_weight": 1}', "abstain_bias: Field required"),
        (json.dumps(GOOD | {"extra": 1}), "extra"),
        (json.dumps(GOOD | {"version": 2}), "version"),
        (json.dumps(GOOD | {"fitted": {"n_calls": 3}}), "fitted.n_abstentions"),
        ("[" * 100_000, "at most"),
        ("[" * 50_000, "is not JSON"),
        (json.dumps(GOOD) + " " * MAX_BYTES, "at most"),
    ],
)
def test_a_file_that_is_no_prior_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "prior.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        DecisionPrior.read(file)


def test_a_missing_prior_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        DecisionPrior.read(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        DecisionPrior.read(tmp_path)
