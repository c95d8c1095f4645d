"""The named algorithms: each is a frozen declaration of advantages, surrogate, ratio, aggregation and KL term.

A recipe names an algorithm and may set its numbers (clip range, cap, temperatures, KL coefficient). The name
fixes everything else, and a contradicting key is an error (`configured`). To add an algorithm, add a row.

On policy (ratio 1) many of them have parallel gradients. They then differ in their advantages, and when several
optimizer steps use the same rollout. `python -m evals.post_training.off_policy_gradients` prints how far apart
they are on a fixed batch. GSPO-token (2507.18071, section 4.3) has no row: with one advantage per reply its
gradient equals that of GSPO by definition.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from modelstack.errors import reason_of
from modelstack.reasoning.losses.policy_config import (
    Cispo,
    Clip,
    KlTerm,
    PolicyConfig,
    ProbabilityMask,
    Reinforce,
    Sapo,
    Vespo,
)

AlgorithmName = Literal[
    "grpo",
    "bnpo",
    "dapo",
    "dr_grpo",
    "gspo",
    "cispo",
    "sapo",
    "vespo",
    "luspo",
    "rloo",
    "reinforce",
    "prime_rl",
    "ppo",
]

_SEQUENCE_CLIP = Clip(epsilon_low=3e-4, epsilon_high=4e-4)
"""Clip range of GSPO: ratios averaged over a reply vary much less than ratios of single tokens."""

GRPO = PolicyConfig(kl=KlTerm(coefficient=0.04))
"""DeepSeekMath, 2402.03300: rewards normalised within a prompt's replies, PPO's clip, the mean over each reply's
tokens and then over replies, and k3 as a term of the loss. R1: 2501.12948."""

BNPO = PolicyConfig(aggregation="prompt_token_mean")
"""Loss type `bnpo` of TRL: GRPO with tokens averaged over a prompt's replies, then over prompts. TRL averages
over a device's batch, which here is the replies to one prompt. The paper with this name (2506.02864) describes
something else: rewards normalised by a Beta distribution."""

DAPO = PolicyConfig(surrogate=Clip(epsilon_high=0.28), aggregation="token_mean")
"""DAPO, 2503.14476: a clip with a wider upper bound, the mean over all tokens of the step, no KL term. Its other
parts are recipe keys: `sampling.refill` (dynamic sampling), `sampling.mask_truncated`, and the verifier's length
penalty."""

DR_GRPO = PolicyConfig(advantage="group_centred", aggregation="constant")
"""Dr. GRPO, 2503.20783: GRPO without its two biased divisors, the deviation of a group's rewards and the length
of a reply."""

GSPO = PolicyConfig(surrogate=_SEQUENCE_CLIP, ratio="sequence_mean")
"""GSPO, 2507.18071 section 4.1: clips the ratio of a whole reply to the power of 1 / length."""

CISPO = PolicyConfig(surrogate=Cispo(), aggregation="token_mean")
"""MiniMax-M1, 2506.13585: a token's weight is capped and held constant, so every token keeps its gradient; the
mean over all tokens."""

SAPO = PolicyConfig(surrogate=Sapo())
"""SAPO, 2511.20347: a sigmoid of the ratio instead of a clip, steeper for negative advantages."""

VESPO = PolicyConfig(surrogate=Vespo(), aggregation="token_mean")
"""VESPO, 2602.10693: a gamma weight of the whole reply's ratio to the sampling policy, held constant."""

LUSPO = PolicyConfig(surrogate=_SEQUENCE_CLIP, ratio="sequence_mean", aggregation="sequence_sum")
"""LUSPO, 2602.05261: GSPO with replies weighted by their length."""

RLOO = PolicyConfig(
    advantage="leave_one_out",
    ratio="sequence_sum",
    kl=KlTerm(coefficient=0.05, place="reward", estimator="k1"),
)
"""RLOO, 2402.14740: a reply's reward minus the mean of the other replies' rewards, the reply as one action, and
the KL subtracted from the reward. Clip and coefficient are TRL's."""

REINFORCE = PolicyConfig(
    advantage="group_centred",
    surrogate=Reinforce(),
    aggregation="token_mean",
    kl=KlTerm(place="reward", estimator="k1"),
)
"""Williams (1992) with the group mean as baseline, as in nanochat. There is no ratio, so each rollout is used
for one optimizer step only; the mean over all tokens."""

PRIME_RL = PolicyConfig(
    advantage="group_centred",
    surrogate=ProbabilityMask(),
    old_policy="sampler",
    aggregation="token_mean",
)
"""Default loss of prime-rl (DPPO, 2602.04879): ratios to the sampler's own log-probabilities. Tokens whose
probability moved too far are dropped, and every token pays a penalty on its squared log ratio."""

PPO = PolicyConfig(
    advantage="critic",
    aggregation="token_mean",
    kl=KlTerm(place="reward", estimator="k1"),
)
"""Schulman et al., 1707.06347: the clip, with token advantages from a critic (`gae`). The recipe of `modelstack
ppo` has the KL coefficient in its own table."""

ALGORITHMS: dict[AlgorithmName, PolicyConfig] = {
    "grpo": GRPO,
    "bnpo": BNPO,
    "dapo": DAPO,
    "dr_grpo": DR_GRPO,
    "gspo": GSPO,
    "cispo": CISPO,
    "sapo": SAPO,
    "vespo": VESPO,
    "luspo": LUSPO,
    "rloo": RLOO,
    "reinforce": REINFORCE,
    "prime_rl": PRIME_RL,
    "ppo": PPO,
}


def configured(name: AlgorithmName, values: Mapping[str, Any]) -> PolicyConfig:
    """Return an algorithm with the numbers of a recipe filled in.

    Args:
        name: The algorithm.
        values: Table `policy` of the recipe: `surrogate` with the numbers of the algorithm's surrogate, `kl`
            with its coefficient. A key that repeats the algorithm's own value is allowed.

    Raises:
        ValueError: A key contradicts the algorithm, does not belong to it, or has a value that is not allowed.
    """
    content = _declared(name)
    own = dict(_leaves(content))
    for key, value in _leaves(values):
        if key not in own:
            raise ValueError(_unknown(key, name, own))
        if not _is_number(key) and value != own[key]:
            raise ValueError(_contradiction(key, value, name, own[key]))
        *tables, last = key.split(".")
        place = content
        for table in tables:
            place = place[table]
        place[last] = value
    try:
        return PolicyConfig.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"] if part != content["surrogate"]["name"])
        raise ValueError(f"policy.{where} of algorithm = {name!r}: {reason_of(fault)}") from error


def _declared(name: AlgorithmName) -> dict[str, Any]:
    return ALGORITHMS[name].model_dump(exclude={"max_completion_tokens"})


def _leaves(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _is_number(key: str) -> bool:
    """Return whether a recipe may set a key without changing which algorithm it is."""
    return key == "kl.coefficient" or (key.startswith("surrogate.") and key != "surrogate.name")


def _unknown(key: str, name: AlgorithmName, own: Mapping[str, Any]) -> str:
    numbers = [f"policy.{each}" for each in own if _is_number(each)]
    others = [other for other in ALGORITHMS if key in dict(_leaves(_declared(other)))]
    fix = f"; algorithms that have it: {', '.join(others)}" if others else ""
    nearest = difflib.get_close_matches(f"policy.{key}", numbers, n=1, cutoff=0)
    return (
        f"policy.{key} is not a key of algorithm = {name!r}{fix}. Nearest: {''.join(nearest)}; "
        f"all keys: {', '.join(numbers)}"
    )


def _contradiction(key: str, value: Any, name: AlgorithmName, own: Any) -> str:
    others = [other for other in ALGORITHMS if dict(_leaves(_declared(other))).get(key) == value]
    fix = f", or take an algorithm that has it: {', '.join(others)}" if others else ""
    return (
        f"policy.{key} = {value!r} contradicts algorithm = {name!r}, which fixes it to {own!r}: leave "
        f"the key out{fix}"
    )
