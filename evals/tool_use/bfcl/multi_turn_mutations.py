"""Answers that differ from the key in one way, for comparing two checkers.

Each function takes the key's calls turn by turn and a seeded generator. It returns changed turns, or None if the
change does not apply. Most results are wrong answers, some are correct; the checkers decide.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evals.case import Case
from evals.tool_use.bfcl.multi_turn_calls import Call, parse_turns

Turns = list[list[Call]]
Mutation = Callable[[Turns, Case, random.Random], Turns | None]

HARMLESS: Mapping[str, Call] = {
    "GorillaFileSystem": Call("pwd"),
    "MathAPI": Call("add", {"a": 1.0, "b": 2.0}),
    "MessageAPI": Call("list_users"),
    "TwitterAPI": Call("posting_get_login_status"),
    "TicketAPI": Call("ticket_get_login_status"),
    "TradingBot": Call("get_account_info"),
    "TravelAPI": Call("travel_get_login_status"),
    "VehicleControlAPI": Call("displayCarStatus", {"option": "fuel"}),
}
"""A harmless call for each class, which changes nothing."""


def mutated(case: Case, kind: str, *, seed: int = 0) -> Turns | None:
    """Return the case's key with one change of `kind`, a name in `MUTATIONS`; None if it does not apply."""
    # A string seed gives the same sequence on every machine and in every process; hash() does not.
    return MUTATIONS[kind](parse_turns(case.target), case, random.Random(f"{seed} {kind} {case.id}"))


def _unchanged(turns: Turns, case: Case, draw: random.Random) -> Turns:
    return turns


def _dropped_call(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    place = _any_call(turns, draw)
    if place is None:
        return None
    del turns[place[0]][place[1]]
    return turns


def _extra_harmless_call(turns: Turns, case: Case, draw: random.Random) -> Turns:
    turn = draw.choice(turns)
    turn.insert(draw.randint(0, len(turn)), HARMLESS[draw.choice(case.data["classes"])])
    return turns


def _repeated_call(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    place = _any_call(turns, draw)
    if place is None:
        return None
    turns[place[0]].insert(place[1], turns[place[0]][place[1]])
    return turns


def _changed_argument(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    places = [(t, c) for t, turn in enumerate(turns) for c, call in enumerate(turn) if call.arguments]
    if not places:
        return None
    t, c = draw.choice(places)
    call = turns[t][c]
    key = draw.choice(sorted(call.arguments))
    turns[t][c] = replace(call, arguments={**call.arguments, key: _other_value(call.arguments[key], draw)})
    return turns


def _unknown_argument(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    place = _any_call(turns, draw)
    if place is None:
        return None
    call = turns[place[0]][place[1]]
    turns[place[0]][place[1]] = replace(call, arguments={**call.arguments, "not_declared": 1})
    return turns


def _unknown_function(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    place = _any_call(turns, draw)
    if place is None:
        return None
    turns[place[0]][place[1]] = Call("no_such_function", {"value": 1})
    return turns


def _swapped_order(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    long = [turn for turn in turns if len(turn) > 1]
    if not long:
        return None
    turn = draw.choice(long)
    at = draw.randrange(len(turn) - 1)
    turn[at], turn[at + 1] = turn[at + 1], turn[at]
    return turns


def _call_one_turn_early(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    later = [index for index in range(1, len(turns)) if turns[index]]
    if not later:
        return None
    index = draw.choice(later)
    turns[index - 1].append(turns[index].pop(0))
    return turns


def _call_one_turn_late(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    earlier = [index for index in range(len(turns) - 1) if turns[index]]
    if not earlier:
        return None
    index = draw.choice(earlier)
    turns[index + 1].insert(0, turns[index].pop())
    return turns


def _empty_turn(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    full = [turn for turn in turns if turn]
    if not full:
        return None
    draw.choice(full).clear()
    return turns


def _call_in_empty_turn(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    empty = [turn for turn in turns if not turn]
    place = _any_call(turns, draw)
    if not empty or place is None:
        return None
    harmless = HARMLESS[draw.choice(case.data["classes"])]
    draw.choice(empty).append(draw.choice([harmless, turns[place[0]][place[1]]]))
    return turns


def _results_missing(turns: Turns, case: Case, draw: random.Random) -> Turns | None:
    """Replace a call by a harmless one: the state often stays correct, but the results are missing."""
    place = _any_call(turns, draw)
    if place is None:
        return None
    turns[place[0]][place[1]] = HARMLESS[draw.choice(case.data["classes"])]
    return turns


def _nothing_called(turns: Turns, case: Case, draw: random.Random) -> Turns:
    return [[] for _ in turns]


MUTATIONS: Mapping[str, Mutation] = {
    "unchanged": _unchanged,
    "dropped call": _dropped_call,
    "extra harmless call": _extra_harmless_call,
    "repeated call": _repeated_call,
    "changed argument": _changed_argument,
    "unknown argument": _unknown_argument,
    "unknown function": _unknown_function,
    "swapped order": _swapped_order,
    "call one turn early": _call_one_turn_early,
    "call one turn late": _call_one_turn_late,
    "empty turn": _empty_turn,
    "call in an empty-key turn": _call_in_empty_turn,
    "results missing": _results_missing,
    "nothing called": _nothing_called,
}


def _any_call(turns: Sequence[Sequence[Call]], draw: random.Random) -> tuple[int, int] | None:
    places = [(t, c) for t, turn in enumerate(turns) for c in range(len(turn))]
    return draw.choice(places) if places else None


def _other_value(value: Any, draw: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return draw.choice([value + 1, -value, 0, value * 2.5, str(value)])
        case str():
            return draw.choice([f"{value}x", value.upper(), value[:-1], "", 7])
        case list():
            return draw.choice([value[1:], [*value, *value[:1]], value[::-1], []])
        case dict():
            return {}
        case _:
            return "other"
