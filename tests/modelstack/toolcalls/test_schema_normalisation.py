from __future__ import annotations

from typing import Any

import pytest
import tool_sets
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from modelstack.toolcalls.grammar.pointers import SchemaReferenceError
from modelstack.toolcalls.grammar.schemas import MergeError, exclusive, normalise

S = {"type": "string"}
I = {"type": "integer"}  # noqa: E741


def arguments(schema: Any) -> dict[str, Any]:
    return normalise(schema, is_arguments=True)


def test_an_object_that_is_silent_about_other_properties_is_closed() -> None:
    assert arguments({"type": "object", "properties": {"a": S}})["additionalProperties"] is False


@pytest.mark.parametrize("opening", [True, {"type": "string"}])
def test_an_object_that_opens_itself_stays_open(opening: Any) -> None:
    schema = arguments({"type": "object", "properties": {"a": S}, "additionalProperties": opening})
    assert schema["additionalProperties"] == opening


def test_nested_objects_are_closed_and_free_dictionaries_stay_open() -> None:
    schema = arguments({"properties": {"o": {"type": "object", "properties": {"k": S}}, "d": {"type": "object"}}})
    assert schema["properties"]["o"]["additionalProperties"] is False
    assert schema["properties"]["d"]["additionalProperties"] is True


def test_arguments_without_schema_take_nothing() -> None:
    assert arguments({}) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_all_of_is_folded_and_closed_with_all_its_properties() -> None:
    schema = arguments({"allOf": [{"properties": {"a": S}, "required": ["a"]}, {"properties": {"b": I}}]})
    assert schema["properties"] == {"a": S, "b": I}
    assert schema["required"] == ["a"]
    assert schema["additionalProperties"] is False


def test_siblings_of_any_of_are_given_to_each_branch() -> None:
    schema = arguments({"properties": {"a": S, "b": S}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})
    assert [branch["required"] for branch in schema["anyOf"]] == [["a"], ["b"]]
    assert all(branch["additionalProperties"] is False for branch in schema["anyOf"])


def test_a_reference_with_siblings_is_folded_and_a_recursive_one_kept() -> None:
    schema = arguments(tool_sets.TREE | {"properties": {"root": {"$ref": "#/$defs/node", "required": ["child"]}}})
    root = schema["properties"]["root"]
    assert sorted(root["required"]) == ["child", "label"]
    name = root["properties"]["child"]["$ref"].rsplit("/", 1)[-1]
    assert schema["$defs"][name]["properties"]["child"] == root["properties"]["child"]


@pytest.mark.parametrize("reference", ["http://example.org/s.json", "other.json#/a", "#/nowhere", "#anchor"])
def test_references_that_leave_the_document_are_refused(reference: str) -> None:
    with pytest.raises(SchemaReferenceError):
        arguments({"properties": {"a": {"$ref": reference}}})


def test_a_reference_to_an_anchor_is_found() -> None:
    schema = arguments({"properties": {"a": {"$ref": "#x"}}, "$defs": {"q": {"$anchor": "x", "type": "string"}}})
    assert schema["$defs"]["0"] == S


def test_a_reference_that_only_leads_to_itself_is_refused() -> None:
    with pytest.raises(MergeError):
        arguments(
            {
                "properties": {"a": {"$ref": "#/$defs/a", "type": "string"}},
                "$defs": {"a": {"$ref": "#/$defs/a", "minLength": 1}},
            }
        )


def test_one_of_branches_that_exclude_each_other_become_any_of() -> None:
    circle = {"properties": {"kind": {"const": "circle"}}, "required": ["kind"]}
    box = {"properties": {"kind": {"enum": ["box", "cube"]}}, "required": ["kind"]}
    assert exclusive(circle, box, {})
    assert "anyOf" in arguments({"properties": {"s": {"oneOf": [circle, box]}}})["properties"]["s"]
    assert not exclusive({"type": "number"}, {"type": "integer"}, {})
    assert not exclusive({"const": 1}, {"const": 1.0}, {})
    assert exclusive({"const": 1}, {"const": True}, {})


def test_required_names_that_are_not_declared_are_declared() -> None:
    assert arguments({"properties": {}, "required": ["q"]})["properties"] == {"q": {}}


def test_what_cannot_be_folded_is_an_error_that_names_the_keyword() -> None:
    with pytest.raises(MergeError, match="multipleOf"):
        arguments({"properties": {"a": {"allOf": [{"multipleOf": 2}, {"multipleOf": 3}]}}})


leaves = st.sampled_from(
    [
        S,
        I,
        {"type": "boolean"},
        {"enum": ["x", 1]},
        {"type": ["string", "null"]},
        {"type": "number", "minimum": 2},
    ]
)
fields = st.dictionaries(st.sampled_from("abc"), leaves, max_size=3)
objects = st.builds(
    lambda properties, required: {"type": "object", "properties": properties, "required": required},
    fields,
    st.lists(st.sampled_from("abc"), unique=True, max_size=2),
)
composed = st.recursive(
    objects,
    lambda inner: (
        st.builds(
            lambda k, parts: {k: parts},
            st.sampled_from(["allOf", "anyOf"]),
            st.lists(inner, min_size=1, max_size=3),
        )
        | st.builds(
            lambda base, k, parts: {**base, k: parts},
            objects,
            st.sampled_from(["allOf", "anyOf"]),
            st.lists(inner, min_size=1, max_size=2),
        )
    ),
    max_leaves=6,
)
instances = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y", 1, 3, True, None]), max_size=3)


@given(composed, instances)
def test_what_the_closed_form_accepts_the_original_accepts(
    schema: dict[str, Any], instance: dict[str, Any]
) -> None:
    closed = arguments(schema)
    if Draft202012Validator(closed).is_valid(instance):
        assert Draft202012Validator(schema).is_valid(instance)


def declared(schema: dict[str, Any]) -> set[str]:
    names = set(schema.get("properties", {})) | set(schema.get("required", ()))
    return names.union(*(declared(part) for part in (*schema.get("allOf", ()), *schema.get("anyOf", ()))))


@given(objects, st.lists(objects, max_size=2), instances)
def test_without_any_of_only_undeclared_names_are_lost_by_closing(
    base: dict[str, Any], parts: list[dict[str, Any]], instance: dict[str, Any]
) -> None:
    schema = {**base, "allOf": parts} if parts else base
    kept = {key: value for key, value in instance.items() if key in declared(schema)}
    assert Draft202012Validator(arguments(schema)).is_valid(kept) == Draft202012Validator(schema).is_valid(kept)
