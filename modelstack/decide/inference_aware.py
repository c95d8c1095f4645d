"""Cheapest model over its lifetime: training plus served tokens.

Sardana and Frankle (arXiv 2401.00448) minimise 6 N D + 2 N D_served subject to L(N, D) = l: a smaller model on
more tokens reaches the same loss and serves each token for less. In money, each term has its own price per FLOP:
the device's price divided by peak times utilisation. Prompt processing uses a device far better than decoding. The
rates only weight served tokens against training, so the priced form equals the FLOP form with W = (rate_prompt
D_prompt + rate_output D_output) / rate_training for D_served.

On the curve of equal loss D = (B / r)^(1 / beta), r = l - E - A N^-alpha, the derivative of 6 N D + 2 N W is 6 D
(1 - (alpha / beta) A N^-alpha / r) + 2 W. Between the smallest size that reaches l and the compute-optimal size,
the bracket is negative and increasing, and its product with D increases too. There is thus a single root, found by
bisection. The inverse problem, the least loss at a given cost, has a single root as well.

Letters: N parameters, D training tokens, W weighted served tokens, l loss, K cost in training FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from modelstack.decide.scaling_laws import FLOPS_PER_PARAMETER_AND_TOKEN, Allocation, ScalingLaw
from modelstack.errors import UserError

FLOPS_PER_SERVED_TOKEN = 2
"""FLOPs per parameter of the forward pass."""
_HALVINGS = 200


@dataclass(frozen=True, slots=True)
class Demand:
    """Tokens served over a model's lifetime."""

    prompt_tokens: float = 0
    output_tokens: float = 0

    def __post_init__(self) -> None:
        """Validate the numbers.

        Raises:
            UserError: A number is negative.
        """
        for name in ("prompt_tokens", "output_tokens"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} {getattr(self, name):g} must be at least 0")

    @property
    def total(self) -> float:
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Rates:
    """Cost of one FLOP in training, prompt processing and decoding, in `unit`."""

    training: float = 1
    prompt: float = 1
    output: float = 1
    unit: str = "FLOP"

    def __post_init__(self) -> None:
        """Validate the rates.

        Raises:
            UserError: A rate is not above 0.
        """
        for name in ("training", "prompt", "output"):
            if not getattr(self, name) > 0:
                raise UserError(f"the rate of {name} FLOPs {getattr(self, name):g} must be above 0")

    def weighed(self, demand: Demand) -> float:
        """Return W: the number of tokens that cost as much at the training rate as the demand at its own rates."""
        return (self.prompt * demand.prompt_tokens + self.output * demand.output_tokens) / self.training

    def training_cost(self, allocation: Allocation) -> float:
        """Return the cost of training."""
        return self.training * allocation.training_flops

    def serving_cost(self, n_parameters: float, demand: Demand) -> float:
        """Return the cost of all served tokens."""
        return self.training * FLOPS_PER_SERVED_TOKEN * n_parameters * self.weighed(demand)

    def total_cost(self, allocation: Allocation, demand: Demand) -> float:
        """Return the cost of training and of all served tokens."""
        return self.training_cost(allocation) + self.serving_cost(allocation.n_parameters, demand)


FLOP_RATES = Rates()


def cheapest_for_loss(law: ScalingLaw, loss: float, demand: Demand, rates: Rates = FLOP_RATES) -> Allocation:
    """Return the size and tokens that reach a loss at the lowest cost of training and serving.

    Raises:
        UserError: No model reaches the loss, or the demand is too large for the law.
    """
    largest = law.optimum_for_loss(loss)
    W = rates.weighed(demand)
    if W == 0:
        return largest

    def slope(log_n: float) -> float:
        """Return a value with the sign of the derivative, divided by 6."""
        by_size = law.A * math.exp(-law.alpha * log_n)
        left = loss - law.E - by_size
        D = (law.B / left) ** (1 / law.beta)
        return D * (1 - law.alpha / law.beta * by_size / left) + W / 3

    # Just above the smallest size, D exceeds any demand, so the slope is negative there.
    low = math.log(law.smallest_size(loss)) + 1e-12
    if slope(low) >= 0:
        raise UserError(f"a demand of {W:g} weighted tokens is beyond the range of this law; plan for fewer")
    n_parameters = math.exp(_root(slope, low, math.log(largest.n_parameters)))
    return Allocation(n_parameters, law.tokens_for(loss, n_parameters))


def best_for_cost(law: ScalingLaw, cost: float, demand: Demand, rates: Rates = FLOP_RATES) -> Allocation:
    """Return the size and tokens of lowest loss whose training and serving together cost `cost`.

    Raises:
        UserError: The cost is not above 0.
    """
    if not cost > 0:
        raise UserError(f"a budget of {cost:g} {rates.unit} must be above 0")
    K, W = cost / rates.training, rates.weighed(demand)
    if W == 0:
        return law.optimum(K)

    def slope(log_n: float) -> float:
        """Return the log ratio of the marginal benefit of data to that of size."""
        N = math.exp(log_n)
        by_data = math.log(law.beta * law.B * K / 6) - (law.beta + 1) * math.log(_tokens_left(K, W, N)) - log_n
        return by_data - math.log(law.alpha * law.A) + law.alpha * log_n

    high = math.log(K / (FLOPS_PER_SERVED_TOKEN * W))
    n_parameters = math.exp(_root(slope, high - 100, high - 1e-12))
    return Allocation(n_parameters, _tokens_left(K, W, n_parameters))


def tokens_for_cost(n_parameters: float, cost: float, demand: Demand, rates: Rates = FLOP_RATES) -> float:
    """Return the tokens that a model of this size can be trained on after the cost of serving.

    Raises:
        UserError: Serving alone exhausts the budget.
    """
    D = _tokens_left(cost / rates.training, rates.weighed(demand), n_parameters)
    if D <= 0:
        raise UserError(
            f"serving {demand.total:.3g} tokens with {n_parameters:.3g} parameters costs "
            f"{rates.serving_cost(n_parameters, demand):.3g} {rates.unit}, and the budget is {cost:.3g}: "
            f"nothing is left for training; take a smaller model or a larger budget"
        )
    return D


def _tokens_left(K: float, W: float, N: float) -> float:
    return (K - FLOPS_PER_SERVED_TOKEN * N * W) / (FLOPS_PER_PARAMETER_AND_TOKEN * N)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return the zero of an increasing function between `low` and `high`, to the last bit, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
