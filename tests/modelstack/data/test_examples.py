"""Files of examples are read back as they were written; hostile ones are refused with place, value and rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from modelstack.data import examples as file_format
from modelstack.data.examples import (
    Call,
    Example,
    Message,
    as_line,
    check_example,
    read_examples,
    tool_names_of_results,
    write_examples,
)
from modelstack.errors import UserError

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data" / "tooluse"
WEATHER = {
    "name": "get_weather",
    "description": "Forecast for a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
        "required": ["city"],
    },
}


def record(**changes: Any) -> dict[str, Any]:
    """Return a valid example as JSON, with some fields changed; None takes a field away."""
    base = {
        "id": "a-1",
        "source": "made",
        "license": "CC0-1.0",
        "split": "train",
        "kind": "call",
        "tools": [WEATHER],
        "messages": [{"role": "user", "content": "Weather in Köln?"}],
        "calls": [{"name": "get_weather", "arguments": {"city": "Köln"}}],
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def example(**changes: Any) -> Example:
    return Example.model_validate_json(json.dumps(record(**changes)))


def refusal(path: Path, content: bytes) -> str:
    """Return what is said of a file."""
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_examples(path))
    return str(caught.value)


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.zst"])
def test_examples_are_read_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    several = [
        example(),
        example(id="a-2", kind="clarify", calls=[], reply="Which city?"),
        example(
            id="a-3",
            messages=[
                {"role": "user", "content": "x"},
                {"role": "assistant", "calls": [{"name": "get_weather", "arguments": {}}], "train": True},
                {"role": "tool", "content": "sun", "name": "get_weather"},
            ],
        ),
    ]
    assert write_examples(tmp_path / name, several) == 3
    assert list(read_examples(tmp_path / name)) == several


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.jsonl.zst", "two.jsonl.zst"):
        write_examples(tmp_path / name, [example(), example(id="b")])
    assert (tmp_path / "one.jsonl.zst").read_bytes() == (tmp_path / "two.jsonl.zst").read_bytes()


def test_a_written_line_has_the_fields_of_the_shared_data() -> None:
    line = json.loads(as_line(example(kind="irrelevant", calls=[])))
    assert list(line) == ["id", "source", "license", "kind", "tools", "messages", "split", "calls"]
    assert line["messages"] == [{"role": "user", "content": "Weather in Köln?"}]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl.zst"
    write_examples(path, [example()])

    def broken() -> Any:
        yield example(id="b")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_examples(path, broken())
    assert [each.id for each in read_examples(path)] == ["a-1"]
    assert list(tmp_path.iterdir()) == [path]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    ),
    st.text(st.characters(codec="utf-8")),
)
def test_any_json_survives_a_line(arguments: dict[str, Any], content: str) -> None:
    try:
        one = Example(
            id="x",
            source="s",
            license="l",
            kind="call",
            messages=(Message(role="user", content=content),),
            calls=(Call(name="f", arguments=arguments),),
        )
    except ValueError as error:
        assert "surrogates not allowed" in str(error)
        return
    line = as_line(one)
    assert line.count(b"\n") == 1
    assert Example.model_validate_json(line) == one


@pytest.mark.parametrize(
    ("changes", "place", "rule"),
    [
        ({"id": None}, "id", "Field required"),
        ({"id": 7}, "id", "valid string (given: 7)"),
        ({"colour": "red"}, "colour", "Extra inputs are not permitted (given: 'red')"),
        ({"kind": "chat"}, "kind", "'call', 'parallel'"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "(given: 'robot')"),
        ({"messages": [{"role": "user", "content": "x", "train": True}]}, "messages.0", "this one is user"),
        ({"messages": [{"role": "user", "content": "x", "name": "f"}]}, "messages.0", "for the role tool"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the example", "last message is the assistant's"),
        ({"calls": [{"name": 'a"b', "arguments": {}}]}, "calls.0", "use letters, digits"),
        ({"calls": [{"name": "f", "arguments": [1]}]}, "calls.0.arguments", "(given: [1])"),
        ({"reply": "Sure."}, "the example", "the target is one of them"),
        ({"reply": "", "calls": []}, "reply", "at least 1 character"),
        ({"tools": [WEATHER, WEATHER]}, "the example", "'get_weather' is given twice"),
    ],
)
def test_a_wrong_field_is_refused_with_line_place_and_rule(
    tmp_path: Path, changes: dict[str, Any], place: str, rule: str
) -> None:
    path = tmp_path / "some.jsonl"
    said = refusal(path, as_line(example(id="first")) + b"\n" + json.dumps(record(**changes)).encode())
    assert said.startswith(f"{path}, line 3: {place}: ")
    assert rule in said


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"id": "a"', "Invalid JSON"),
        (b"[1, 2]", "(given: [1, 2])"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (json.dumps(record()).replace('"K\\u00f6ln"}', "NaN}").encode(), "not a JSON value"),
        (json.dumps(record()).replace('"K\\u00f6ln"}', "1e999}").encode(), "not a JSON value"),
        (json.dumps(record()).replace("\\u00f6", "\\ud800").encode(), "Invalid JSON"),
    ],
    ids=["cut", "list", "not utf-8", "deep", "nan", "overflow", "surrogate"],
)
def test_a_line_that_is_no_example_is_refused_by_its_number(tmp_path: Path, line: bytes, rule: str) -> None:
    path = tmp_path / "some.jsonl"
    said = refusal(path, line)
    assert said.startswith(f"{path}, line 1: ")
    assert rule in said
    assert len(said) < 500 + len(str(path))


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    assert "line 2: id 'a-1' occurs twice" in refusal(tmp_path / "some.jsonl", as_line(example()) * 2)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read: No such file"):
        next(read_examples(tmp_path / "none.jsonl"))


def test_a_file_that_is_no_zstd_is_refused(tmp_path: Path) -> None:
    assert "is not a complete zstd file" in refusal(tmp_path / "some.jsonl.zst", as_line(example()))


def test_a_file_that_was_cut_short_is_refused_even_between_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    content = compressor.compress(as_line(example())) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert "is truncated" in refusal(path, content)
    assert "is truncated" in refusal(path, b"")


def test_zstd_files_that_were_joined_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl.zst"
    path.write_bytes(b"".join(zstandard.compress(as_line(example(id=name))) for name in "ab"))
    assert [each.id for each in read_examples(path)] == ["a", "b"]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_format, "LONGEST_LINE", 1000)
    path = tmp_path / "some.jsonl.zst"
    said = refusal(path, zstandard.compress(as_line(example()) + b" " * 100_000))
    assert "line 2: over 1000 bytes without line end" in said


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"calls": [{"name": "get_weather", "arguments": {}}]}, "'city' is a required property"),
        ({"calls": [{"name": "get_weather", "arguments": {"city": "x", "days": 0}}]}, "/days: 0 is less than"),
        ({"calls": [{"name": "get_weather", "arguments": {"city": "x", "day": 1}}]}, "'day' is not allowed"),
        ({"calls": [{"name": "weather", "arguments": {}}]}, "the tools shown are ['get_weather']"),
        ({"kind": "multi", "calls": []}, "kind 'multi' with 0 calls"),
        ({"kind": "answer"}, "kind 'answer' with 1 calls"),
        ({"tools": [WEATHER | {"parameters": {"type": "text"}}]}, "parameters are not a valid schema"),
        ({"tools": [WEATHER | {"parameters": {"$ref": "http://x/y"}}]}, "parameters are not a valid schema"),
        (
            {
                "messages": [
                    {"role": "assistant", "calls": [{"name": "get_weather", "arguments": {}}], "train": True},
                    {"role": "tool", "content": "sun"},
                ]
            },
            "'city' is a required property",
        ),
    ],
)
def test_a_call_that_does_not_fit_is_refused_with_the_examples_id(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError) as caught:
        check_example(example(**changes))
    assert str(caught.value).startswith("example 'a-1' (made)")
    assert rule in str(caught.value)


def test_earlier_calls_that_are_not_learnt_may_be_of_any_tool() -> None:
    before = [{"role": "assistant", "calls": [{"name": "other", "arguments": {"x": 1}}]}, {"role": "tool"}]
    check_example(example(messages=before))


def test_a_tools_result_takes_its_name_from_the_call_in_the_same_place() -> None:
    calls = [{"name": "f"}, {"name": "g"}]
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "calls": calls},
        *[{"role": "tool", "content": "1"}] * 3,
        {"role": "tool", "content": "1", "name": "h"},
    ]
    assert tool_names_of_results(example(messages=messages).messages) == [None, None, "f", "g", "g", "h"]


def test_a_tools_result_without_a_call_is_refused() -> None:
    with pytest.raises(UserError, match="follows no call"):
        tool_names_of_results(example(messages=[{"role": "tool", "content": "1"}]).messages)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
@pytest.mark.parametrize("name", ["validation-open.jsonl.zst", "validation-sgd.jsonl.zst"])
def test_the_shared_data_is_read_and_every_call_fits(name: str) -> None:
    several = list(read_examples(SHARED / name))
    for each in several:
        check_example(each)
    assert len(several) > 400
