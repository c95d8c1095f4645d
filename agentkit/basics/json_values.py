"""Values as JSON data: a tool result has the same form for the model, the application and every store.

The data equal the result of parsing their own JSON text, so an accepted value can be stored and read any number of
times without change: tuples and sets are lists, keys and dates are strings. JSON has no NaN and no infinity; they
become the strings "NaN", "Infinity" and "-Infinity", which `float` parses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from agentkit.basics.well_formed import well_formed_data
from modelstack.nesting import is_nested_deeper

MAX_NESTING = 100
"""Maximum nesting levels of a value. jiter stops at 200, and a stored state adds some levels around the value."""


class NoJSONForm(ValueError):
    """A value that cannot be written as JSON, or does not survive a round trip."""


def json_form(value: Any) -> tuple[str, Any]:
    """Return a value as JSON text, and as the data parsed from that text.

    Raises:
        NoJSONForm: the value has no JSON form; the message gives the reason.
    """
    from pydantic_core import to_json

    text = _written(value)
    try:
        data, had_constants = _parsed(text)
    except ValueError as error:
        raise NoJSONForm(_why_unreadable(str(error))) from error
    standard = to_json(data)
    if standard != text and not had_constants:
        raise NoJSONForm("two keys of one object are written alike")
    if standard.count(b"[") + standard.count(b"{") > MAX_NESTING and is_nested_deeper(data, MAX_NESTING):
        raise NoJSONForm(f"it is nested more than {MAX_NESTING} levels deep")
    return standard.decode(), data


def written_json(value: Any) -> bytes:
    """Return any value as JSON: parts without a JSON form become text, NaN and infinity strings."""
    import pydantic_core  # names taken from it would cost as much as a small value

    try:
        return pydantic_core.to_json(value, inf_nan_mode="strings", serialize_unknown=True)
    except pydantic_core.PydanticSerializationError:  # lone surrogates, for example in an error's message
        plain = pydantic_core.to_jsonable_python(value, inf_nan_mode="strings", serialize_unknown=True)
        return pydantic_core.to_json(well_formed_data(plain))


def parsed_json(text: bytes | str) -> Any:
    """Return the data of a JSON text; the non-standard constants NaN and Infinity become strings.

    Journals of earlier versions contain such constants.

    Raises:
        ValueError: the text is not JSON.
    """
    return _parsed(text)[0]


def _parsed(text: bytes | str) -> tuple[Any, bool]:
    """Return the data of a text, and whether it contained NaN or Infinity, which a pydantic model may write."""
    from pydantic_core import from_json, to_json

    try:
        return from_json(text, allow_inf_nan=False), False
    except ValueError:
        return from_json(to_json(from_json(text), inf_nan_mode="strings"), allow_inf_nan=False), True


def _written(value: Any) -> bytes:
    from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

    if isinstance(value, Iterator):
        value = list(cast("Iterator[Any]", value))  # the fallback below would find the iterator exhausted
    try:
        try:
            return to_json(value, inf_nan_mode="strings")
        except (PydanticSerializationError, UnicodeEncodeError):  # lone surrogates, or an unserialisable value
            data = to_jsonable_python(well_formed_data(value), inf_nan_mode="strings")
            return to_json(well_formed_data(data))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise NoJSONForm(str(error)) from error


def _why_unreadable(said: str) -> str:
    if "out of range" in said:
        return "it holds an integer of more digits than Python reads (4300)"
    return f"it is nested more than {MAX_NESTING} levels deep" if "recursion" in said else said
