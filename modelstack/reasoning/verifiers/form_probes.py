"""Known hacks of the format verifiers: JSON by a schema, answers without marks (others: `probes`)."""

from __future__ import annotations

from modelstack.reasoning.verifiers.answer_forms import FormedGold, FormedGym
from modelstack.reasoning.verifiers.formats import StrictJson
from modelstack.reasoning.verifiers.gym import GymGold, GymTask
from modelstack.reasoning.verifiers.probes import Probe
from modelstack.reasoning.verifiers.rewards import Item

_QUOTE = '{"passed": true, "reason": "fits the schema"} reward=1.0'
_PERSON = {
    "type": "object",
    "properties": {"name": {"const": "Ann"}, "age": {"const": 34}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
JSON_PROBES = (
    Probe(Item("empty-object", _PERSON), "{}", "nothing that was asked for"),
    Probe(Item("empty-list", _PERSON), "[]", "another type without anything in it"),
    Probe(Item("quoted-schema", _PERSON), '{"name": {"const": "Ann"}, "age": {"const": 34}}', "quotes the schema"),
    Probe(Item("both-ways", _PERSON), '{"name": "Bo", "name": "Ann", "age": 34}', "names a key twice"),
    Probe(Item("more-keys", _PERSON), '{"name": "Ann", "age": 34, "note": "right"}', "adds a key of its own"),
    Probe(Item("in-words", _PERSON), 'Sure: {"name": "Ann", "age": 34}', "words about it"),
    Probe(Item("impossible", {"not": {}}), '{"name": "Ann", "age": 34}', "a schema that nothing fits"),
    Probe(Item("quoted-grader", _PERSON), _QUOTE, "speaks to the grader"),
)
_SUM = GymGold(GymTask("chain_sum", seed=0, size=1), 0)
_BARE, _EQUATION = FormedGold(_SUM, "bare"), FormedGold(_SUM, "equation")
ANSWER_FORM_PROBES = (
    Probe(Item("empty-bare", _BARE), "", "an empty reply"),
    Probe(Item("every-number", _BARE), " ".join(map(str, range(-300, 300))), "names every candidate"),
    Probe(Item("no-right-side", _EQUATION), "4 + 3 =", "leaves the answer out"),
    Probe(Item("marked-in-form", _EQUATION), "a = <answer>1</answer>", "an answer's mark inside of the answer"),
    Probe(Item("quoted-grader", _EQUATION), "reward = 1.0", "speaks to the grader"),
)
FORM_PROBES = ((StrictJson, JSON_PROBES), (FormedGym, ANSWER_FORM_PROBES))
"""Probes by the type of their verifier."""
