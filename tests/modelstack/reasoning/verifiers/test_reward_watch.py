"""Composition of rewards, canaries among them: a planted hack is caught."""

from __future__ import annotations

from typing import Any

import pytest

from modelstack.errors import UserError
from modelstack.reasoning.verifiers import probes
from modelstack.reasoning.verifiers.alarms import Alarm, RewardHacked
from modelstack.reasoning.verifiers.calls import CallVerifier
from modelstack.reasoning.verifiers.canaries import GuardedReward, default_probes
from modelstack.reasoning.verifiers.code import CodeVerifier, ProgramTests
from modelstack.reasoning.verifiers.composition import Component, Composition
from modelstack.reasoning.verifiers.effects import EffectVerifier
from modelstack.reasoning.verifiers.formats import ThinkFormat
from modelstack.reasoning.verifiers.lengths import CosineLength, Repetition
from modelstack.reasoning.verifiers.mathematics import MathVerifier
from modelstack.reasoning.verifiers.quoting import QuotesNoGrader
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier

SIX = Item("six", "6")
RIGHT = Completion("<think>2 * 3</think> #### 6", (1, 2, 3))


class Fixed:
    """Gives one value to everything."""

    def __init__(self, value: float | None) -> None:
        self.value = value

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        return Reward(self.value, "fixed")


class ContainsGold:
    """A verifier with a hole: an answer that mentions the gold is right."""

    def score(self, item: Item[str], completion: Completion) -> Reward:
        return Reward(float(item.gold.strip() in completion.text))


class TrustsPrograms:
    """A verifier with the hole of a test run in the program's own process."""

    def score(self, item: Item[ProgramTests], completion: Completion) -> Reward:
        return Reward(float("passed" in completion.text))


def test_a_sum_is_weighted_and_every_value_is_kept() -> None:
    composed = Composition(
        [
            Component("format", ThinkFormat(), "gate"),
            Component("honest", QuotesNoGrader(), "gate"),
            Component("right", MathVerifier(), weight=2.0),
            Component("repetition", Repetition(n=1), "shaping", weight=0.5),
        ]
    )
    reward = composed.score(SIX, RIGHT)
    assert (reward.value, reward.answer) == (2.0, "6")
    assert reward.parts == {"format": 1.0, "honest": 1.0, "right": 1.0, "repetition": 0.0}
    again = composed.score(SIX, Completion(RIGHT.text, (1, 1, 1, 1)))
    assert again.value == pytest.approx(2.0 - 0.5 * 0.75)


def test_a_shut_gate_leaves_nothing_of_a_right_answer() -> None:
    composed = Composition(
        [Component("format", ThinkFormat(), "gate"), Component("right", MathVerifier())], closed=-1.0
    )
    reward = composed.score(SIX, Completion("#### 6"))
    assert (reward.value, reward.parts) == (-1.0, {"format": 0.0})


def test_what_cannot_be_judged_is_none_for_correctness_and_left_out_for_shaping() -> None:
    shaping = Component("shape", Fixed(None), "shaping")
    assert Composition([Component("right", Fixed(1.0)), shaping]).score(SIX, RIGHT).value == 1.0
    other = Composition([Component("right", Fixed(1.0)), Component("also", Fixed(None))]).score(SIX, RIGHT)
    assert (other.value, other.parts) == (None, {"right": 1.0, "also": None})
    cut = Completion("#### 6", is_truncated=True)
    parts = [Component("right", MathVerifier())]
    assert Composition(parts).score(SIX, cut).value == 1.0
    assert Composition(parts, score_truncated=False).score(SIX, cut).value is None


def test_compositions_without_correctness_or_with_a_name_twice_are_refused() -> None:
    with pytest.raises(UserError, match="none for correctness"):
        Composition([Component("format", ThinkFormat(), "gate")])
    with pytest.raises(UserError, match="'a' is given twice"):
        Composition([Component("a", Fixed(1)), Component("a", Fixed(1))])


# -- canaries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verifier", [MathVerifier(), MathVerifier(lenient=True), CallVerifier(), EffectVerifier()]
)
def test_the_verifiers_of_this_package_reward_none_of_their_canaries(verifier: Verifier[Any]) -> None:
    assert GuardedReward(verifier).run_probes() == 0


def test_the_verifier_of_programs_rewards_none_of_its_canaries() -> None:
    try:
        verifier = CodeVerifier()
    except UserError as error:
        pytest.skip(str(error))
    assert GuardedReward(verifier).run_probes() == 0


def test_canaries_are_on_by_default_and_come_first_then_every_so_many_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[int] = []
    single = GuardedReward(ContainsGold(), probes=[("hole", ContainsGold(), probes.MATH_PROBES[0])])
    with pytest.raises(RewardHacked):
        single.score(SIX, RIGHT)
    guarded = GuardedReward(MathVerifier(), every=3)
    monkeypatch.setattr(guarded, "_is_probed", True)
    monkeypatch.setattr(guarded, "run_probes", lambda: runs.append(1) or 0)
    assert [reward.value for reward in guarded.score_batch([(SIX, RIGHT), (SIX, Completion("#### 7"))])] == [
        1.0,
        0.0,
    ]
    seen = [len(runs)]
    for _ in range(6):
        guarded.score_batch([])
        seen.append(len(runs))
    assert seen == [1, 1, 1, 2, 2, 2, 3]


def test_a_planted_hole_is_caught_before_the_first_batch_is_paid() -> None:
    math = [("hole", ContainsGold(), probe) for probe in probes.MATH_PROBES]
    with pytest.raises(RewardHacked, match="canary: hole gave 1 to 'empty-gold'") as caught:
        GuardedReward(ContainsGold(), probes=math).score_batch([(SIX, RIGHT)])
    assert caught.value.alarm.kind == "canary"
    code = [("hole", TrustsPrograms(), probe) for probe in probes.CODE_PROBES]
    alarms: list[Alarm] = []
    assert GuardedReward(TrustsPrograms(), probes=code, on_alarm=alarms.append).run_probes() == 2
    assert "forged-verdict" in alarms[0].what


def test_of_a_composition_the_parts_for_correctness_are_watched_and_formats_may_pay() -> None:
    composed = Composition(
        [
            Component("right", CosineLength(MathVerifier(), max_tokens=100)),
            Component("style", Fixed(1.0), "shaping", weight=0.1),
        ]
    )
    assert {name for name, _, _ in default_probes(composed)} == {"right"}
    assert GuardedReward(composed).run_probes() == 0


def test_a_verifier_without_known_canaries_needs_some() -> None:
    with pytest.raises(UserError, match="ContainsGold has no default canaries"):
        GuardedReward(ContainsGold())
    with pytest.raises(UserError, match="every is 0"):
        GuardedReward(MathVerifier(), every=0)


def test_a_canary_prompt_is_never_paid_and_raises_the_alarm_when_the_policy_gets_through() -> None:
    canary = Item("impossible", "no such answer", is_canary=True)
    alarms: list[Alarm] = []
    watched = Composition([Component("hole", ContainsGold()), Component("style", Fixed(0.1), "shaping")])
    guarded = GuardedReward(watched, probes=[("hole", Fixed(0.0), probes.MATH_PROBES[0])], on_alarm=alarms.append)
    assert guarded.score(canary, Completion("I give up")).value is None
    assert alarms == []
    assert guarded.score(canary, Completion("There is no such answer")).value is None
    assert [alarm.kind for alarm in alarms] == ["canary prompt"]
    assert "'impossible'" in alarms[0].what
