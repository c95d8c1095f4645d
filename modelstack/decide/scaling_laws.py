"""Loss as a function of model size and data, and the optimal use of a compute budget.

L(N, D) = E + A / N^alpha + B / D^beta with C = 6 N D (Hoffmann et al. 2022, arXiv 2203.15556, approach 3). The
constants printed there are rounded so much that they do not reproduce the paper's own models. The unrounded ones
in its TeX source and the refit of Besiroglu et al. 2024 (arXiv 2404.10102) do. All three are included, so that a
plan can show how much they disagree.

All were fitted on dense models of 70 M to 16 B parameters with large vocabularies, with N counting all parameters.

Letters: N parameters, D training tokens, C training FLOPs, G (alpha A / (beta B))^(1 / (alpha + beta)).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pydantic import BaseModel, Field

from modelstack.errors import UserError

FLOPS_PER_PARAMETER_AND_TOKEN = 6
"""Training FLOPs: two for the forward pass, four for the backward pass."""
FITTED_PARAMETERS = (70e6, 16e9)
"""Range of sizes in the published fits; outside it a law extrapolates."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """A model size with its number of training tokens."""

    n_parameters: float
    n_tokens: float

    @property
    def training_flops(self) -> float:
        """Training compute, 6 N D."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.n_parameters * self.n_tokens

    @property
    def tokens_per_parameter(self) -> float:
        """Ratio D / N."""
        return self.n_tokens / self.n_parameters


class ScalingLaw(BaseModel, frozen=True, extra="forbid"):
    """A fit of L(N, D), in nats per token."""

    name: str
    E: float = Field(ge=0)
    """Irreducible loss, independent of size and data."""
    A: float = Field(gt=0)
    B: float = Field(gt=0)
    alpha: float = Field(gt=0)
    beta: float = Field(gt=0)
    source: str

    @property
    def size_exponent(self) -> float:
        """Exponent a of N* ~ C^a; D* ~ C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, n_parameters: float, n_tokens: float) -> float:
        """Return the expected loss, nats per token.

        Raises:
            UserError: A number is not above 0.
        """
        _positive("n_parameters", n_parameters)
        _positive("n_tokens", n_tokens)
        return self.E + self.A * n_parameters**-self.alpha + self.B * n_tokens**-self.beta

    def optimum(self, training_flops: float) -> Allocation:
        """Return the size and tokens of lowest loss for C.

        Raises:
            UserError: C is not above 0.
        """
        _positive("training_flops", training_flops)
        product = training_flops / FLOPS_PER_PARAMETER_AND_TOKEN
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        n_parameters = G * product**self.size_exponent
        return Allocation(n_parameters, product / n_parameters)

    def optimum_of_size(self, n_parameters: float) -> Allocation:
        """Return the number of tokens for which a model of this size is compute-optimal.

        Raises:
            UserError: The size is not above 0.
        """
        _positive("n_parameters", n_parameters)
        # At the optimum both terms decrease equally per relative change: alpha A N^-alpha = beta B D^-beta.
        reducible = self.alpha / self.beta * self.A * n_parameters**-self.alpha
        return Allocation(n_parameters, (self.B / reducible) ** (1 / self.beta))

    def optimum_for_loss(self, loss: float) -> Allocation:
        """Return the size and tokens that reach a loss with the least training compute.

        Raises:
            UserError: No model reaches the loss.
        """
        if loss <= self.E:
            raise UserError(
                f"loss {loss:g} is not reachable under {self.name!r}: it never falls to E = {self.E:g}"
            )
        n_parameters = (self.A * (1 + self.alpha / self.beta) / (loss - self.E)) ** (1 / self.alpha)
        return Allocation(n_parameters, self.tokens_for(loss, n_parameters))

    def tokens_for(self, loss: float, n_parameters: float) -> float:
        """Return the number of tokens with which a model of this size reaches a loss.

        Raises:
            UserError: The model is too small for the loss.
        """
        _positive("n_parameters", n_parameters)
        reducible = loss - self.E - self.A * n_parameters**-self.alpha
        if reducible <= 0:
            raise UserError(
                f"{n_parameters:.3g} parameters never reach loss {loss:g} under {self.name!r}; "
                f"at least {self.smallest_size(loss):.3g} are needed"
            )
        return (self.B / reducible) ** (1 / self.beta)

    def smallest_size(self, loss: float) -> float:
        """Return the size that reaches a loss with unlimited data; infinity if none does."""
        return (self.A / (loss - self.E)) ** (1 / self.alpha) if loss > self.E else float("inf")

    def extrapolates(self, n_parameters: float) -> bool:
        """Return whether a size lies outside the range of the published fits."""
        return not FITTED_PARAMETERS[0] <= n_parameters <= FITTED_PARAMETERS[1]


HOFFMANN_PRINTED = ScalingLaw(
    name="hoffmann-printed",
    E=1.69,
    A=406.4,
    B=410.7,
    alpha=0.34,
    beta=0.28,
    source="Hoffmann et al. 2022, arXiv 2203.15556, eq. 10: approach 3 as printed",
)
HOFFMANN = ScalingLaw(
    name="hoffmann",
    E=1.6934,
    A=406.4,
    B=410.7,
    alpha=0.3392,
    beta=0.2849,
    source="the same, unrounded in its TeX source, as quoted by Besiroglu et al. 2024",
)
BESIROGLU = ScalingLaw(
    name="besiroglu",
    E=1.8172,
    A=482.01,
    B=2085.43,
    alpha=0.3478,
    beta=0.3658,
    source="Besiroglu et al. 2024, arXiv 2404.10102: refit of Hoffmann's runs",
)
LAWS: dict[str, ScalingLaw] = {law.name: law for law in (BESIROGLU, HOFFMANN, HOFFMANN_PRINTED)}


def find_law(name: str, own: ScalingLaw | None = None) -> ScalingLaw:
    """Return a law by name; `own` is an additional choice.

    Raises:
        UserError: The name is unknown.
    """
    laws = LAWS | ({own.name: own} if own else {})
    if name not in laws:
        nearest = difflib.get_close_matches(name, laws, n=1, cutoff=0)[0]
        raise UserError(f"scaling law {name!r} is not known; nearest: {nearest!r}. All: {', '.join(laws)}")
    return laws[name]


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"{name} {value:g} must be above 0")
