"""Canaries: completions that must not be rewarded, judged beside the training ones.

A *probe* is an item with a completion that is a known hack. Each verifier has its own probes, which show that it
still rejects them. A *canary prompt* is an impossible item among the training prompts; its completions are the
policy's, so a reward is a hack that the policy found. Such an item has `is_canary` and a gold that cannot be met
(`assert f(1) == 1 and False`). Both must get 0 or None. Any higher reward raises the alarm (`alarms`), which
stops the run by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.alarms import Alarm, OnAlarm, stop
from modelstack.reasoning.verifiers.composition import correctness_of
from modelstack.reasoning.verifiers.form_probes import FORM_PROBES
from modelstack.reasoning.verifiers.lengths import CosineLength
from modelstack.reasoning.verifiers.outcome_probes import OUTCOME_PROBES
from modelstack.reasoning.verifiers.outcomes import OutcomeVerifier
from modelstack.reasoning.verifiers.probes import PROBES, Probe
from modelstack.reasoning.verifiers.refusals import REFUSAL_PROBES, RefusalVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier

DEFAULT_EVERY = 50
"""Batches between two runs of the probes. The slowest probes, those of code, take some seconds."""


class GuardedReward:
    """Verifier guarded by canaries, used in training in place of the plain one."""

    def __init__(
        self,
        verifier: Verifier[Any],
        *,
        probes: Sequence[tuple[str, Verifier[Any], Probe]] | None = None,
        every: int = DEFAULT_EVERY,
        on_alarm: OnAlarm = stop,
    ) -> None:
        """Store the verifier and its probes.

        Args:
            verifier: Verifier used in training; in a `Composition` the components for correctness are probed.
            probes: Probes with the name and the verifier of each; None: `default_probes`.
            every: Batches between two runs of the probes; the first batch always has one.
            on_alarm: Handler of a finding; by default it raises.

        Raises:
            UserError: `every` is below 1, or there are no probes.
        """
        if every < 1:
            raise UserError(f"every is {every}; it counts batches, so it must be at least 1")
        self._verifier, self._every, self._on_alarm = verifier, every, on_alarm
        self._probes = default_probes(verifier) if probes is None else tuple(probes)
        if not self._probes:
            raise UserError(
                f"{type(verifier).__name__} has no default canaries; give probes: completions that it "
                "must not reward"
            )
        self._n_batches = 0
        self._is_probed = False

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the verifier's reward, or None for a canary prompt. The first call also runs the probes."""
        if not self._is_probed:
            self.run_probes()
        reward = self._verifier.score(item, completion)
        if not item.is_canary:
            return reward
        paid = {name: value for name, value in self._correctness(item, completion, reward).items() if value}
        if any(value > 0 for value in paid.values()):
            self._on_alarm(Alarm("canary prompt", f"{item.id!r} was rewarded: {paid}, {completion.text[:200]!r}"))
        return Reward(None, "a canary prompt", reward.answer, reward.parts)

    def score_batch(self, pairs: Sequence[tuple[Item[Any], Completion]]) -> list[Reward]:
        """Return the rewards of a batch, running the probes first if they are due."""
        if self._n_batches % self._every == 0:
            self.run_probes()
        self._n_batches += 1
        return [self.score(item, completion) for item, completion in pairs]

    def run_probes(self) -> int:
        """Judge every probe; return how many were rewarded, unless the alarm raised."""
        self._is_probed = True
        n_rewarded = 0
        for name, verifier, probe in self._probes:
            reward = verifier.score(probe.item, probe.completion())
            if reward.value is not None and reward.value > 0:
                n_rewarded += 1
                what = f"{name} gave {reward.value:g} to {probe.item.id!r} ({probe.why}): {reward.reason[:200]}"
                self._on_alarm(Alarm("canary", what))
        return n_rewarded

    def _correctness(self, item: Item[Any], completion: Completion, reward: Reward) -> dict[str, float | None]:
        names = [name for name, _ in correctness_of(self._verifier)]
        found = {name: reward.parts[name] for name in names if name in reward.parts}
        return found or {names[0]: reward.value}


def default_probes(verifier: Verifier[Any]) -> tuple[tuple[str, Verifier[Any], Probe], ...]:
    """Return the probes of a verifier, or of a composition's components for correctness."""
    found: list[tuple[str, Verifier[Any], Probe]] = []
    for name, part in correctness_of(verifier):
        judge = part.correctness if isinstance(part, CosineLength) else part
        kinds = (*PROBES, *FORM_PROBES, (OutcomeVerifier, OUTCOME_PROBES), (RefusalVerifier, REFUSAL_PROBES))
        known = [probes for kind, probes in kinds if isinstance(judge, kind)]
        found += [(name, judge, probe) for probes in known for probe in probes]
    return tuple(found)
