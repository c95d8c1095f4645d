"""Reference calls are parsed, never evaluated; states are plain data that can be compared."""

from __future__ import annotations

from typing import Any

import pytest

from agentkit.errors import UserError
from evals.tool_use.bfcl.multi_turn_calls import Call, named_arguments, parse_call
from evals.tool_use.bfcl.multi_turn_environment import too_costly
from evals.tool_use.bfcl.multi_turn_state import CYCLE, TOO_DEEP, attributes, differences, to_json


def test_a_reference_call_is_a_name_and_literals() -> None:
    assert parse_call("cd(folder='document')") == Call("cd", {"folder": "document"})
    assert parse_call(" mean([1, -2.5]) ") == Call("mean", {}, ([1, -2.5],))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "cd(folder=open('x'))",
        "cd(**{'folder': 'a'})",
        "cd",
        "cd(folder='a'); ls()",
        "cd(folder=",
        "a.b()",
        "f(" * 5000 + ")" * 5000,
        "",
    ],
)
def test_anything_else_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(UserError, match="is not a reference call.*wheel of bfcl-eval again"):
        parse_call(text)


def test_a_call_is_written_as_it_is_read() -> None:
    call = Call("f", {"a": "it's", "b": [1, {"c": None}]}, (True, -2.5))

    assert parse_call(str(call)) == call


def test_positional_arguments_take_the_names_in_order_of_declaration() -> None:
    assert named_arguments(Call("mv", {"destination": "b"}, ("a",)), ["source", "destination"]) == {
        "source": "a",
        "destination": "b",
    }


def test_more_positional_arguments_than_parameters_are_refused() -> None:
    with pytest.raises(UserError, match="2 positional arguments"):
        named_arguments(Call("cd", {}, ("a", "b")), ["folder"])


class Folder:
    """As the simulators' directories are."""

    def __init__(self, name: str, parent: Folder | None = None) -> None:
        self.name = name
        self.parent = parent
        self.contents: dict[str, Any] = {}
        self._touched = object()


class Holder:
    def __init__(self) -> None:
        self.root = Folder("root")
        self.ids = {3, 1}
        self._secret = 1


def test_state_is_the_public_attributes_all_the_way_down() -> None:
    holder = Holder()
    holder.root.contents["a"] = Folder("a", holder.root)

    assert attributes(holder) == {
        "root": {
            "class": "Folder",
            "name": "root",
            "contents": {"a": {"class": "Folder", "name": "a", "contents": {}}},
        },
        "ids": {1, 3},
    }


def test_a_folder_inside_itself_and_a_bottomless_one_come_to_an_end() -> None:
    holder = Holder()
    holder.root.contents["again"] = holder.root
    assert attributes(holder)["root"]["contents"]["again"] == CYCLE

    holder = bottomless = Holder()
    folder = bottomless.root
    for _ in range(5000):
        folder.contents["x"] = folder = Folder("x")
    assert TOO_DEEP in str(attributes(holder))


def test_states_compare_as_python_compares_and_are_kept_as_json() -> None:
    first = {"A": {"x": 1, "y": [(1, 2)], "z": {2, 1}}}

    assert differences(first, {"A": {"x": 1.0, "y": [(1, 2)], "z": {1, 2}}}) == []
    assert differences(first, {"A": {"x": 2, "y": [[1, 2]]}}) == ["A.x", "A.y"]
    assert differences(first, {"A": {"missing": None}}) == ["A.missing"]
    assert to_json(first) == {"A": {"x": 1, "y": [[1, 2]], "z": [1, 2]}}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("power", {"base": 10, "exponent": 10**9}),
        ("power", {"base": 10**4000, "exponent": -(10**4)}),
        ("square_root", {"number": 2, "precision": 10**9}),
        ("logarithm", {"value": 2, "base": 3, "precision": 10**9}),
        ("logarithm", {"value": 2, "base": 3, "precision": 1e9}),
        ("logarithm", {"value": 2, "base": 3, "precision": "1000000000"}),
        ("logarithm", {"value": "1e1000000000", "base": 3, "precision": 5}),
        ("logarithm", {"value": 2, "base": 10**1000, "precision": 5}),
        ("round_number", {"number": 5, "decimal_places": -(10**9)}),
    ],
)
def test_arithmetic_that_would_not_end_is_not_begun(name: str, arguments: dict[str, Any]) -> None:
    assert too_costly(name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("power", {"base": 2.5, "exponent": 10**9}),
        ("power", {"base": "2", "exponent": 3}),
        ("square_root", {"number": 2, "precision": 20}),
        ("logarithm", {"value": 2, "base": [3], "precision": None}),
        ("round_number", {"number": 5}),
        ("cd", {"folder": "x", "precision": 10**9}),
    ],
)
def test_everything_else_is_for_the_simulator_to_judge(name: str, arguments: dict[str, Any]) -> None:
    assert too_costly(name, arguments) is None
