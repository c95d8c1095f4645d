"""Hand-written everyday tools with hand-written sentences, read from everyday/*.toml (one field per file).

    [[tool]]
    name = ["reserve_table", "bookRestaurant"]
    about = ["Reserve a table at a restaurant"]
    say = ["(book|reserve) a table <<at {restaurant} for {guests} {date}[ {time}]>>"]
    beyond = ["cancel my table at {restaurant}"]
    [tool.params]
    restaurant = "restaurant | Name of the restaurant"
    guests = "whole 2 12 | Number of people"
    date = "date | Day"
    time = "? time | Time of arrival"
    outdoors = "? flag | Sit outside =false | true: outside, please; true: on the terrace; false: not outside"

A parameter is `[? ]kind | description[ =default][ | words]`; `?` marks an optional one. For the kinds `flag` and
`enum a b c`, words belong to values (`value: words`). For other kinds, they are endings of the sentence, with `{}`
for the value.

`beyond` lists wishes of the same field that no tool of the file can fulfil (near-misses). `akin` names siblings
that could partly do the tool's work. `result` is the tool's output, and `answer` the reply after it: `{name}` is a
value of the call, `{kind}` a random value.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from modelstack.data.tools.clauses import slots_of
from modelstack.data.tools.kinds import schema_of
from modelstack.errors import UserError

FLAG, ENUM, STAY = "flag", "enum", "stay"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a hand-written tool."""

    name: str
    kind: str
    about: str
    is_required: bool
    default: Any = None
    words: tuple[tuple[Any, str], ...] = ()
    """Pairs (value, words) of a flag or an enum."""
    endings: tuple[str, ...] = ()
    """Endings of a sentence that mention the parameter, with `{}` for the value's words."""

    @property
    def options(self) -> tuple[Any, ...]:
        """Values of a flag or an enum; empty for other kinds."""
        if self.kind == FLAG:
            return (True, False)
        return tuple(_plain(o) for o in self.kind.split()[1:]) if self.kind.split()[0] == ENUM else ()


@dataclass(frozen=True, slots=True)
class EverydayTool:
    """A tool with the sentences that request it, and wishes of its field that no tool fulfils."""

    field: str
    """Field of the tool: the file's name."""
    names: tuple[str, ...]
    abouts: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    say: tuple[str, ...]
    beyond: tuple[str, ...] = ()
    akin: tuple[str, ...] = ()
    """First names of siblings that could partly do its work; hidden in examples where the tool is removed."""
    vague: tuple[tuple[str, str], ...] = ()
    """Requests without a necessary value, with the clarifying question (vague.toml)."""
    result: str = ""
    answers: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[Parameter, ...]:
        """Parameters that every call has."""
        return tuple(p for p in self.parameters if p.is_required)

    def parameter(self, name: str) -> Parameter:
        """Return the parameter with a name."""
        return next(p for p in self.parameters if p.name == name)


@cache
def everyday_tools() -> tuple[EverydayTool, ...]:
    """Return all hand-written tools, by field.

    Raises:
        UserError: An entry is invalid.
    """
    package = files("modelstack.data.tools")
    vague = tomllib.loads(package.joinpath("vague.toml").read_text(encoding="utf-8"))
    found: list[EverydayTool] = []
    for file in sorted(package.joinpath("everyday").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            found += [
                _tool(file.name.removesuffix(".toml"), entry, vague.pop(entry["name"][0], ()))
                for entry in content["tool"]
            ]
    if vague:
        raise UserError(f"vague.toml names tools that are in no file: {sorted(vague)}")
    return tuple(found)


def json_schema(parameter: Parameter) -> tuple[dict[str, Any], str]:
    """Return JSON Schema and format hint of a parameter."""
    if parameter.kind == FLAG:
        return {"type": "boolean"}, ""
    if parameter.options:
        kinds = {type(option) for option in parameter.options}
        name = "integer" if kinds == {int} else "number" if kinds <= {int, float} else "string"
        return {"type": name, "enum": list(parameter.options)}, ""
    return schema_of(parameter.kind)


def _tool(field: str, entry: dict[str, Any], vague: Sequence[str]) -> EverydayTool:
    tool = EverydayTool(
        field=field,
        names=tuple(entry["name"]),
        abouts=tuple(entry["about"]),
        parameters=tuple(_parameter(name, text) for name, text in entry.get("params", {}).items()),
        say=tuple(entry["say"]),
        beyond=tuple(entry.get("beyond", ())),
        akin=tuple(entry.get("akin", ())),
        vague=tuple((request, question) for request, _, question in (line.partition(" -> ") for line in vague)),
        result=entry.get("result", ""),
        answers=tuple(entry.get("answer", ())),
    )
    _check(tool)
    return tool


def _check(tool: EverydayTool) -> None:
    known = {p.name for p in tool.parameters}
    required = {p.name for p in tool.required}
    for template in tool.say:
        said = set(slots_of(template))
        unknown, missing = said - known - {STAY}, required - said
        if STAY in said:
            missing -= {p.name for p in tool.parameters if p.kind.startswith("stay_")}
        if unknown or missing:
            raise UserError(
                f"{tool.field}.toml, {tool.names[0]}: the sentence {template!r} "
                + (f"names unknown parameters {sorted(unknown)}" if unknown else f"does not say {sorted(missing)}")
            )
    for p in tool.parameters:
        if p.options and {value for value, _ in p.words} - set(p.options):
            raise UserError(
                f"{tool.field}.toml, {tool.names[0]}.{p.name}: words for a value that it does not have"
            )


def _parameter(name: str, text: str) -> Parameter:
    kind, about, *rest = (part.strip() for part in text.split(" | "))
    is_required = not kind.startswith("?")
    kind = kind.removeprefix("?").strip()
    about, _, default = about.partition(" =")
    parts = [part.strip() for part in rest[0].split(";")] if rest else []
    is_chosen = kind == FLAG or kind.split()[0] == ENUM
    pairs = [part.partition(": ") for part in parts]
    return Parameter(
        name=name,
        kind=kind,
        about=about.strip(),
        is_required=is_required,
        default=_plain(default.strip()) if default else None,
        words=tuple((_plain(value), words) for value, _, words in pairs) if is_chosen else (),
        endings=() if is_chosen else tuple(parts),
    )


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
