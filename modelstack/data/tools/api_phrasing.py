"""Requests for real tools: a reworded description with the values inserted in natural positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelstack.data.tools.api_values import value_of
from modelstack.data.tools.apis import Api, label_of
from modelstack.data.tools.clauses import Clause, Mood, tidy
from modelstack.data.tools.spoken import Scene, Spoken, listed

_SYNONYMS = {
    "look": ("get", "get", "show me", "fetch", "pull up", "look up", "give me", "retrieve", "find"),
    "list": ("list", "list", "show me", "give me a list of", "show"),
    "make": ("{verb}", "{verb}", "{verb}", "set up"),
    "drop": ("delete", "remove", "delete", "get rid of"),
    "change": ("{verb}", "{verb}", "change"),
    "seek": ("{verb}", "{verb}", "find"),
    "work_out": ("calculate", "compute", "work out", "determine", "figure out"),
    "do": ("{verb}",),
}
_NOT_ALONE = ("for", "in", "on", "to", "from", "with", "about", "of", "through", "up")
_WAYS = (
    "for {label} {shown}", "with {label} {shown}", "with the {label} {shown}", "where the {label} is {shown}",
    "using {shown} as the {label}", "{label} {shown}", "with {shown} as the {label}", "for the {label} {shown}",
    "with {label} set to {shown}", "with a {label} of {shown}", "for {label} {shown}",
    "(the {label} is {shown})",
)  # fmt: skip
_P_LISTED = 0.5
_ABOUT = re.compile(
    r"(?:detailed |general |basic )?(?:information|details|info|data) (?:about|on|of|for|regarding) (.+)"
)
_ID_WORDS = r" (?:id|name|number|key|code|uuid|slug|sid|identifier)$"
_QUOTED_LABELS = (
    "title",
    "subject",
    "message",
    "text",
    "body",
    "content",
    "comment",
    "query",
    "prompt",
    "caption",
    "question",
)


ValueOf = Callable[[str, Mapping[str, Any], Scene], Spoken | None]
"""Function that returns a value for a parameter by name and schema, or None."""


def ask_api(
    api: Api,
    now: Scene,
    *,
    n_calls: int = 1,
    values_of: ValueOf = value_of,
    nouns: Mapping[str, str] | None = None,
) -> Clause | None:
    """Return a clause that requests calls of a real tool, or None if a required parameter has no value rule.

    Args:
        api: The tool with its wording.
        now: Source of randomness.
        n_calls: Number of calls.
        values_of: Source of values; default: guessed from the schema.
        nouns: Noun of a parameter in the description ("file" for `path`), if its name does not contain it.
    """
    properties = api.tool.parameters["properties"]
    required = list(api.tool.parameters["required"])
    optional = [name for name in properties if name not in required]
    named = required + now.some(optional, _n_optional(len(optional), len(required), now) if n_calls == 1 else 0)
    values: list[dict[str, Spoken]] = []
    for _ in range(n_calls):
        drawn = {name: values_of(name, properties[name], now) for name in named}
        if any(drawn[name] is None for name in required):
            return None
        values.append({name: spoken for name, spoken in drawn.items() if spoken is not None})
    for each in values:
        _in_order(each)
    shared = _shared(values, now)
    calls = tuple((api.tool.name, _ordered(properties, each)) for each in values)
    if len({repr(call) for call in calls}) < n_calls:
        return None
    text, mood = _worded(api, values, shared, nouns or {}, now)
    spoken = [s for each in values for s in each.values()]
    return Clause(tidy(text), mood, calls, tuple(s.rule for s in spoken), any(s.needs_today for s in spoken))


def ask_together(apis: Sequence[Api], now: Scene, *, values_of: ValueOf = value_of) -> Clause | None:
    """Return a clause that requests a call of each tool with shared values; None if a value has no rule.

    Parameters with the same name share their value: "Look up the price and the weight of parcel 12".
    """
    drawn: dict[str, Spoken] = {}
    calls: list[tuple[str, dict[str, Any]]] = []
    for api in apis:
        properties = api.tool.parameters["properties"]
        named = [name for name in properties if name in api.tool.parameters["required"]]
        for name in named:
            spoken = drawn.get(name) or values_of(name, properties[name], now)
            if spoken is None:
                return None
            drawn[name] = spoken
        calls.append((api.tool.name, {name: drawn[name].value for name in named}))
    wishes = [_reworded(api, api.wish.partition(" ")[2], now) for api in apis]
    said = _joined([_phrase(label_of(n), s, now.random.randrange(len(_WAYS)), now) for n, s in drawn.items()], now)
    text = f"{listed(wishes, now.one((' and ', ' and ', ' and also ')))} {said}"
    spoken_all = list(drawn.values())
    return Clause(
        tidy(text),
        "order",
        tuple(calls),
        tuple(s.rule for s in spoken_all),
        any(s.needs_today for s in spoken_all),
    )


def _in_order(values: dict[str, Spoken]) -> None:
    """Swap the dates of a range if its end precedes its start."""
    ends = [(name, name.lower().replace("start", "end").replace("from", "to")) for name in values]
    by_low = {name.lower(): name for name in values}
    for first, last_low in ends:
        last = by_low.get(last_low, first)
        begin, end = values[first].value, values[last].value
        are_days = isinstance(begin, str) and isinstance(end, str) and begin[:2] == "20" == end[:2]
        if are_days and begin > end:
            values[first], values[last] = values[last], values[first]


def _n_optional(n_optional: int, n_required: int, now: Scene) -> int:
    if not n_optional:
        return 0
    return now.one((0, 1, 1, 1, 2, 3)) if n_required == 0 else now.one((0, 0, 1, 1, 2, 3))


def _shared(values: list[dict[str, Spoken]], now: Scene) -> set[str]:
    """Give several calls some common values and return the names of their parameters."""
    names = list(values[0])
    if len(values) == 1 or len(names) < 2:
        return set()
    shared = set(now.some(names, now.random.randrange(0, len(names))))
    for each in values[1:]:
        each.update({name: values[0][name] for name in names if name in shared})
    return shared


def _ordered(properties: Mapping[str, object], spoken: Mapping[str, Spoken]) -> dict[str, object]:
    return {name: spoken[name].value for name in properties if name in spoken}


def _worded(
    api: Api, values: Sequence[Mapping[str, Spoken]], shared: set[str], nouns: Mapping[str, str], now: Scene
) -> tuple[str, Mood]:
    thing = api.wish.partition(" ")[2]
    first, used = values[0], set[str]()
    if len(values) == 1:
        thing, used = _placed(thing, first, nouns, now)
    style = {name: now.random.randrange(len(_WAYS)) for name in first}
    together = _joined([_phrase(label_of(n), first[n], style[n], now) for n in first if n in shared], now)
    differing = [n for n in first if n not in used | shared]
    if len(values) > 1 and len(differing) == 1 and now.chance(_P_LISTED):
        name = differing[0]
        together = " ".join(
            (_listed_phrase(name, [each[name] for each in values], style[name], now), together)
        ).strip()
        return f"{_reworded(api, thing, now)} {together}", "order"
    each_time = [
        _joined([_phrase(label_of(n), s, style[n], now) for n, s in each.items() if n not in used | shared], now)
        for each in values
    ]
    tail = " ".join(part for part in (_in_turn(each_time, now), together) if part)
    if len(values) == 1 and first and not used and now.chance(0.1):
        name, spoken = next(iter(first.items()))
        label = label_of(name)
        others = _joined([_phrase(label_of(n), s, style[n], now) for n, s in first.items() if n != name], now)
        if not isinstance(spoken.value, bool):
            wish = _reworded(api, thing, now)
            return f"the {label} is {_shown(label, spoken)}. {wish[:1].upper()}{wish[1:]} {others}", "statement"
    question = _question(api, thing, now)
    if question is not None and len(values) == 1 and now.chance(0.45):
        return f"{question} {tail}?", "question"
    return f"{_reworded(api, thing, now)} {tail}", "order"


def _listed_phrase(name: str, spoken: Sequence[Spoken], style: int, now: Scene) -> str:
    """Return the phrase for one parameter of several calls: "for region Africa and Asia"."""
    both = listed([_shown(label_of(name), s) for s in spoken], now.one((" and ", " and ", " & ")))
    return _phrase(label_of(name), Spoken(both, both), style, now)


def _in_turn(parts: Sequence[str], now: Scene) -> str:
    """Join the phrases of several calls."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2 and now.chance(0.3):
        return f"{parts[0]}, {now.one(('and the same', 'and again', 'and then'))} {parts[1]}"
    return listed(parts, now.one((" and ", " and ", ", and ", " and also ")))


def _reworded(api: Api, thing: str, now: Scene) -> str:
    verb = api.wish.partition(" ")[0]
    if thing.split()[0] in _NOT_ALONE or (thing.startswith("me ") and api.group == "look"):
        return f"{verb} {thing}"
    if api.group == "list":
        thing = re.sub(r"^(?:all|available)(?: of)? ", now.one(("all ", "the ", "all the ")), thing)
    return f"{now.one(_SYNONYMS[api.group]).format(verb=verb)} {thing}"


def _question(api: Api, thing: str, now: Scene) -> str | None:
    about = _ABOUT.match(thing)
    if about and api.group in ("look", "seek"):
        return now.one((f"what can you tell me about {about.group(1)}", f"what do we know about {about.group(1)}"))
    if (
        api.group in ("work_out", "look")
        and re.match(r"the \w", thing)
        and not re.search(r" and |\w+s of |s$", thing)
    ):
        return now.one((f"what is {thing}", f"what's {thing}"))
    if api.group == "list" and not thing.startswith(("a ", "an ", "the ")) and re.search(r"\w+s\b", thing):
        thing = re.sub(r"^(?:all|available)(?: of)? (?:the )?", "", thing)
        return now.one((f"which {thing} are there", f"what {thing} do we have"))
    return None


def _placed(
    thing: str, values: Mapping[str, Spoken], nouns: Mapping[str, str], now: Scene
) -> tuple[str, set[str]]:
    """Insert a value after its noun in the request: "the details of a meeting" -> "of meeting 8821"."""
    for name, spoken in values.items():
        noun = nouns.get(name) or re.sub(_ID_WORDS, "", label_of(name))
        found = (
            re.search(rf"\b(?:an?|the|this|one) (?:single )?({re.escape(noun)})\b(?! \w+ing)", thing)
            if noun
            else None
        )
        if (
            found
            and isinstance(spoken.value, (str, int))
            and not isinstance(spoken.value, bool)
            and now.chance(0.8)
        ):
            shown = _shown(label_of(name), spoken)
            words = f"{found.group(1)} {shown}" if now.chance(0.7) else f"the {found.group(1)} {shown}"
            return thing[: found.start()] + words + thing[found.end() :], {name}
    return thing, set()


def _shown(label: str, spoken: Spoken) -> str:
    text = spoken.name
    is_long = (
        isinstance(spoken.value, str) and " " in text and '"' not in text and label.split()[-1] in _QUOTED_LABELS
    )
    return f'"{text}"' if is_long else text


def _phrase(label: str, spoken: Spoken, style: int, now: Scene) -> str:
    """Return the phrase that mentions one value."""
    shown, last = _shown(label, spoken), label.split()[-1] if label else ""
    if isinstance(spoken.value, bool):
        return spoken.said
    if isinstance(spoken.value, int) and (last in ("limit", "results", "count") or label.startswith("max ")):
        return (f"at most {shown}", f"limited to {shown}", f"with a {label} of {shown}", f"just {shown} of them")[
            style % 4
        ]
    if last == "page":
        return f"page {shown}" if style % 2 else f"on page {shown}"
    if last in ("city", "country", "location", "region", "directory", "folder", "language") and style % 2:
        return f"in {shown}"
    if label in ("date", "day") and style % 2:
        return spoken.said
    if last in ("recipient", "to") and style % 2:
        return f"to {shown}"
    if last in ("query", "q", "keyword", "keywords", "topic", "search") and style % 3:
        return f"about {spoken.name}" if style % 2 else f"for {shown}"
    return _WAYS[style].format(label=label, shown=shown)


def _joined(phrases: Sequence[str], now: Scene) -> str:
    parts = [phrase for phrase in phrases if phrase]
    if len(parts) < 2:
        return "".join(parts)
    sep = now.one((", ", " ", " and "))
    parts = [parts[0], *(part.removeprefix("and ") for part in parts[1:])]
    text = sep.join(parts[:-1]) + now.one((" and ", ", ", " and ")) + parts[-1]
    return text
