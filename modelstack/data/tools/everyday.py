"""Hand-written tools in examples: presentation to the model, and clauses that request one or several calls.

Names, naming style, descriptions, format hints and defaults vary between examples, so that a model learns to read
the tools it is shown. A call contains an optional parameter only if the request mentions it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.data.examples import Tool
from modelstack.data.tools.clauses import (
    Clause,
    fill,
    is_repeatable,
    mood_of,
    repeated_slots,
    settle,
    slots_of,
)
from modelstack.data.tools.everyday_tools import ENUM, FLAG, STAY, EverydayTool, Parameter, json_schema
from modelstack.data.tools.kinds import make
from modelstack.data.tools.spoken import COPIED, Scene, Spoken

_TRIES = 30
_P_FORMAT_ONLY, _P_SHOW_DEFAULT, _P_NO_DESCRIPTION, _P_CORRECTED = 0.15, 0.75, 0.08, 0.02
_FORMATS = {
    "date": "date",
    "past_date": "date",
    "stay_first": "date",
    "stay_last": "date",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A hand-written tool as presented in one example."""

    origin: EverydayTool
    tool: Tool
    names: Mapping[str, str]
    """Names of the parameters in this example."""


def show(tool: EverydayTool, now: Scene) -> Shown:
    """Return a tool with names, naming style and descriptions chosen for one example."""
    style = now.one((_snake, _snake, _snake, _snake, _camel))
    names = {p.name: style(p.name) for p in tool.parameters}
    parameters = list(tool.parameters)
    if now.chance(0.3):
        now.random.shuffle(parameters)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {names[p.name]: _property(p, now) for p in parameters},
        "required": [names[p.name] for p in parameters if p.is_required],
    }
    about = now.one(tool.abouts)
    return Shown(
        tool, Tool(name=now.one(tool.names), description=about + now.one(("", ".")), parameters=schema), names
    )


def ask(shown: Shown, now: Scene, *, n_calls: int = 1) -> Clause | None:
    """Return a clause that requests `n_calls` calls of a tool, or None if no sentence of the tool can."""
    tool = shown.origin
    templates = [t for t in tool.say if n_calls == 1 or _can_repeat(t, tool)]
    if not templates:
        return None
    template, mood = mood_of(now.one(templates))
    inside = set(slots_of(re.sub(r"\[[^\]]*\]", "", template)))
    optional = [name for name in slots_of(template) if name not in inside]
    silent = [name for name in optional if now.chance(0.5)]
    settled = settle(template, now, with_slots=[n for n in optional if n not in silent], without=silent)
    said = slots_of(settled)
    differing = repeated_slots(settled) if n_calls > 1 else []
    values = _values(tool, said, differing, n_calls, now)
    if values is None:
        return None
    extra = _endings(tool, said, now) if n_calls == 1 else []
    calls = tuple(
        (shown.tool.name, _arguments(shown, [*each.items(), *((n, s) for n, s, _ in extra)])) for each in values
    )
    if len({repr(call) for call in calls}) < n_calls:
        return None
    spoken = [s for each in values for s in each.values()] + [s for _, s, _ in extra]
    return Clause(
        text=fill(settled, values, now),
        mood=mood,
        calls=calls,
        rules=tuple(s.rule for s in spoken),
        needs_today=any(s.needs_today for s in spoken),
        endings=tuple(words for _, _, words in extra),
    )


def ask_beyond(tool: EverydayTool, now: Scene) -> Clause | None:
    """Return a wish in the tool's field that no tool of the field fulfils, or None if the tool lists none."""
    return _wish(tool, now.one(tool.beyond), now) if tool.beyond else None


def ask_vaguely(tool: EverydayTool, now: Scene) -> tuple[Clause, str] | None:
    """Return a request without a required value and the clarifying question, or None if the tool lists none."""
    if not tool.vague:
        return None
    template, question = now.one(tool.vague)
    clause = _wish(tool, template, now)
    return None if clause is None else (clause, question)


def _wish(tool: EverydayTool, template: str, now: Scene) -> Clause | None:
    text, mood = mood_of(settle(template, now, with_slots=(), without=()))
    values = _values(tool, slots_of(text), [], 1, now)
    if values is None:
        return None
    return Clause(fill(text, values, now), mood, (), needs_today=any(s.needs_today for s in values[0].values()))


def follow_up(shown: Shown, clause_arguments: Mapping[str, Any], now: Scene) -> Clause | None:
    """Return a request such as "and in Rome?" after a call: mentioned values change, the others stay."""
    tool = shown.origin
    parts = [found.group(1) for t in tool.say if (found := re.search(r"<<(.*)>>", t))]
    parts = [part for part in parts if re.match(r"(in|for|at|from|to|of|on|with|between|about)\b", part)]
    if not parts:
        return None
    part = settle(
        now.one(parts), now, with_slots=(), without=[p.name for p in tool.parameters if not p.is_required]
    )
    values = _values(tool, slots_of(part), [], 1, now)
    if values is None:
        return None
    changed = _arguments(shown, values[0].items())
    arguments = {**clause_arguments, **changed}
    if arguments == dict(clause_arguments):
        return None
    text = fill(
        now.one(("and {}?", "and now {}", "ok, and {}?", "and {} too", "now the same {}, please")).format(part),
        values,
        now,
    )
    spoken = list(values[0].values())
    order = [names for names in shown.names.values() if names in arguments]
    return Clause(
        text,
        "fragment",
        ((shown.tool.name, {name: arguments[name] for name in order}),),
        rules=tuple(s.rule for s in spoken),
        needs_today=any(s.needs_today for s in spoken),
    )


def speak_value(parameter: Parameter, now: Scene) -> Spoken:
    """Return a value of a parameter with its wording."""
    kind = parameter.kind
    if kind == FLAG or kind.split()[0] == ENUM:
        value = now.one(parameter.options)
        words = [words for v, words in parameter.words if v == value]
        if words:
            said = now.one(words)
            rule = COPIED if said == str(value) else ("flag_implied" if kind == FLAG else "enum_paraphrased")
            return Spoken(value, said, rule)
        text = str(value)
        return Spoken(value, text if "." in text else text.replace("_", " "))
    if kind.startswith("record "):
        return _record(kind, now)
    spoken = make(kind, now)
    if kind.startswith("whole") and spoken.rule == COPIED and now.chance(_P_CORRECTED):
        other = spoken.value + now.one((1, 2, -1, 3, 10))
        if other > 0:
            said = now.one(("{}, no, {}", "{}, sorry, {}", "{}, I mean {}", "{} no wait {}"))
            return Spoken(spoken.value, said.format(other, spoken.said), "corrected")
    return spoken


def _values(
    tool: EverydayTool, said: Sequence[str], differing: Sequence[str], n_calls: int, now: Scene
) -> list[dict[str, Spoken]] | None:
    """Return values for each call: equal for shared parameters, different for differing ones."""
    for _ in range(_TRIES):
        shared = {name: _drawn(tool, name, now) for name in said if name not in differing}
        calls = [{**shared, **{name: _drawn(tool, name, now) for name in differing}} for _ in range(n_calls)]
        if all(_all_differ(call.values()) for call in calls) and all(
            _some_differ(calls, name) for name in differing
        ):
            return [{name: call[name] for name in said} for call in calls]
    return None


def _drawn(tool: EverydayTool, name: str, now: Scene) -> Spoken:
    if name == STAY:
        return make(STAY, now)
    return speak_value(tool.parameter(name), now)


def _all_differ(values: Iterable[Spoken]) -> bool:
    seen = [v.value for v in values if isinstance(v.value, str)]
    return len(set(seen)) == len(seen)


def _some_differ(calls: Sequence[Mapping[str, Spoken]], name: str) -> bool:
    """Whether the calls differ in a value."""
    values = {repr(call[name].value) for call in calls}
    return len(values) > 1 or len(calls) == 1


def _endings(tool: EverydayTool, said: Sequence[str], now: Scene) -> list[tuple[str, Spoken, str]]:
    """Return optional parameters mentioned at the end of the request, with their wording."""
    free = [p for p in tool.parameters if not p.is_required and p.name not in said and (p.words or p.endings)]
    n = now.one((0, 0, 0, 0, 1, 1, 1, 2, 2, 3))
    chosen: list[tuple[str, Spoken, str]] = []
    for parameter in now.some(free, n):
        spoken = speak_value(parameter, now)
        if parameter.options and not any(v == spoken.value for v, _ in parameter.words):
            continue
        words = spoken.said if parameter.options else now.one(parameter.endings).replace("{}", spoken.name)
        if "{" not in words:
            chosen.append((parameter.name, spoken, words))
    return chosen


def _arguments(shown: Shown, values: Iterable[tuple[str, Spoken]]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, spoken in values:
        if name == STAY:
            ends = [p for p in shown.origin.parameters if p.kind.startswith("stay_")]
            given |= {shown.names[p.name]: day for p, day in zip(ends, spoken.value, strict=True)}
        else:
            given[shown.names[name]] = spoken.value
    order = shown.tool.parameters["properties"]
    return {name: given[name] for name in order if name in given}


def _record(kind: str, now: Scene) -> Spoken:
    fields = [part.partition(":")[::2] for part in kind.split()[1:]]
    made = {name: make(inner, now) for name, inner in fields}
    return Spoken({name: s.value for name, s in made.items()}, ", ".join(s.name for s in made.values()), "record")


def _property(parameter: Parameter, now: Scene) -> dict[str, Any]:
    schema, hint = (
        _record_schema(parameter.kind) if parameter.kind.startswith("record ") else json_schema(parameter)
    )
    form = _FORMATS.get(parameter.kind)
    about = parameter.about
    if form and now.chance(_P_FORMAT_ONLY):
        schema = {**schema, "format": form}
    elif hint and hint not in about:
        about += now.one((f", {hint}", f" ({hint})", f" ({hint})", f". Format: {hint}" if form else f", {hint}"))
    elif now.chance(_P_NO_DESCRIPTION):
        about = ""
    shown = {**schema, "description": about} if about else dict(schema)
    if parameter.default is not None:
        if now.chance(_P_SHOW_DEFAULT):
            shown["default"] = parameter.default
        elif about and now.chance(0.5):
            shown["description"] = f"{about}. Default is {parameter.default}."
    return shown


def _record_schema(kind: str) -> tuple[dict[str, Any], str]:
    from modelstack.data.tools.kinds import schema_of

    fields = {part.split(":")[0]: part.split(":")[1] for part in kind.split()[1:]}
    properties = {name: schema_of(inner)[0] for name, inner in fields.items()}
    return {"type": "object", "properties": properties, "required": list(fields)}, ""


def _can_repeat(template: str, tool: EverydayTool) -> bool:
    """Whether the repeated part can differ between calls: not only flags and lists."""
    if not is_repeatable(template):
        return False
    return any(
        name == STAY or len(tool.parameter(name).options) not in (1, 2) for name in repeated_slots(template)
    )


def _snake(name: str) -> str:
    return name


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
