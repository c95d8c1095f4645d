"""DPO and its relatives: losses on pairs with a reference model.

Definitions: c = log p(chosen) - log p_ref(chosen), j is the same for the rejected completion, and the margin is d
= c - j. With another divergence than the reverse KL, d is the difference of f'(c) and f'(j), see `divergences`.
N_c and N_r are the numbers of tokens, e is the label smoothing. Each formula gives one loss per pair, [B].

| name | source |
|---|---|
| sigmoid | DPO, Rafailov et al., 2305.18290 |
| cdpo | conservative DPO, Mitchell 2023: assumes that a share of labels is wrong |
| robust | 2403.00409: unbiased form of cdpo |
| hinge | SLiC, 2305.10425 |
| ipo, ipo_sum | IPO, 2310.12036: on token means, as in its authors' code; on sums, as in the paper |
| sigmoid_norm | Tulu 3, 2411.15124: DPO on token means |
| exo_pair | EXO, 2402.00856 equation 16 |
| nca_pair | NCA, 2402.05369 |
| bco_pair | BCO, 2404.04656, without its running shift |
| sppo_hard | SPPO, 2405.00675, with certain wins |
| aot, aot_unpaired | AOT, 2406.05882: order statistics of the batch, which should be large |
| apo_zero, apo_down | APO, 2408.06266 equations 7 and 8 |
| discopop | DiscoPOP, 2406.08414 equation 5 |
| sft | cross-entropy of the chosen completions |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.errors import UserError
from modelstack.preferences.direct_config import DirectLossConfig, DirectName
from modelstack.preferences.divergences import divergence_scores
from modelstack.preferences.pairs import Pairs, PreferenceLoss, logistic_loss, pair_metrics

NOT_BY_PAIR: frozenset[DirectName] = frozenset(("aot", "aot_unpaired", "sft"))
"""Losses of the whole batch, which have no value per pair and so cannot be weighted by pair."""


@dataclass(frozen=True, slots=True)
class LogRatios:
    """Inputs of the formulas; every tensor is [B]."""

    policy: Pairs
    reference: Pairs
    c: Tensor
    j: Tensor
    chosen_score: Tensor
    """Score f'(c) of the chosen completion; equal to c for the reverse KL."""
    rejected_score: Tensor

    @property
    def d(self) -> Tensor:
        """Margin d, [B]."""
        return self.chosen_score - self.rejected_score

    @property
    def d_per_token(self) -> Tensor:
        """Margin of the scores per token, [B]."""
        n_chosen, n_rejected = self.policy.n_chosen.clamp(min=1), self.policy.n_rejected.clamp(min=1)
        return self.chosen_score / n_chosen - self.rejected_score / n_rejected


def direct_loss(
    policy: Pairs, reference: Pairs, config: DirectLossConfig | None = None, weights_B: Tensor | None = None
) -> PreferenceLoss:
    """Return the weighted sum of the configured losses, each a mean over the pairs.

    Args:
        policy: Log-probabilities of the trained model, with gradient.
        reference: Log-probabilities of the frozen model on the same completions.
        config: Losses; None: DPO.
        weights_B: Weight of each pair, for example `wpo_weights`; None: 1.

    Raises:
        UserError: Weights were given for a loss that has no value per pair.
    """
    config = config or DirectLossConfig()
    if weights_B is not None and (unfit := [term.name for term in config.losses if term.name in NOT_BY_PAIR]):
        raise UserError(
            f"{', '.join(unfit)} has no loss per pair, so pairs cannot be weighted: remove the weights or the loss"
        )
    ratios = _log_ratios(policy, reference, config)
    loss = policy.chosen.new_zeros(())
    for term in config.losses:
        per_pair = DIRECT_LOSSES[term.name](ratios, config)
        loss = loss + term.weight * (per_pair if weights_B is None else weights_B * per_pair).mean()
    return PreferenceLoss(loss, pair_metrics(policy, config.beta * ratios.c, config.beta * ratios.j))


def sigmoid(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return log(1 + e^(-beta d)), which is -log of the sigmoid of beta d."""
    return -F.logsigmoid(config.beta * x.d)


def cdpo(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)."""
    return logistic_loss(config.beta * x.d, config.label_smoothing)


def robust(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return (-(1 - e) log sigmoid(beta d) + e log sigmoid(-beta d)) / (1 - 2 e)."""
    e, z = config.label_smoothing, config.beta * x.d
    return (-(1 - e) * F.logsigmoid(z) + e * F.logsigmoid(-z)) / (1 - 2 * e)


def hinge(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return max(0, 1 - beta d)."""
    return F.relu(1 - config.beta * x.d)


def ipo(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return (c / N_c - j / N_r - 1 / (2 beta))^2."""
    return (x.d_per_token - 1 / (2 * config.beta)).square()


def ipo_sum(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return (d - 1 / (2 beta))^2."""
    return (x.d - 1 / (2 * config.beta)).square()


def sigmoid_norm(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return -log sigmoid(beta (c / N_c - j / N_r))."""
    return -F.logsigmoid(config.beta * x.d_per_token)


def exo_pair(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return the KL of (sigmoid(beta d), sigmoid(-beta d)) to the labels (1 - e, e)."""
    z, labels = config.beta * x.d, x.d.new_tensor([1 - config.label_smoothing, config.label_smoothing])
    log_q = torch.stack((F.logsigmoid(z), F.logsigmoid(-z)), dim=-1)
    return (log_q.exp() * (log_q - labels.log())).sum(-1)


def nca_pair(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return -log sigmoid(beta c) - log sigmoid(-beta c) / 2 - log sigmoid(-beta j) / 2."""
    c, j = config.beta * x.c, config.beta * x.j
    return -F.logsigmoid(c) - 0.5 * F.logsigmoid(-c) - 0.5 * F.logsigmoid(-j)


def bco_pair(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return -log sigmoid(beta c) - log sigmoid(-beta j)."""
    return -F.logsigmoid(config.beta * x.c) - F.logsigmoid(-config.beta * x.j)


def sppo_hard(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return (c - 1 / (2 beta))^2 + (j + 1 / (2 beta))^2."""
    return (x.c - 0.5 / config.beta).square() + (x.j + 0.5 / config.beta).square()


def aot(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return cdpo of sorted(x) - sorted(x_ref) with x = log p(chosen) - log p(rejected), in place of d."""
    policy = (x.policy.chosen - x.policy.rejected).sort().values
    reference = (x.reference.chosen - x.reference.rejected).sort().values
    return logistic_loss(config.beta * (policy - reference), config.label_smoothing)


def aot_unpaired(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return cdpo of sorted(c) - sorted(j) in place of d."""
    return logistic_loss(config.beta * (x.c.sort().values - x.j.sort().values), config.label_smoothing)


def apo_zero(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return 1 - sigmoid(beta c) + sigmoid(beta j): for chosen replies better than the model's current ones."""
    return 1 - torch.sigmoid(config.beta * x.c) + torch.sigmoid(config.beta * x.j)


def apo_down(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return sigmoid(beta c) + 1 - sigmoid(beta d): for chosen replies worse than the model's current ones."""
    return torch.sigmoid(config.beta * x.c) + 1 - torch.sigmoid(config.beta * x.d)


def discopop(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return (1 - mu) (-log sigmoid(z)) + mu e^-z with z = beta d, mu = sigmoid(z / tau)."""
    z = config.beta * x.d
    mu = torch.sigmoid(z / config.discopop_tau)
    return (1 - mu) * -F.logsigmoid(z) + mu * (-z).exp()


def sft(x: LogRatios, config: DirectLossConfig) -> Tensor:
    """Return the token mean of -log p over the chosen completions of the batch, a scalar."""
    return x.policy.chosen_nll


DIRECT_LOSSES: dict[DirectName, Callable[[LogRatios, DirectLossConfig], Tensor]] = {
    "sigmoid": sigmoid,
    "cdpo": cdpo,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "ipo_sum": ipo_sum,
    "sigmoid_norm": sigmoid_norm,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
    "sft": sft,
}
"""Formula of each name. A new loss needs one function above, one line here and its name in `DirectName`."""


def _log_ratios(policy: Pairs, reference: Pairs, config: DirectLossConfig) -> LogRatios:
    c = policy.chosen - reference.chosen.detach()
    j = policy.rejected - reference.rejected.detach()
    scores = (divergence_scores(ratio, config.divergence, config.divergence_alpha) for ratio in (c, j))
    return LogRatios(policy, reference, c, j, *scores)
