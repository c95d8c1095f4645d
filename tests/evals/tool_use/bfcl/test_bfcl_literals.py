"""Java and JavaScript literals, read as BFCL reads them."""

from __future__ import annotations

from typing import Any

import pytest

from evals.tool_use.bfcl.java import java_value
from evals.tool_use.bfcl.javascript import javascript_value
from evals.tool_use.bfcl.literals import MAX_LITERAL_CHARS, UnsupportedTypeError


@pytest.mark.parametrize(
    ("text", "declared", "inner", "expected"),
    [
        ("127", "byte", None, 127),
        ("-5", "short", None, -5),
        ("5.0", "integer", None, "5.0"),
        ("5L", "long", None, 5),
        ("5", "long", None, "5"),
        ("3.5f", "float", None, 3.5),
        ("3.5", "float", None, "3.5"),
        ("3e-2", "double", None, 0.03),
        ("true", "boolean", None, True),
        ("True", "boolean", None, "True"),
        ("'a'", "char", None, "'a'"),
        ("new int[]{1, 2,, 3}", "Array", "integer", [1, 2, 3]),
        ("new int[] { }", "Array", "integer", []),
        ("new long[]{1L, 2}", "Array", "long", [1, "2"]),
        ("{1, 2}", "Array", "integer", "{1, 2}"),
        ('new ArrayList<>(Arrays.asList("a", "b"))', "ArrayList", "String", ["a", "b"]),
        ("new ArrayList<>(Arrays.asList(1, true, x))", "ArrayList", None, [1, True, "x"]),
        ("new ArrayList<Float>() {{ add(1.0f); add(2.0f); }}", "ArrayList", "float", [1.0, 2.0]),
        ("new ArrayList<>() {{ }}", "ArrayList", "float", []),
        ("new ArrayList<>()", "ArrayList", "String", []),
        ("List.of(1)", "ArrayList", "integer", "List.of(1)"),
        ('new HashMap<>() {{ put("a", "x"); put("b", 2L); put("c", 1.5f); }}', "HashMap", None,
         {"a": "x", "b": 2, "c": 1.5}),
        ("new HashMap<>() {{}}", "HashMap", None, {}),
        ("new HashMap<>()", "HashMap", None, {}),
        ('Map.of("a", 1)', "HashMap", None, 'Map.of("a", 1)'),
    ],
)  # fmt: skip
def test_a_java_literal_becomes_its_value_and_other_text_stays(
    text: str, declared: str, inner: str | None, expected: Any
) -> None:
    value = java_value(text, declared, inner)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "declared", "inner", "expected"),
    [
        ("'a'", "String", None, "a"),
        ('"a', "String", None, '"a'),
        ("12", "integer", None, 12),
        ("1.5", "float", None, 1.5),
        ("12n", "Bigint", None, 12),
        ("12", "Bigint", None, "12"),
        ("12n\n", "Bigint", None, "12n\n"),
        ("false", "Boolean", None, False),
        ("x => x", "any", None, "x => x"),
        ("[1, 'two', true]", "array", None, [1, "two", True]),
        ("new Array(1, 2)", "array", "integer", [1, 2]),
        ("[1n, 2]", "array", "Bigint", [1, "2"]),
        ("[]", "array", "String", []),
        (" [ [1, 2], [3], ['a'] ] ", "array", "array", [[1, 2], [3], ["a"]]),
        ("new Array([1], [2])", "array", "array", [[1], [2]]),
        ("[[1], [2]", "array", None, ["[1"]),
        ("items", "array", "String", "items"),
        ("{}", "dict", None, {}),
        ("{'a': 1, b: [1, 2], \"c\": 'x, y: z'}", "dict", None, {"a": 1, "b": [1, 2], "c": "x", "y": "z"}),
        ("{a: {b: 1}}", "dict", None, {"a": "{b: 1"}),
        ("obj", "dict", None, "obj"),
    ],
)
def test_a_javascript_literal_becomes_its_value_and_other_text_stays(
    text: str, declared: str, inner: str | None, expected: Any
) -> None:
    value = javascript_value(text, declared, inner)
    assert value == expected
    assert type(value) is type(expected)


def test_types_whose_literals_are_not_read_are_refused() -> None:
    with pytest.raises(UnsupportedTypeError, match="Set"):
        java_value("new HashSet<>()", "Set")
    with pytest.raises(UnsupportedTypeError, match="Map"):
        javascript_value("new Map()", "Map")


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("[[" + "],[" * 3_000, "array"),
        ("[[]" + ",[]" * 3_000 + "x", "array"),
        ("{a:" + ", " * 4_900 + "}", "dict"),
        ("[" * 9_999, "array"),
    ],
)
def test_hostile_javascript_is_read_in_time(text: str, declared: str) -> None:
    """The original's regular expression takes exponential time on the first two; this would never end."""
    assert javascript_value(text, declared) is not None


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("new ArrayList<>(){{" + " " * 9_900, "ArrayList"),
        ("new HashMap<" * 300 + ">(){" * 1_200, "HashMap"),
        ("new HashMap<>(){ " + 'put("a",' * 1_200 + "}", "HashMap"),
        ("new HashMap<>(){" + " " * 9_900, "HashMap"),
    ],
)
def test_hostile_java_is_read_in_time(text: str, declared: str) -> None:
    assert java_value(text, declared) is not None


def test_text_beyond_any_key_is_left_as_it_is() -> None:
    text = "[" + "1," * MAX_LITERAL_CHARS + "1]"
    assert javascript_value(text, "array") == text
    assert java_value("1" * (MAX_LITERAL_CHARS + 1), "integer") == "1" * (MAX_LITERAL_CHARS + 1)
    assert java_value("1" * 5_000, "integer") == "1" * 5_000  # more digits than Python reads
