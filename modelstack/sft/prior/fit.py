"""Fit of the decision prior: a few numbers, by maximum likelihood on held-back examples.

With p0 the probability of an abstention, s the lexical scores of tools and S the highest of them
(`decision_masses`), the prior changes two decisions:

    odds of abstaining = p0 / (1 - p0) * exp(b - w S)
    if not abstaining: p'(tool) ~ p(tool) exp(w (s - S))

`toolcalls.choice.ToolBias` applies the same to a reply. There and here, a group of tools has the score of its best
tool. For a given w, the most likely b is the intercept of a logistic regression, found by Newton's method. The
weight w is found by search, because the limit on wrong abstentions makes the likelihood non-smooth. Three other
decisions are fitted separately:

- another call (`toolcalls.another_call`): logistic regression on evidence from the request;
- one more optional parameter (`toolcalls.optional_keys`): logistic regression on evidence from the request;
- a value that copies from the request (`toolcalls.copying`): an intercept.

This file does not need torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.sft.prior.exact_calls import share_interval
from modelstack.sft.prior.masses import Asked, GoesOn, Mass, Origin
from modelstack.toolcalls.prior.choice import NO_TOOL
from modelstack.toolcalls.prior.copying import ValueKind
from modelstack.toolcalls.prior.lexical import (
    CALL_EVIDENCE,
    KEY_EVIDENCE,
    LARGEST_WEIGHT,
    CopyDecisions,
    CountDecisions,
    DecisionPrior,
    Decisions,
    EvidenceWeights,
    FittedOn,
    Share,
)

RIDGE = 1e-5
"""Coefficient of both squared numbers, in nats per example: keeps them finite if no example contradicts them."""
LEAST_MASS = 1e-6
"""Minimum probability of a choice, because the probabilities come from 32-bit numbers."""
EVIDENCE_RIDGE = 1e-3
"""Coefficient of the squared weights of evidence, of which some are rare."""
FEWEST = 30
"""Minimum number of examples with calls for a fit of two numbers."""
_MARGIN = 1e-3
"""Distance of the bias from the limit, so that rounding does not cause an abstention."""
_STEPS, _ZOOMS, _SHRINK = 101, 6, 0.1
"""Weights tried at once; number of refinements around the best weight; factor of the range for each refinement."""


def fit_prior(asked: Sequence[Asked], limit: float) -> tuple[float, float]:
    """Return the most likely lexical weight and bias of abstaining.

    Args:
        asked: Decisions of a model on held-back examples.
        limit: Maximum share of wrong abstentions among the examples with calls.

    Raises:
        UserError: `limit` is not from 0 to 1, there are too few examples with calls, or no example that abstains.
    """
    if not 0 <= limit <= 1:
        raise UserError(f"limit {limit} is not a share of examples: give a number from 0 to 1, such as 0.02")
    n_calls = sum(bool(each.right) for each in asked)
    if n_calls < FEWEST or n_calls == len(asked):
        raise UserError(
            f"{n_calls} examples with calls and {len(asked) - n_calls} abstentions: a fit needs at least {FEWEST} "
            "examples with calls and one abstention"
        )
    likelihood = _Likelihood(asked, limit)
    low, high, weight = 0.0, LARGEST_WEIGHT, 0.0
    for _ in range(1 + _ZOOMS):
        weights = np.linspace(low, high, _STEPS)
        losses = [likelihood.loss(w, likelihood.best_bias(w)) for w in weights.tolist()]
        weight = float(weights[int(np.argmin(losses))])
        reach = (high - low) / 2 * _SHRINK
        low, high = max(0.0, weight - reach), min(LARGEST_WEIGHT, weight + reach)
    return weight, likelihood.best_bias(weight)


def fitted(asked: Sequence[Asked], origin: Origin, limit: float) -> DecisionPrior:
    """Return the fitted prior, with its effect on the examples that it was fitted on.

    Args:
        asked: Decisions of a model on held-back examples.
        origin: Hashes of the files that the decisions come from.
        limit: Maximum share of wrong abstentions among the examples with calls.

    Raises:
        UserError: As for `fit_prior`.
    """
    weight, bias = fit_prior(asked, limit)
    call_weights, calls = fit_evidence([each for one in asked for each in one.another_call], CALL_EVIDENCE)
    key_weights, keys = fit_evidence([each for one in asked for each in one.optional_keys], KEY_EVIDENCE)
    text_bias, texts = fit_copying(asked, "text")
    number_bias, numbers = fit_copying(asked, "number")
    n_calls = sum(bool(each.right) for each in asked)
    return DecisionPrior(
        lexical_weight=weight,
        abstain_bias=bias,
        another_call=call_weights,
        copy_text_bias=text_bias,
        copy_number_bias=number_bias,
        optional_key=key_weights,
        fitted=FittedOn(
            n_calls=n_calls,
            n_abstentions=len(asked) - n_calls,
            **origin.model_dump(),
            wrong_abstention_limit=limit,
            before=decisions(asked, 0.0, 0.0),
            after=decisions(asked, weight, bias),
            another_call=calls,
            copy_text=texts,
            copy_number=numbers,
            optional_key=keys,
        ),
    )


def fit_evidence(
    decisions: Sequence[GoesOn], names: Sequence[str]
) -> tuple[EvidenceWeights | None, CountDecisions | None]:
    """Return the most likely weights of evidence for going on, and their effect; twice None without both kinds.

    A fit needs decisions of both kinds, those that go on and those that end. Letters: D decisions, W weights.

    Args:
        decisions: Decisions with evidence in the order of `names`.
        names: Names of the evidence.
    """
    goes_on_D = np.array([each.goes_on for each in decisions], dtype=np.bool_)
    if goes_on_D.all() or not goes_on_D.any():
        return None, None
    log_odds_D = np.array([each.log_odds for each in decisions], dtype=np.float64)
    x_DW = np.array([(1.0, *each.evidence) for each in decisions], dtype=np.float64)
    weights_W = np.zeros(x_DW.shape[1])
    for _ in range(100):
        p_D = 1 / (1 + np.exp(-(log_odds_D + x_DW @ weights_W)))
        slope_W = x_DW.T @ (p_D - goes_on_D) / len(decisions) + 2 * EVIDENCE_RIDGE * weights_W
        curvature_WW = (x_DW * (p_D * (1 - p_D))[:, None]).T @ x_DW / len(decisions)
        step_W = np.linalg.solve(curvature_WW + 2 * EVIDENCE_RIDGE * np.eye(weights_W.size), slope_W)
        longest = float(np.abs(step_W).max())
        weights_W -= step_W * min(1.0, 1.0 / (longest + 1e-30))  # far from the optimum a Newton step overshoots
        if longest < 1e-10:
            break
    constant, *of_evidence = (float(w) for w in weights_W)
    weights = EvidenceWeights(constant=constant, weights=dict(zip(names, of_evidence, strict=True)))
    before, after = log_odds_D, log_odds_D + x_DW @ weights_W
    right_before, right_after = (_share(np.where(goes_on_D, odds, -odds) > 0) for odds in (before, after))
    assert right_before is not None and right_after is not None  # there are decisions of both kinds
    return weights, CountDecisions(
        n_goes_on=int(goes_on_D.sum()), n_ends=int((~goes_on_D).sum()),
        right_before=right_before, right_after=right_after,
        log_loss_before=_log_loss(goes_on_D, before), log_loss_after=_log_loss(goes_on_D, after),
    )  # fmt: skip


def fit_copying(asked: Sequence[Asked], kind: ValueKind) -> tuple[float, CopyDecisions | None]:
    """Return the most likely bias of copying for a kind of values, and its effect; 0, None without such values."""
    copies = [copy for each in asked for copy in each.copies if copy.kind == kind]
    if not copies:
        return 0.0, None
    is_copy = np.array([copy.is_copy for copy in copies], dtype=np.bool_)
    mass = np.clip(np.array([copy.mass for copy in copies]), LEAST_MASS, 1 - LEAST_MASS)
    log_odds = np.log(mass) - np.log1p(-mass)
    bias = _intercept(is_copy, log_odds)
    return bias, CopyDecisions(
        n=len(copies), n_copies=int(is_copy.sum()),
        log_loss_before=_log_loss(is_copy, log_odds), log_loss_after=_log_loss(is_copy, log_odds + bias),
    )  # fmt: skip


def _intercept(is_true: NDArray[np.bool_], log_odds: NDArray[np.float64]) -> float:
    """Return the number that, added to all log-odds, makes the answers most likely."""
    low, high = -LARGEST_WEIGHT, LARGEST_WEIGHT
    while high - low > 1e-9:  # bisection: the slope of the loss grows with the bias
        bias = (low + high) / 2
        slope = float((1 / (1 + np.exp(-(log_odds + bias))) - is_true).mean()) + 2 * RIDGE * bias
        low, high = (low, bias) if slope > 0 else (bias, high)
    return (low + high) / 2


def _log_loss(is_true: NDArray[np.bool_], log_odds: NDArray[np.float64]) -> float:
    return float(np.logaddexp(0.0, np.where(is_true, -log_odds, log_odds)).mean())


def decisions(asked: Sequence[Asked], weight: float, bias: float) -> Decisions:
    """Return the decisions of a greedy decoder with these two numbers.

    Within a group of tools that the model did not distinguish, the tool with the best lexical score is taken.
    """
    likelihood = _Likelihood(asked)
    abstains = likelihood.margins(weight) < bias
    calls = likelihood.calls_E
    right = likelihood.calls_rightly(weight) & ~abstains
    return Decisions(
        right_tool=_share(right[calls]),
        wrong_abstention=_share(abstains[calls]),
        right_abstention=_share(abstains[~calls]),
        log_loss=likelihood.loss(weight, bias, ridge=0.0),
    )


def lines(prior: DecisionPrior) -> Iterator[str]:
    """Yield the report of a fit, line by line."""
    yield f"lexical weight {prior.lexical_weight:.3f}, bias of abstaining {prior.abstain_bias:+.3f}"
    fit = prior.fitted
    if fit is None:
        return
    yield f"fitted on {fit.n_calls} examples with calls and {fit.n_abstentions} abstentions; before and after:"
    for name in ("right_tool", "wrong_abstention", "right_abstention"):
        before, after = getattr(fit.before, name), getattr(fit.after, name)
        yield f"  {name.replace('_', ' ')}: {_shown(before, after)}"
    yield f"  log-loss: {fit.before.log_loss:.4f}, {fit.after.log_loss:.4f}"
    for what, weights, count in (
        ("another call", prior.another_call, fit.another_call),
        ("one more optional parameter", prior.optional_key, fit.optional_key),
    ):
        if weights is not None and count is not None:
            said = ", ".join(f"{name} {weight:+.2f}" for name, weight in weights.weights.items())
            yield f"{what}: constant {weights.constant:+.2f}, {said}"
            yield f"  fitted on {count.n_goes_on} decisions for one and {count.n_ends} against; before and after:"
            yield f"  right: {_shown(count.right_before, count.right_after)}"
            yield f"  log-loss: {count.log_loss_before:.4f}, {count.log_loss_after:.4f}"
    for kind, bias, copy in (
        ("text", prior.copy_text_bias, fit.copy_text),
        ("number", prior.copy_number_bias, fit.copy_number),
    ):
        if copy is not None:
            yield f"bias of copying, {kind} {bias:+.3f}, fitted on {copy.n} tokens, of which {copy.n_copies} copy"
            yield f"  log-loss, before and after: {copy.log_loss_before:.4f}, {copy.log_loss_after:.4f}"


class _Likelihood:
    """Examples as arrays, and their likelihood.

    Letters: E examples; G groups of tools with probability, of all examples in a row.
    """

    def __init__(self, asked: Sequence[Asked], limit: float = 1.0) -> None:
        """Index the examples."""
        self.n = len(asked)
        self.calls_E = np.array([bool(each.right) for each in asked], dtype=np.bool_)
        none_E = np.array([sum(m.mass for m in each.masses if m.names == (NO_TOOL,)) for each in asked])
        none_E = np.clip(none_E, LEAST_MASS, 1 - LEAST_MASS)
        self.call_logit_E = np.log1p(-none_E) - np.log(none_E)
        self.best_E = np.array([max(each.scores.values()) for each in asked])
        self.n_allowed = math.floor(limit * int(self.calls_E.sum()) + 1e-9)
        groups = [_groups(each) for each in asked]
        sizes = np.array([len(of_one) for of_one in groups])
        self.starts_E = np.cumsum(sizes) - sizes
        self.log_mass_G, self.behind_G, self.is_right_G, self.leads_right_G = (
            np.array(column) for column in zip(*(group for of_one in groups for group in of_one), strict=True)
        )

    def margins(self, weight: float) -> NDArray[np.float64]:
        """Return the bias above which each example is an abstention, [E]."""
        return self.call_logit_E + weight * self.best_E

    def loss(self, weight: float, bias: float, ridge: float = RIDGE) -> float:
        """Return the negative log-likelihood of the right choices, in nats an example."""
        towards_call_E = self.margins(weight) - bias
        of_kind = np.logaddexp(0.0, np.where(self.calls_E, -towards_call_E, towards_call_E)).sum()
        value_G = self.log_mass_G - weight * self.behind_G
        all_E = np.logaddexp.reduceat(value_G, self.starts_E)
        right_E = np.logaddexp.reduceat(np.where(self.is_right_G, value_G, -np.inf), self.starts_E)
        of_tool = (all_E - np.maximum(right_E, math.log(LEAST_MASS)))[self.calls_E].sum()
        return float(of_kind + of_tool) / self.n + ridge * (weight**2 + bias**2)

    def calls_rightly(self, weight: float) -> NDArray[np.bool_]:
        """Return whether the tool that a greedy decoder would call is right, [E]."""
        value_G = self.log_mass_G - weight * self.behind_G
        of_each = np.split(np.arange(value_G.size), self.starts_E[1:])
        return np.array([self.leads_right_G[group[value_G[group].argmax()]] for group in of_each])

    def best_bias(self, weight: float) -> float:
        """Return the most likely bias that keeps the limit on wrong abstentions."""
        margins_E = self.margins(weight)
        bias = 0.0
        for _ in range(100):
            p_abstain_E = 1 / (1 + np.exp(margins_E - bias))
            slope = float((p_abstain_E - ~self.calls_E).mean()) + 2 * RIDGE * bias
            curvature = float((p_abstain_E * (1 - p_abstain_E)).mean()) + 2 * RIDGE
            step = max(-1.0, min(1.0, slope / curvature))  # far from the optimum a Newton step overshoots
            bias -= step
            if abs(step) < 1e-10:
                break
        of_calls = np.sort(margins_E[self.calls_E])
        if self.n_allowed < of_calls.size:
            bias = min(bias, float(of_calls[self.n_allowed]) - _MARGIN)
        return max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, bias))


def _groups(asked: Asked) -> list[tuple[float, float, bool, bool]]:
    """Return four values for each group with tools.

    - logarithm of its probability;
    - difference of the best score of all groups to its score;
    - whether it contains a right tool;
    - whether the tool with its best lexical score is right.
    """
    best = max(asked.scores.values())
    right = set(asked.right)
    found: list[tuple[float, float, bool, bool]] = []
    # If the abstention has all the probability, nothing is known about the tools.
    with_tools = [each for each in asked.masses if each.names != (NO_TOOL,)] or [_unknown(asked)]
    for each in with_tools:
        scores = {name: asked.scores[name] for name in each.names if name != NO_TOOL}
        score = max(scores.values())
        first = {name for name, value in scores.items() if value == score}
        log_mass = math.log(max(each.mass, LEAST_MASS))
        found.append((log_mass, best - score, bool(right & set(scores)), first <= right))
    return found


def _unknown(asked: Asked) -> Mass:
    return Mass(names=tuple(asked.scores), mass=0.0)


def _share(flags: NDArray[np.bool_]) -> Share | None:
    n, n_true = flags.size, int(flags.sum())
    if n == 0:
        return None
    low, high = share_interval(n_true, n)
    return Share(value=n_true / n, low=low, high=high, n=n)


def _shown(before: Share | None, after: Share | None) -> str:
    """Return two shares of the same examples with their intervals."""
    if before is None or after is None:
        return "none asked"
    both = ", ".join(f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})" for share in (before, after))
    return f"{both}, n = {after.n:,}"
