"""Rewards of tool calls: by their form, as BFCL matches, and by what they do to a world."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evals.tool_use.bfcl.checker import check_calls
from modelstack.errors import UserError
from modelstack.reasoning.verifiers.calls import (
    Call,
    CallGold,
    CallVerifier,
    GoldCall,
    standardised,
    unmatched_row,
)
from modelstack.reasoning.verifiers.effects import EffectGold, EffectVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from modelstack.toolcalls.convention import ResponseFormat, ToolSpec, render_calls

WEATHER = ToolSpec(
    "weather",
    "",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "limit": {"type": "number"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "live": {"type": "boolean"},
        },
        "required": ["city"],
    },
)
FORMAT = ResponseFormat((WEATHER,), abstain=True)
GOLD = GoldCall("weather", {"city": ("New York", "NYC"), "days": (3,)}, frozenset({"days"}))


def value(gold: CallGold, *calls: Call, text: str | None = None, exact: bool = False) -> float | None:
    verifier = CallVerifier(text="exact") if exact else CallVerifier()
    return verifier.score(Item("x", gold), Completion(render_calls(calls) if text is None else text)).value


@pytest.mark.parametrize(
    ("arguments", "reward"),
    [
        ({"city": "NYC"}, 1.0),
        ({"city": "new-york", "days": 3}, 1.0),
        ({"city": "NYC", "days": 3.0}, 1.0),
        ({"city": "Boston"}, 0.0),
        ({"city": "NYC", "days": 4}, 0.0),
        ({"city": "NYC", "days": True}, 0.0),
        ({"city": "NYC", "days": "3"}, 0.0),
        ({"days": 3}, 0.0),
        ({"city": "NYC", "live": True}, 0.0),
        ({"city": "NYC", "unknown": 1}, 0.0),
        ({"city": ["NYC"]}, 0.0),
    ],
)
def test_a_call_matches_by_name_types_and_acceptable_values(arguments: dict[str, Any], reward: float) -> None:
    assert value(CallGold(FORMAT, (GOLD,)), ("weather", arguments)) == reward


def test_text_is_compared_as_bfcl_does_or_exactly() -> None:
    gold = CallGold(FORMAT, (GOLD,))
    assert value(gold, ("weather", {"city": "new york"})) == 1.0
    assert value(gold, ("weather", {"city": "new york"}), exact=True) == 0.0
    assert value(gold, ("weather", {"city": "New York"}), exact=True) == 1.0
    assert standardised("It's, A-b_c") == 'it"sabc'


def test_where_no_call_is_right_any_call_is_wrong_and_words_are_not() -> None:
    nothing = CallGold(FORMAT, ())
    assert value(nothing, text="[]") == 1.0
    assert value(nothing, text="I cannot do that.") == 1.0
    assert value(nothing, ("weather", {"city": "NYC"})) == 0.0
    assert value(nothing, text="[{") == 0.0
    assert value(CallGold(FORMAT, (GOLD,)), text="[]") == 0.0


def test_several_calls_match_in_any_order_and_one_to_one() -> None:
    a, b = ("weather", {"city": "A"}), ("weather", {"city": "B"})
    gold = CallGold(FORMAT, tuple(GoldCall.exactly(*call) for call in (a, b)))
    assert value(gold, b, a) == 1.0
    assert value(gold, a, a) == 0.0
    assert value(gold, a) == 0.0
    assert value(gold, a, b, b) == 0.0


def test_a_pairing_is_found_where_a_greedy_choice_would_not_find_it() -> None:
    wide = GoldCall("weather", {"city": ("A", "B")})
    narrow = GoldCall.exactly("weather", {"city": "A"})
    gold = CallGold(FORMAT, (wide, narrow))
    assert value(gold, ("weather", {"city": "A"}), ("weather", {"city": "B"})) == 1.0


def test_the_pairing_agrees_with_trying_all_of_them() -> None:
    for bits in itertools.product((False, True), repeat=9):
        fits = [bits[:3], bits[3:6], bits[6:]]
        possible = any(
            all(fits[row][order[row]] for row in range(3)) for order in itertools.permutations(range(3))
        )
        assert (unmatched_row(fits) is None) == possible


def test_a_gold_that_calls_what_is_not_shown_or_has_no_schema_is_unscorable() -> None:
    other = CallGold(FORMAT, (GoldCall.exactly("other", {}),))
    assert value(other, text="[]") is None
    own = CallGold(FORMAT, (GoldCall.exactly("weather", {"city": 3}),))
    assert value(own, ("weather", {"city": "A"})) is None
    broken = ResponseFormat((ToolSpec("weather", "", {"type": "no type"}),))
    assert value(CallGold(broken, (GOLD,)), ("weather", {"city": "NYC"})) is None


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, '[{"name":"weather","arguments":' + '{"a":' * 50_000, "<think>[]"]
)
def test_no_text_breaks_the_reading(text: str) -> None:
    assert value(CallGold(FORMAT, (GOLD,)), text=text) == 0.0


FUNCTION = {
    "name": "weather",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "limit": {"type": "float"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "live": {"type": "boolean"},
        },
        "required": ["city"],
    },
}
KEYS: list[dict[str, list[Any]]] = [
    {"city": ["New York", "NYC"], "days": [3, ""]},
    {"city": ["A"], "limit": [1.5, 2.0], "tags": [["x", "y"]]},
    {"city": ["A"], "live": [True]},
]
GIVEN: list[dict[str, Any]] = [
    {"city": city, **more}
    for city in ("new york", "A", "nyc", "B", 3)
    for more in (
        {}, {"days": 3}, {"days": "3"}, {"limit": 2}, {"limit": 1.5, "tags": ["X", "y"]},
        {"limit": 2, "tags": ["y", "x"]}, {"live": True}, {"live": 1}, {"live": "true"}, {"other": 1},
    )
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=["text", "list", "boolean"])
def test_verdicts_are_those_of_the_benchmark_where_it_has_no_oddity(key: dict[str, list[Any]]) -> None:
    gold = CallGold(FORMAT, (GoldCall.from_answer_key({"weather": key}),))
    rewards = [value(gold, ("weather", arguments)) for arguments in GIVEN]
    verdicts = [
        float(check_calls([FUNCTION], [("weather", arguments)], [{"weather": key}], category="simple").valid)
        for arguments in GIVEN
    ]
    assert rewards == verdicts
    assert 0 < sum(verdicts) < len(verdicts)


def test_an_answer_key_with_objects_is_read() -> None:
    key = {"weather": {"place": [{"city": ["A", "B"], "zip": [1, ""]}, ""]}}
    gold = GoldCall.from_answer_key(key)
    assert gold.may_omit == {"place"}
    assert list(gold.acceptable["place"]) == [
        {"city": "A", "zip": 1}, {"city": "A"}, {"city": "B", "zip": 1}, {"city": "B"},
    ]  # fmt: skip
    with pytest.raises(ValueError, match="the maximum is 256"):
        GoldCall.from_answer_key({"w": {"p": [{str(i): [1, 2, 3] for i in range(9)}]}})


# -- by effect ------------------------------------------------------------------------------------------------


class Shelf:
    """A few books that can be put away, and looked up."""

    def __init__(self) -> None:
        self.books: dict[str, Any] = {"Emma": "top", "Dune": "top"}

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == "move":
            if arguments["book"] not in self.books:
                raise LookupError("no such book")
            self.books[arguments["book"]] = arguments["to"]
            return "moved"
        return self.books[arguments["book"]]

    def state(self) -> Any:
        return self.books


SHELF = ResponseFormat(
    (ToolSpec("move", "", {"type": "object"}), ToolSpec("find", "", {"type": "object"})), abstain=True
)
MOVE_EMMA: Call = ("move", {"book": "Emma", "to": "low"})
FIND_DUNE: Call = ("find", {"book": "Dune"})


def effect(gold: tuple[Call, ...], *calls: Call) -> float | None:
    item = Item("x", EffectGold(Shelf, SHELF, gold))
    return EffectVerifier().score(item, Completion(render_calls(calls))).value


def test_another_way_to_the_same_end_is_right() -> None:
    assert effect((MOVE_EMMA, FIND_DUNE), MOVE_EMMA, FIND_DUNE) == 1.0
    assert effect((MOVE_EMMA, FIND_DUNE), FIND_DUNE, ("find", {"book": "Emma"}), MOVE_EMMA) == 1.0
    assert effect((MOVE_EMMA,), ("move", {"book": "?", "to": "low"}), MOVE_EMMA) == 1.0


@pytest.mark.parametrize(
    "calls",
    [
        (),
        (FIND_DUNE,),
        (MOVE_EMMA,),
        (("move", {"book": "Emma", "to": "top"}), FIND_DUNE),
        (MOVE_EMMA, ("move", {"book": "Dune", "to": "low"}), FIND_DUNE),
        (MOVE_EMMA, ("move", {"book": "Dune", "to": "low"}), ("move", {"book": "Dune", "to": "top"}), FIND_DUNE),
        (("move", {"to": "low"}), FIND_DUNE),
    ],
    ids=["nothing", "no change", "no reading", "wrong change", "extra change", "change taken back", "refused"],
)
def test_another_end_an_extra_change_or_a_missing_result_is_wrong(calls: tuple[Call, ...]) -> None:
    assert effect((MOVE_EMMA, FIND_DUNE), *calls) == 0.0


def test_where_no_call_is_right_even_a_read_is_wrong() -> None:
    assert effect(()) == 1.0
    assert effect((), FIND_DUNE) == 0.0


def test_a_gold_that_the_world_refuses_is_unscorable() -> None:
    assert effect((("find", {"book": "?"}),), FIND_DUNE) is None


def test_a_world_that_is_not_made_anew_is_an_error() -> None:
    shelf = Shelf()
    item = Item("shared", EffectGold(lambda: shelf, SHELF, (MOVE_EMMA,)))
    with pytest.raises(UserError, match="'shared'.*equal copy"):
        EffectVerifier().score(item, Completion(render_calls([MOVE_EMMA])))


def test_arguments_that_make_a_state_unwritable_are_wrong() -> None:
    deep = "[" * 900 + "]" * 900
    text = f'[{{"name":"move","arguments":{{"book":"Emma","to":{deep}}}}}]'
    item = Item("x", EffectGold(Shelf, SHELF, (MOVE_EMMA,)))
    assert EffectVerifier().score(item, Completion(text)).value == 0.0


def test_gold_calls_of_real_data_match_themselves_or_break_their_own_schema() -> None:
    path = Path(__file__).resolve().parents[5] / "shared/data/posttrain/tools/glaive_toolcall_en_demo.json"
    if not path.exists():
        pytest.skip("needs the tool calls")
    rewards = list[Reward]()
    for record in json.loads(path.read_text(encoding="utf-8")):
        shown = json.loads(record["tools"] or "[]")
        tools = tuple(ToolSpec(tool["name"], "", tool.get("parameters") or {"type": "object"}) for tool in shown)
        for turn in record["conversations"]:
            call = json.loads(turn["value"]) if turn["from"] == "function_call" else None
            if not isinstance(call, dict) or call["name"] not in {tool.name for tool in tools}:
                continue
            gold = CallGold(ResponseFormat(tools), (GoldCall.exactly(call["name"], call["arguments"]),))
            reply = Completion(render_calls([(call["name"], call["arguments"])]))
            rewards.append(CallVerifier(text="exact").score(Item("x", gold), reply))
    assert [reward.value for reward in rewards].count(1.0) == 208
    others = [reward for reward in rewards if reward.value != 1.0]
    assert [reward.value for reward in others] == [None] * len(others)
    assert all("breaks its schema" in reward.reason for reward in others)
