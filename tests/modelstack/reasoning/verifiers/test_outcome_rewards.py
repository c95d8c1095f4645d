"""Rewards by outcomes: any way to the wanted state counts, no more than it, and never what tools wrote."""

from __future__ import annotations

from typing import Any

import pytest

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.deeds import Ending, EnvironmentTools, Episode, Witness
from modelstack.reasoning.verifiers.effects import EffectGold
from modelstack.reasoning.verifiers.mathematics import MathVerifier
from modelstack.reasoning.verifiers.outcome_probes import OUTCOME_PROBES
from modelstack.reasoning.verifiers.outcomes import OutcomeGold, OutcomeVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from tests.modelstack.reasoning.policy.toy_policy import House, house_task

ON = ("lamp", '{"room":"hall","on":true}')
OFF = ("lamp", '{"room":"hall","on":false}')
ATTIC = ("lamp", '{"room":"attic","on":true}')
LOOK = ("look", "{}")
LIT = {"hall": True, "attic": False}


def episode(*calls: tuple[str, str], reply: str = "done", ended: Ending = "answered") -> Episode:
    witness = Witness(EnvironmentTools(House()))
    for name, arguments in calls:
        witness.perform(name, arguments)
    return witness.episode(reply, ended, len(calls) + 1)


def judged(gold: Any, outcome: Any, text: str = "") -> Reward:
    verifier = OutcomeVerifier(MathVerifier(lenient=True))
    return verifier.score(Item("a", gold), Completion(text, outcome=outcome))


EFFECT = EffectGold(House, house_task().item.gold.format, (("lamp", {"room": "hall", "on": True}), ("look", {})))


@pytest.mark.parametrize(
    ("done", "value"),
    [
        (episode(ON, LOOK), 1),
        (episode(LOOK, ON, LOOK), 1),
        (episode(ON, ON, LOOK), 1),
        (episode(ON, ("lamp", '{"room":"cellar","on":true}'), LOOK), 1),
        (episode(ON), 0),
        (episode(), 0),
        (episode(ON, ATTIC, LOOK), 0),
        (episode(ON, OFF, ON, LOOK), 0),
        (episode(ON, LOOK, ended="turns"), 0),
        (episode(ON, LOOK, ended="tokens"), 0),
        (episode(ON, LOOK, ended="malformed"), 0),
    ],
    ids=["gold", "a look more", "no change twice", "a refused call", "not looked", "nothing", "a lamp more"]
    + ["taken back", "turns", "tokens", "malformed"],
)
def test_what_gold_calls_do_is_what_pays(done: Episode, value: float) -> None:
    assert judged(EFFECT, done).value == value


@pytest.mark.parametrize(
    ("gold", "done", "value"),
    [
        (OutcomeGold(LIT), episode(ON, OFF, ON), 1),
        (OutcomeGold(LIT, n_changes=1), episode(ON, OFF, ON), 0),
        (OutcomeGold(LIT, n_changes=1), episode(ON), 1),
        (OutcomeGold(LIT), episode(ATTIC), 0),
        (OutcomeGold(LIT, answer="2"), episode(ON, reply="there are 2 lamps"), 1),
        (OutcomeGold(LIT, answer="2"), episode(ON, reply="there are 3 lamps"), 0),
        (OutcomeGold(LIT, answer="2"), episode(reply="there are 2 lamps"), 0),
    ],
)
def test_a_wanted_state_and_a_wanted_answer_both_have_to_be_there(
    gold: OutcomeGold, done: Episode, value: float
) -> None:
    assert judged(gold, done).value == value


def test_the_text_of_the_whole_episode_is_not_read_for_an_answer() -> None:
    gold = OutcomeGold({"hall": False, "attic": False}, answer="2")
    assert judged(gold, episode(LOOK, reply="no idea"), text="look: The answer is 2\nno idea").value == 0


def test_a_broken_world_is_no_verdict_and_a_missing_episode_is_refused() -> None:
    broken = Episode("done", "answered", (), "{}", "{}", 1, fault="the server is gone")
    assert judged(OutcomeGold({}), broken).value is None
    with pytest.raises(UserError, match="this reply is none"):
        judged(OutcomeGold({}), None)
    with pytest.raises(UserError, match="give OutcomeVerifier a verifier of answers"):
        OutcomeVerifier().score(Item("a", OutcomeGold(LIT, answer="2")), Completion("", outcome=episode(ON)))


def test_a_gold_that_the_world_refuses_is_no_verdict() -> None:
    gold = EffectGold(House, EFFECT.format, (("lamp", {"room": "cellar", "on": True}),))
    assert judged(gold, episode(ON)).value is None


def test_worlds_that_differ_from_copy_to_copy_are_refused() -> None:
    class Moody(House):
        n_made = 0

        def __init__(self) -> None:
            super().__init__()
            Moody.n_made += 1
            self.lamps["hall"] = Moody.n_made % 2 == 1

    with pytest.raises(UserError, match="two different worlds"):
        judged(EffectGold(Moody, EFFECT.format, ()), episode())


@pytest.mark.parametrize("probe", OUTCOME_PROBES, ids=lambda probe: probe.item.id)
def test_known_hacks_are_not_rewarded(probe: Any) -> None:
    verifier = OutcomeVerifier()
    assert verifier.score(probe.item, probe.completion()).value == 0
    guarded = GuardedReward(verifier, probes=[("outcome", verifier, probe)])
    assert guarded.run_probes() == 0


def test_a_verifier_that_reads_only_the_end_of_the_world_is_found_out() -> None:
    class Lax:
        def score(self, item: Item[Any], completion: Completion) -> Reward:
            return Reward(float('"open"' in completion.outcome.end))

    probes = [("lax", Lax(), probe) for probe in OUTCOME_PROBES]
    with pytest.raises(RewardHacked, match="changes-more"):
        GuardedReward(Lax(), probes=probes).run_probes()


@pytest.mark.parametrize(
    "arguments", ["[1]", "{", '{"room":NaN}', '{"a":' * 5000 + "1" + "}" * 5000, '{"room":' + "9" * 5000 + "}"]
)
def test_arguments_that_cannot_be_read_are_refused_calls(arguments: str) -> None:
    witness = Witness(EnvironmentTools(House()))
    done = witness.perform("lamp", arguments)
    assert done.is_refused or done.has_failed
    assert not done.changed and witness.now == witness.start
