"""Mutations of correct answers, for comparing two checkers.

Each mutation takes calls and changes one thing with a seeded generator. It does not say whether the result is
still correct. `literal_mutations` adds mutations for Java and JavaScript. `several_changes` combines mutations,
because one rule may meet a value that another rule has accepted.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evals.tool_use.bfcl.data import Question
from evals.tool_use.bfcl.renderings import Calls

_OF_VALUES = ("value:", "text:", "number:", "list:", "dict:", "literal:")
"""Prefixes of the mutations that change only values, not calls or parameters."""

Mutation = Callable[[Calls, Question, random.Random], Calls | None]
"""Returns changed calls (the given calls may be modified), or None if the mutation does not apply."""

_ODD_TEXT = (
    "",
    " ",
    "é",
    "ＡＢＣ",
    "İstanbul",
    "straße",
    "a\u200bb",
    "日本",
    "'",
    '"',
    "None",
    "null",
    "🙂",
    "-",
    ".",
)
_ODD_VALUES: Mapping[str, Any] = {
    "int": 7, "float": 7.5, "bool": True, "str": "seven", "none": None, "list": [1, 2], "empty list": [],
    "dict": {"a": 1}, "empty dict": {}, "tuple": (1, 2), "empty text": "", "nan": math.nan, "infinity": math.inf,
    "huge": 10**400, "list of dicts": [{"a": 1}], "list of lists": [[1], [2]],
}  # fmt: skip


def mutants(
    question: Question, right: Calls, kinds: Mapping[str, Mutation], draw: random.Random
) -> Iterator[tuple[str, Calls]]:
    """Yield kind and calls of every applicable mutation of a correct answer, once each."""
    for kind, mutate in kinds.items():
        changed = mutate(copy.deepcopy(right), question, draw)
        if changed is not None:
            yield kind, changed


def several_changes(question: Question, right: Calls, kinds: Mapping[str, Mutation], draw: random.Random) -> Calls:
    """Return a correct answer after two to four value mutations.

    A mutation that does not apply changes nothing.
    """
    of_values = [mutate for kind, mutate in kinds.items() if kind.startswith(_OF_VALUES)]
    calls = copy.deepcopy(right)
    for mutate in draw.choices(of_values, k=draw.randint(2, 4)):
        calls = mutate(copy.deepcopy(calls), question, draw) or calls
    return calls


# -- mutations of calls ---------------------------------------------------------------------------------------


def _on_call(change: Callable[[str, dict[str, Any], Question, random.Random], Any]) -> Mutation:
    """Return a mutation of one call; `change` returns a new (name, arguments), or None if it does not apply."""

    def mutate(calls: Calls, question: Question, draw: random.Random) -> Calls | None:
        at = draw.randrange(len(calls))
        ((name, arguments),) = calls[at].items()
        changed = change(name, arguments, question, draw)
        if changed is None:
            return None
        calls[at] = {changed[0]: changed[1]}
        return calls

    return mutate


def _on_value(change: Callable[[Any, random.Random], Any]) -> Mutation:
    """Return a mutation of one argument; `change` returns `_KEEP` if it does not apply."""

    def change_one(name: str, arguments: dict[str, Any], _: Question, draw: random.Random) -> Any:
        for parameter in draw.sample(list(arguments), len(arguments)):
            changed = change(arguments[parameter], draw)
            if changed is not _KEEP:
                return name, {**arguments, parameter: changed}
        return None

    return _on_call(change_one)


_KEEP = object()


def _other_name(name: str, arguments: dict[str, Any], question: Question, draw: random.Random) -> Any:
    others = [function["name"] for function in question.functions if function["name"] != name]
    return (draw.choice(others), arguments) if others else None


def _without(name: str, arguments: dict[str, Any], required: bool, question: Question, draw: random.Random) -> Any:
    function = next(function for function in question.functions if function["name"] == name)
    needed = set(function["parameters"].get("required", ()))
    chosen = [parameter for parameter in arguments if (parameter in needed) == required]
    if not chosen:
        return None
    gone = draw.choice(chosen)
    return name, {parameter: value for parameter, value in arguments.items() if parameter != gone}


def _from_schema(name: str, arguments: dict[str, Any], question: Question, draw: random.Random) -> Any:
    function = next(function for function in question.functions if function["name"] == name)
    more = [parameter for parameter in function["parameters"]["properties"] if parameter not in arguments]
    return (name, {**arguments, draw.choice(more): draw.choice(list(_ODD_VALUES.values()))}) if more else None


def _swapped_values(name: str, arguments: dict[str, Any], _: Question, draw: random.Random) -> Any:
    if len(arguments) < 2:
        return None
    first, second = draw.sample(list(arguments), 2)
    return name, {**arguments, first: arguments[second], second: arguments[first]}


def _renamed_parameter(name: str, arguments: dict[str, Any], _: Question, draw: random.Random) -> Any:
    if not arguments:
        return None
    old = draw.choice(list(arguments))
    return name, {
        (old.upper() if parameter == old else parameter): value for parameter, value in arguments.items()
    }


def _call_dropped(calls: Calls, _: Question, draw: random.Random) -> Calls:
    del calls[draw.randrange(len(calls))]
    return calls


def _call_doubled(calls: Calls, _: Question, draw: random.Random) -> Calls:
    return [*calls, copy.deepcopy(draw.choice(calls))]


def _call_replaced_by_double(calls: Calls, _: Question, draw: random.Random) -> Calls | None:
    if len(calls) < 2:
        return None
    first, second = draw.sample(range(len(calls)), 2)
    calls[first] = copy.deepcopy(calls[second])
    return calls


def _calls_shuffled(calls: Calls, _: Question, draw: random.Random) -> Calls | None:
    if len(calls) < 2:
        return None
    draw.shuffle(calls)
    return calls


# -- mutations of values --------------------------------------------------------------------------------------


def text_mutation(change: Callable[[str, random.Random], str]) -> Mutation:
    """Return a mutation of text, including text within lists and objects."""

    def change_value(value: Any, draw: random.Random) -> Any:
        if isinstance(value, str):
            return change(value, draw)
        places = [at for at in _places(value) if isinstance(value[at], str)]
        if not places:
            return _KEEP
        changed, at = copy.copy(value), draw.choice(places)
        changed[at] = change(value[at], draw)
        return changed

    return _on_value(change_value)


def _inserted(characters: str) -> Mutation:
    def insert(text: str, draw: random.Random) -> str:
        at = draw.randint(0, len(text))
        return text[:at] + draw.choice(characters) + text[at:]

    return text_mutation(insert)


def _list(change: Callable[[list[Any], random.Random], Any]) -> Mutation:
    return _on_value(lambda value, draw: change(list(value), draw) if isinstance(value, list) and value else _KEEP)


def _dict(change: Callable[[dict[str, Any], random.Random], Any]) -> Mutation:
    """Return a mutation of an object, including an object in a list."""

    def change_value(value: Any, draw: random.Random) -> Any:
        if isinstance(value, dict) and value:
            return change(dict(value), draw)
        if isinstance(value, list):
            places = [at for at, element in enumerate(value) if isinstance(element, dict) and element]
            if places:
                at = draw.choice(places)
                return [*value[:at], change(dict(value[at]), draw), *value[at + 1 :]]
        return _KEEP

    return _on_value(change_value)


def _number(change: Callable[[Any], Any]) -> Mutation:
    def change_value(value: Any, _: random.Random) -> Any:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return _KEEP
        try:
            return change(value)
        except (OverflowError, ValueError):  # an integer beyond float's range, or an infinity
            return _KEEP

    return _on_value(change_value)


def _places(value: Any) -> list[Any]:
    if isinstance(value, list):
        return list(range(len(value)))
    return list(value) if isinstance(value, dict) else []


def _without_character(text: str, draw: random.Random) -> str:
    at = draw.randint(0, len(text))
    return text[:at] + text[at + 1 :]


def _without_key(value: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    del value[draw.choice(list(value))]
    return value


def _with_odd_entry(value: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    return {**value, draw.choice(list(value)): draw.choice(list(_ODD_VALUES.values()))}


def _with_odd_element(value: list[Any], draw: random.Random) -> list[Any]:
    value[draw.randrange(len(value))] = draw.choice(list(_ODD_VALUES.values()))
    return value


def _without_element(value: list[Any], draw: random.Random) -> list[Any]:
    del value[draw.randrange(len(value))]
    return value


def _other_bool(value: Any, _: random.Random) -> Any:
    return (not value) if isinstance(value, bool) else _KEEP


def _bool_as_int(value: Any, _: random.Random) -> Any:
    return int(value) if isinstance(value, bool) else _KEEP


def _as_text(value: Any, _: random.Random) -> Any:
    return _KEEP if isinstance(value, str) else str(value)


def _text_as_number(value: Any, _: random.Random) -> Any:
    if not isinstance(value, str):
        return _KEEP
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        return _KEEP


ANY_MUTATIONS: Mapping[str, Mutation] = {
    "call: wrong name": _on_call(lambda name, arguments, _, draw: (name + draw.choice("sX_. "), arguments)),
    "call: dots as underscores": _on_call(lambda name, arguments, *_: (name.replace(".", "_"), arguments)),
    "call: another function": _on_call(_other_name),
    "call: no arguments": _on_call(lambda name, *_: (name, {})),
    "call: dropped": _call_dropped,
    "call: doubled": _call_doubled,
    "call: replaced by a double": _call_replaced_by_double,
    "calls: shuffled": _calls_shuffled,
    "calls: none": lambda *_: [],
    "parameter: required missing": _on_call(lambda n, a, question, draw: _without(n, a, True, question, draw)),
    "parameter: optional missing": _on_call(lambda n, a, question, draw: _without(n, a, False, question, draw)),
    "parameter: unknown": _on_call(lambda n, a, _, draw: (n, {**a, "no_such": draw.choice((1, "x", None))})),
    "parameter: known to the schema": _on_call(_from_schema),
    "parameter: renamed": _on_call(_renamed_parameter),
    "values: swapped": _on_call(_swapped_values),
    **{f"value: {kind}": _on_value(lambda _value, _, odd=odd: odd) for kind, odd in _ODD_VALUES.items()},
    "value: as text": _on_value(_as_text),
    "value: in a list": _on_value(lambda value, _: [value]),
    "value: in a tuple": _on_value(lambda value, _: (value,)),
    "value: text as number": _on_value(_text_as_number),
    "value: other boolean": _on_value(_other_bool),
    "value: boolean as integer": _on_value(_bool_as_int),
    "number: as float": _number(float),
    "number: as integer": _number(int),
    "number: one more": _number(lambda value: value + 1),
    "number: negative": _number(lambda value: -value),
    "number: nearly": _number(lambda value: value + 1e-9),
    "text: upper case": text_mutation(lambda text, _: text.upper()),
    "text: swapped case": text_mutation(lambda text, _: text.swapcase()),
    "text: ignored character": _inserted(" ,./-_*^"),
    "text: other character": _inserted("!?;:#\n\t'\"()[]{}=+&é\u00a0"),
    "text: character lost": text_mutation(_without_character),
    "text: other quotes": text_mutation(lambda text, _: text.replace("'", '"') if "'" in text else f"'{text}'"),
    "text: odd": text_mutation(lambda _, draw: draw.choice(_ODD_TEXT)),
    "text: padded": text_mutation(lambda text, _: f"  {text} "),
    "list: reversed": _list(lambda value, _: value[::-1]),
    "list: element lost": _list(_without_element),
    "list: element doubled": _list(lambda value, draw: [*value, draw.choice(value)]),
    "list: odd element": _list(_with_odd_element),
    "list: as tuple": _list(lambda value, _: tuple(value)),
    "list: as its first element": _list(lambda value, _: value[0]),
    "list: as its characters": _list(lambda value, _: list(str(value[0]))),
    "dict: key lost": _dict(_without_key),
    "dict: key added": _dict(lambda value, _: {**value, "no_such_key": 1}),
    "dict: odd value": _dict(_with_odd_entry),
    "dict: key in upper case": _dict(lambda value, _: {str(key).upper(): inner for key, inner in value.items()}),
    "dict: as its values": _dict(lambda value, _: list(value.values())),
}
"""Mutations that apply to answers in every language, by kind."""
