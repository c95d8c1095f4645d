"""Checks one argument against the acceptable values of its parameter, by BFCL's rules.

First the type, which must be exactly the schema's: an integer is accepted for a float, a boolean is not an
integer, list elements are checked one level deep. Then the value: text is compared without case, spaces and
`,./-_*^`; lists in order; objects entry by entry, each with its own acceptable values. `""` among the acceptable
values means that the parameter is optional.

A key may also hold a value of another type than the schema's, usually text that stands for a variable of the
user's code. Then a value of the key's type is accepted as well, and compared exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.tool_use.bfcl.data import Language
from evals.tool_use.bfcl.java import java_value
from evals.tool_use.bfcl.javascript import javascript_value
from evals.tool_use.bfcl.literals import UnsupportedTypeError
from modelstack.reasoning.verifiers.calls import standardised

_PYTHON_TYPES: Mapping[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
_JAVA_TYPES: Mapping[str, type] = {
    "byte": int, "short": int, "integer": int, "float": float, "double": float, "long": int, "boolean": bool,
    "char": str, "Array": list, "ArrayList": list, "Set": set, "HashMap": dict, "Hashtable": dict, "Queue": list,
    "Stack": list, "String": str, "any": str,
}  # fmt: skip
_JAVASCRIPT_TYPES: Mapping[str, type] = {
    "String": str, "integer": int, "float": float, "Bigint": int, "Boolean": bool, "dict": dict, "array": list,
    "any": str,
}  # fmt: skip
_TYPES: Mapping[Language, Mapping[str, type]] = {
    "python": _PYTHON_TYPES,
    "java": _JAVA_TYPES,
    "javascript": _JAVASCRIPT_TYPES,
}
_LISTS: Mapping[Language, tuple[str, ...]] = {
    "python": ("array", "tuple"),
    "java": ("Array", "ArrayList"),
    "javascript": ("array",),
}
"""Types whose elements have a checked type."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether calls are correct, and the errors if not."""

    valid: bool
    errors: tuple[str, ...] = ()
    error_type: str = ""
    """Kind of the first error, with the original's name."""


def wrong(error_type: str, *errors: str) -> Verdict:
    """Return a negative verdict."""
    return Verdict(False, errors, error_type)


RIGHT = Verdict(True)


def check_value(
    parameter: str, value: Any, schema: Mapping[str, Any], acceptable: Sequence[Any], language: Language
) -> Verdict:
    """Return whether `value` is acceptable for a parameter.

    Args:
        parameter: Name of the parameter, for messages.
        value: The model's value; for Java and JavaScript, text that holds a literal.
        schema: The parameter's schema in BFCL's dialect.
        acceptable: Acceptable values of the key.
        language: Language of the literals.
    """
    declared = schema["type"]
    types = _TYPES[language]
    expected = types.get(declared)
    inner_name = _inner_type(schema) if declared in _LISTS[language] else None
    inner = types.get(inner_name) if inner_name is not None else None
    if expected is None or (declared in _LISTS[language] and inner is None):
        return wrong(
            "schema:unsupported_type", f"the schema of {parameter!r} has a type that BFCL's rules do not know"
        )
    if language == "python":
        value = _as_declared(value, declared)
    elif not isinstance(value, str):
        kind = "java" if language == "java" else "js"
        return wrong(f"type_error:{kind}", f"{parameter!r} is {value!r}, expected text with a {language} literal")
    else:
        convert = java_value if language == "java" else javascript_value
        try:
            value = convert(value, declared, inner_name)
        except UnsupportedTypeError as error:
            return wrong("schema:unsupported_type", f"{parameter!r}: {error}")
    fits, is_variable = _type_fits(value, acceptable, expected, inner)
    if not fits:
        return _type_error(parameter, value, acceptable, expected, declared)
    if not is_variable and expected in (dict, str, list):
        return _check_by_type(parameter, value, acceptable, expected, inner)
    if value not in acceptable:
        return wrong("value_error:others", f"{parameter!r} is {value!r}, expected one of {list(acceptable)!r}")
    return RIGHT


def _inner_type(schema: Mapping[str, Any]) -> str | None:
    items = schema.get("items")
    return items.get("type") if isinstance(items, Mapping) else None


def _as_declared(value: Any, declared: str) -> Any:
    if declared == "tuple" and type(value) is tuple:
        return list(value)
    if declared == "float" and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return value
    return value


def _type_of_key(acceptable: Sequence[Any]) -> type | None:
    """Return the type of the first acceptable value other than `""` (optional parameter), or None."""
    return next((type(value) for value in acceptable if value != ""), None)


def _type_fits(value: Any, acceptable: Sequence[Any], expected: type, inner: type | None) -> tuple[bool, bool]:
    """Return whether the type matches, and whether the value counts as a variable, which is compared exactly."""
    of_key = _type_of_key(acceptable)
    is_variable = of_key is not None and of_key is not expected
    if type(value) is expected:
        return inner is None or _elements_fit(value, acceptable, inner), is_variable
    return of_key is not None and type(value) is of_key, True


def _elements_fit(values: Sequence[Any], acceptable: Sequence[Any], inner: type) -> bool:
    """Return whether all elements have the declared type, or the type of the elements of one acceptable list.

    As in the original, an acceptable value that is not a list accepts any elements; `""`, the mark of an optional
    parameter, does so too.
    """
    for option in acceptable:
        if type(option) is not list:
            return True
        of_key = _type_of_key(option)
        if all(type(value) is inner or (of_key is not None and type(value) is of_key) for value in values):
            return True
    return False


def _type_error(parameter: str, value: Any, acceptable: Sequence[Any], expected: type, declared: str) -> Verdict:
    nested = type(value) is expected and _type_of_key(acceptable) is expected
    return wrong(
        "type_error:nested" if nested else "type_error:simple",
        f"{parameter!r} is {value!r}, expected {declared}" + (" with elements of its type" if nested else ""),
    )


def _check_by_type(
    parameter: str, value: Any, acceptable: Sequence[Any], expected: type, inner: type | None
) -> Verdict:
    if expected is dict:
        return _check_dict(parameter, value, acceptable)
    if expected is str:
        return _check_text(parameter, value, acceptable)
    if inner is dict:
        return _check_dicts(parameter, value, acceptable)
    return _check_list(parameter, value, acceptable)


def _check_text(parameter: str, value: str, acceptable: Sequence[Any]) -> Verdict:
    if standardised(value) in [standardised(option) for option in acceptable if type(option) is str]:
        return RIGHT
    return wrong("value_error:string", f"{parameter!r} is {value!r}, expected one of {list(acceptable)!r}")


def _check_list(parameter: str, values: Sequence[Any], acceptable: Sequence[Any]) -> Verdict:
    """Compare a list, in order, with each acceptable list; text elements are normalised.

    As in the original, acceptable text is treated as the list of its characters. The empty list is therefore
    accepted for an optional parameter.
    """
    options = [_standardised_elements(option) for option in acceptable if isinstance(option, list | str)]
    if _standardised_elements(values) in options:
        return RIGHT
    return wrong("value_error:list/tuple", f"{parameter!r} is {values!r}, expected one of {list(acceptable)!r}")


def _check_dict(parameter: str, value: Mapping[str, Any], acceptable: Sequence[Any]) -> Verdict:
    """Compare an object with each acceptable object; the last reason is reported, as in the original."""
    verdict = wrong("dict_checker:unclear", f"{parameter!r} is {value!r}, expected one of {list(acceptable)!r}")
    for option in acceptable:
        if option == "" or not isinstance(option, Mapping):
            continue
        verdict = _check_entries(parameter, value, option)
        if verdict.valid:
            return verdict
    return verdict


def _check_entries(parameter: str, value: Mapping[str, Any], option: Mapping[str, Sequence[Any]]) -> Verdict:
    missing = [key for key, values in option.items() if key not in value and not _holds_empty(values)]
    if missing:
        return wrong("value_error:dict_key", f"{parameter!r} lacks the key {missing[0]!r}")
    for key, found in value.items():
        if key not in option:
            return wrong("value_error:dict_key", f"{parameter!r} has the unexpected key {key!r}")
        values = option[key]
        if not isinstance(values, list | str) or _plain(found) not in _standardised_elements(values):
            return wrong(
                "value_error:dict_value", f"{parameter}[{key!r}] is {found!r}, expected one of {values!r}"
            )
    return RIGHT


def _check_dicts(parameter: str, values: Sequence[Any], acceptable: Sequence[Any]) -> Verdict:
    """Compare a list of objects, in order, with each acceptable list of objects.

    As in the original, the empty list is accepted for an optional parameter.
    """
    verdict = wrong(
        "list_dict_checker:unclear", f"{parameter!r} is {values!r}, expected one of {list(acceptable)!r}"
    )
    for option in acceptable:
        if not isinstance(option, list | str) or len(option) != len(values):
            verdict = wrong("value_error:list_dict_count", f"{parameter!r} has {len(values)} elements")
            continue
        verdict = RIGHT
        for value, expected in zip(values, option, strict=True):
            if not isinstance(value, Mapping):
                verdict = wrong(
                    "value_error:list_dict_element", f"{parameter!r} holds {value!r}, expected an object"
                )
            else:
                verdict = _check_dict(parameter, value, [expected])
            if not verdict.valid:
                break
        if verdict.valid:
            return RIGHT
    return verdict


def _standardised_elements(values: Sequence[Any]) -> list[Any]:
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    return standardised(value) if type(value) is str else value


def _holds_empty(values: Any) -> bool:
    return isinstance(values, Sequence) and "" in values
