"""Policy loss on sampled completions: surrogate, sampler correction, KL term and aggregation.

`algorithms` declares GRPO, DAPO, Dr. GRPO, GSPO, CISPO, SAPO, VESPO, LUSPO, RLOO, REINFORCE, prime-rl and PPO.
The formulas are in `ratios`, `surrogates`, `kl` and `aggregation`.

Letters: B completions, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.reasoning.losses.aggregation import aggregate
from modelstack.reasoning.losses.kl import kl_estimate
from modelstack.reasoning.losses.policy_config import Cispo, Clip, PolicyConfig, ProbabilityMask
from modelstack.reasoning.losses.ratios import level_log_ratio
from modelstack.reasoning.losses.rollouts import PolicyLoss, Rollouts, StepTotals
from modelstack.reasoning.losses.surrogates import SURROGATES, USE_CORRECTION, SurrogateInput


def policy_loss(rollouts: Rollouts, config: PolicyConfig, totals: StepTotals | None = None) -> PolicyLoss:
    """Return the loss of an algorithm on a micro-batch.

    Args:
        rollouts: Completions of one micro-batch.
        config: Algorithm, e.g. `ALGORITHMS["dapo"]`.
        totals: Totals of the optimizer step; None: this batch is the whole step.

    Raises:
        UserError: The algorithm has a KL term, and the rollouts have no reference log-probabilities.
    """
    mask_BT = rollouts.mask_BT.bool()
    x = _surrogate_input(rollouts, config, mask_BT)
    loss = SURROGATES[config.surrogate.name](x, config.surrogate)
    if x.correction is not None and config.surrogate.name not in USE_CORRECTION:
        loss = loss * x.correction
    metrics = _metrics(x, config, rollouts.entropy_BT)
    if config.has_kl_loss:
        kl_BT = _kl(rollouts, config, x)
        loss = loss + config.kl.coefficient * kl_BT
        metrics["kl"] = _masked_mean(kl_BT, mask_BT)
    loss = aggregate(
        loss, mask_BT, config.aggregation, max_completion_tokens=config.max_completion_tokens, totals=totals
    )
    return PolicyLoss(loss, {name: value.detach() for name, value in metrics.items()})


def _surrogate_input(rollouts: Rollouts, config: PolicyConfig, mask_BT: Tensor) -> SurrogateInput:
    log_probs_BT = rollouts.log_probs_BT.where(mask_BT, 0)
    old_BT = log_probs_BT if rollouts.old_log_probs_BT is None else rollouts.old_log_probs_BT.where(mask_BT, 0)
    log_ratio_BT = log_probs_BT - old_BT.detach()
    ratio = level_log_ratio(log_ratio_BT, mask_BT, config.ratio).exp()
    A = rollouts.advantages.detach()
    A = A[:, None] if A.dim() == 1 else A.where(mask_BT, 0)
    correction = rollouts.correction
    if correction is not None and correction.shape == mask_BT.shape:
        correction = correction.where(mask_BT, 1)
    return SurrogateInput(log_probs_BT, log_ratio_BT, ratio, A, mask_BT, correction)


def _kl(rollouts: Rollouts, config: PolicyConfig, x: SurrogateInput) -> Tensor:
    if rollouts.ref_log_probs_BT is None:
        raise UserError("the algorithm has a KL term: give ref_log_probs_BT, or set kl.coefficient = 0")
    ref_BT = rollouts.ref_log_probs_BT.where(x.mask_BT, 0)
    kl_BT = kl_estimate(x.log_probs_BT, ref_BT, config.kl.estimator)
    return kl_BT * x.ratio if config.kl.importance_corrected else kl_BT


@torch.no_grad()
def _metrics(x: SurrogateInput, config: PolicyConfig, entropy_BT: Tensor | None) -> dict[str, Tensor]:
    """Return the distance between policy and old policy, and the share of clipped or dropped tokens.

    `approx_kl` estimates KL(old, new) in nats per token. Ratios are at the algorithm's level.
    """
    r, A, surrogate = x.ratio, x.advantages, config.surrogate
    r_BT = r.expand(x.mask_BT.shape).where(x.mask_BT, 1)
    metrics = {
        "approx_kl": _masked_mean(torch.expm1(x.token_log_ratio_BT) - x.token_log_ratio_BT, x.mask_BT),
        "ratio/mean": _masked_mean(r, x.mask_BT),
        "ratio/min": r_BT.amin(),
        "ratio/max": r_BT.amax(),
    }
    if entropy_BT is not None:
        metrics["entropy"] = _masked_mean(entropy_BT, x.mask_BT)
    if isinstance(surrogate, Clip):
        low, high = (r < 1 - surrogate.epsilon_low) & (A < 0), (r > 1 + surrogate.epsilon_high) & (A > 0)
    elif isinstance(surrogate, Cispo):
        low, high = torch.zeros_like(r, dtype=torch.bool), (r > surrogate.ratio_cap) & (A > 0)
    elif isinstance(surrogate, ProbabilityMask):
        moved = x.log_probs_BT.exp() - (x.log_probs_BT - x.token_log_ratio_BT).exp()
        low, high = (A < 0) & (moved < -surrogate.low), (A > 0) & (moved > surrogate.high)
    else:
        return metrics
    shares = {"low_mean": low, "high_mean": high, "region_mean": low | high}
    return metrics | {f"clip_ratio/{name}": _masked_mean(at.float(), x.mask_BT) for name, at in shares.items()}


def _masked_mean(values: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over tokens, or over completions if each has a single value."""
    if values.shape[-1] == 1 != mask_BT.shape[-1]:
        return values.mean()
    return values.where(mask_BT, 0).sum() / mask_BT.sum().clamp(min=1)
