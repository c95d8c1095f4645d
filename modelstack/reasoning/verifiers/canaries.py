"""Canaries: completions that must not be rewarded, judged beside the training ones.

Two kinds. A *probe* is an item together with a completion that is a known hack; each verifier has its own, and
they show that the verifier still holds. A *canary prompt* is an impossible item among the training prompts; its
completions are the policy's, so a reward there is a hack that the policy found: give items `is_canary`, with a
gold that cannot be met (`assert f(1) == 1 and False`). Both are right at 0 or None; anything above raises the
alarm (`alarms`), which stops the run unless told otherwise.
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
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier

DEFAULT_EVERY = 50
"""Batches between two runs of the probes; the slowest, of code, take some seconds."""


class GuardedReward:
    """The reward of training, with its canaries: use it in a verifier's place."""

    def __init__(
        self,
        verifier: Verifier[Any],
        *,
        probes: Sequence[tuple[str, Verifier[Any], Probe]] | None = None,
        every: int = DEFAULT_EVERY,
        on_alarm: OnAlarm = stop,
    ) -> None:
        """Take what is guarded.

        Args:
            verifier: Of training; of a `Composition` the components for correctness are probed.
            probes: What is run, with the name of the verifier; the default ones (`default_probes`) if not given.
            every: Batches between two runs; the first batch always has one.
            on_alarm: What is done at a finding.

        Raises:
            UserError: `every` is below 1, or no probes are given and none are known.
        """
        if every < 1:
            raise UserError(f"every={every}: probes run with each batch at most, so it is at least 1")
        self._verifier, self._every, self._on_alarm = verifier, every, on_alarm
        self._probes = default_probes(verifier) if probes is None else tuple(probes)
        if not self._probes:
            raise UserError(
                f"no canaries are known for {type(verifier).__name__}; give some as probes: completions that it "
                "must not reward"
            )
        self._n_batches = 0
        self._is_probed = False

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the verifier's reward; a canary prompt's is never paid out. The first call runs the probes."""
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
        """Return the rewards of a batch, after the probes where it is their turn."""
        if self._n_batches % self._every == 0:
            self.run_probes()
        self._n_batches += 1
        return [self.score(item, completion) for item, completion in pairs]

    def run_probes(self) -> int:
        """Judge every probe, and return how many were rewarded, where the alarm did not stop it."""
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
        kinds = (*PROBES, *FORM_PROBES, (OutcomeVerifier, OUTCOME_PROBES))
        known = [probes for kind, probes in kinds if isinstance(judge, kind)]
        found += [(name, judge, probe) for probes in known for probe in probes]
    return tuple(found)
